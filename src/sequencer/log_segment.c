/*-------------------------------------------------------------------------
 *
 * log_segment.c
 *	  Encodes and decodes runs of the log; log_segment.h has the format.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sequencer/log_segment.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#include "varint.h"

#define LOG_SEGMENT_FORMAT	2
#define LOG_SEGMENT_FORMAT_1	1

/* A group's lowest bits. */
#define GROUP_SEVERAL		0x01
#define GROUP_APART			0x02
#define GROUP_BITS			2

/* A step from id to id that is not below this has no room above them. */
#define MAX_GROUP_ID_STEP	(INT64CONST(1) << 60)

static void open_group(LogSegmentWriter *writer, const LogEntry *entry);
static void close_group(LogSegmentWriter *writer);
static bool read_group(LogSegmentReader *reader, int64 *id_step);

/* Makes a writer in the current memory context. */
void
LogSegmentWriterInit(LogSegmentWriter *writer)
{
	initStringInfo(&writer->payload);
	initStringInfo(&writer->ids);
	LogSegmentWriterReset(writer);
}

/* Forgets what was added and keeps the buffers. */
void
LogSegmentWriterReset(LogSegmentWriter *writer)
{
	resetStringInfo(&writer->payload);
	resetStringInfo(&writer->ids);
	appendStringInfoSpaces(&writer->payload, VARHDRSZ);
	appendStringInfoChar(&writer->payload, LOG_SEGMENT_FORMAT);
	writer->event_count = 0;
	writer->group_count = 0;
	memset(&writer->last, 0, sizeof(LogEntry));
	writer->group_time_base = 0;
	writer->group_table_base = 0;
}

bool
LogSegmentIsFull(const LogSegmentWriter *writer)
{
	return writer->payload.len + writer->ids.len >= LOG_SEGMENT_MAX_BYTES;
}

/* Adds the event that follows, in position, the one added last. */
void
LogSegmentAdd(LogSegmentWriter *writer, const LogEntry *entry)
{
	Assert(writer->event_count == 0 ||
		   entry->position == writer->last.position + 1);

	if (writer->group_count == 0 ||
		entry->transaction != writer->last.transaction ||
		entry->table_no != writer->last.table_no ||
		entry->committed_at != writer->last.committed_at)
	{
		close_group(writer);
		open_group(writer, entry);
	}
	else
		AppendZigzag(&writer->ids, entry->id - writer->last.id);
	writer->group_count++;
	writer->event_count++;
	writer->last = *entry;
}

/*
 * Completes the segment and returns its payload, which lives in the writer's
 * buffer until the next reset.
 */
bytea *
LogSegmentFinish(LogSegmentWriter *writer)
{
	close_group(writer);
	SET_VARSIZE(writer->payload.data, writer->payload.len);
	return (bytea *) writer->payload.data;
}

static void
open_group(LogSegmentWriter *writer, const LogEntry *entry)
{
	if (writer->event_count == 0)
		writer->first_position = entry->position;
	writer->group_first = *entry;
	writer->group_id_base = writer->last.id;
}

static void
close_group(LogSegmentWriter *writer)
{
	LogEntry   *first = &writer->group_first;
	int64		id_step;
	bool		apart;
	uint64		head;

	if (writer->group_count == 0)
		return;
	id_step = first->id - writer->group_id_base;
	apart = first->table_no != writer->group_table_base ||
		first->position != first->transaction ||
		id_step >= MAX_GROUP_ID_STEP || id_step <= -MAX_GROUP_ID_STEP;
	head = apart ? GROUP_APART : Zigzag(id_step) << GROUP_BITS;
	if (writer->group_count > 1)
		head |= GROUP_SEVERAL;
	AppendVarint(&writer->payload, head);
	if (writer->group_count > 1)
		AppendVarint(&writer->payload, writer->group_count);
	AppendZigzag(&writer->payload, first->committed_at - writer->group_time_base);
	if (apart)
	{
		AppendVarint(&writer->payload, first->position - first->transaction);
		AppendVarint(&writer->payload, first->table_no);
		AppendZigzag(&writer->payload, id_step);
	}
	appendBinaryStringInfo(&writer->payload, writer->ids.data, writer->ids.len);
	writer->group_time_base = first->committed_at;
	writer->group_table_base = first->table_no;
	writer->group_count = 0;
	resetStringInfo(&writer->ids);
}

/* Reads a payload, without its varlena header, that must outlive the reader. */
void
LogSegmentReaderInit(LogSegmentReader *reader, int64 first_position,
					 int32 event_count, const char *payload, Size len)
{
	memset(reader, 0, sizeof(LogSegmentReader));
	reader->next = (const unsigned char *) payload;
	reader->end = reader->next + len;
	reader->remaining = event_count;
	reader->entry.position = first_position - 1;
	if (len > 0)
		reader->format = *reader->next++;
	if (reader->format != LOG_SEGMENT_FORMAT && reader->format != LOG_SEGMENT_FORMAT_1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("log segment at position " INT64_FORMAT " has an unknown format",
						first_position)));
}

/* Gives the segment's next event; false after the last. */
bool
LogSegmentRead(LogSegmentReader *reader, LogEntry *entry)
{
	int64		id_step = 0;

	if (reader->remaining == 0)
		return false;
	reader->entry.position++;
	if (reader->group_remaining == 0 ? !read_group(reader, &id_step) :
		!ReadZigzag(&reader->next, reader->end, &id_step))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("log segment ends before position " INT64_FORMAT,
						reader->entry.position)));
	reader->entry.id += id_step;
	reader->group_remaining--;
	reader->remaining--;
	*entry = reader->entry;
	return true;
}

/* What comes before the second event of a group. */
static bool
read_group(LogSegmentReader *reader, int64 *id_step)
{
	LogEntry   *entry = &reader->entry;
	uint64		head = GROUP_SEVERAL | GROUP_APART;
	uint64		count = 1;
	int64		time_step;
	uint64		transaction_offset = 0;
	uint64		table_no = entry->table_no;

	if ((reader->format != LOG_SEGMENT_FORMAT_1 && !ReadVarint(&reader->next, reader->end, &head)) ||
		((head & GROUP_SEVERAL) && !ReadVarint(&reader->next, reader->end, &count)) ||
		!ReadZigzag(&reader->next, reader->end, &time_step) ||
		((head & GROUP_APART) && (!ReadVarint(&reader->next, reader->end, &transaction_offset) ||
								  !ReadVarint(&reader->next, reader->end, &table_no) ||
								  !ReadZigzag(&reader->next, reader->end, id_step))) ||
		count == 0)
		return false;
	if (!(head & GROUP_APART))
		*id_step = Unzigzag(head >> GROUP_BITS);
	reader->group_remaining = count;
	entry->committed_at += time_step;
	entry->transaction = entry->position - transaction_offset;
	entry->table_no = table_no;
	return true;
}

/*-------------------------------------------------------------------------
 *
 * log_segment.h
 *	  The compact form in which the log is stored.
 *
 * A row of daybook.log_segment is a run of consecutive log positions.  Its
 * payload is one format byte and then groups, a group being the events of one
 * transaction in one event table that stand next to each other:
 *
 *		varint	two flags, GROUP_SEVERAL and GROUP_APART; without the latter,
 *				above them, the zigzag of the first event's step of id
 *		varint	with GROUP_SEVERAL: number of events in the group, or else one
 *		zigzag	commit time in microseconds, less that of the group before
 *		varint	with GROUP_APART: position of the group's first event, less the
 *				position of the first event of its transaction (0 unless the
 *				transaction began in an earlier group or segment), or else 0
 *		varint	with GROUP_APART: event table's number, or else that of the
 *				group before
 *		zigzag	with GROUP_APART: the first event's step of id
 *		zigzag	per further event: step of id
 *
 * A step of id is the event's id, less that of the event before it in the
 * segment; for the first, the id itself.
 *
 * So an event of a large transaction takes about one byte, and a transaction
 * of one event about two.  Format 1 has groups without the flags and with all
 * that they would announce.
 *
 * A payload is kept below the size at which a row would be moved to TOAST.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_LOG_SEGMENT_H
#define DAYBOOK_LOG_SEGMENT_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

/* Payload bytes after which a segment takes no further event. */
#define LOG_SEGMENT_MAX_BYTES	1800

/* One event of the log, decoded. */
typedef struct LogEntry
{
	int64		position;
	int64		transaction;	/* position of its transaction's first event */
	int64		id;
	TimestampTz committed_at;
	int32		table_no;
} LogEntry;

/* A segment being written. */
typedef struct LogSegmentWriter
{
	int64		first_position;
	int32		event_count;
	StringInfoData payload;		/* starts with room for a varlena header */
	int32		group_count;
	LogEntry	last;
	StringInfoData ids;			/* ids of the open group, but for the first */
	int64		group_id_base;	/* what the open group's header is told from */
	TimestampTz group_time_base;
	int32		group_table_base;
	LogEntry	group_first;
} LogSegmentWriter;

extern void LogSegmentWriterInit(LogSegmentWriter *writer);
extern void LogSegmentWriterReset(LogSegmentWriter *writer);
extern bool LogSegmentIsFull(const LogSegmentWriter *writer);
extern void LogSegmentAdd(LogSegmentWriter *writer, const LogEntry *entry);
extern bytea *LogSegmentFinish(LogSegmentWriter *writer);

/* A segment being read. */
typedef struct LogSegmentReader
{
	const unsigned char *next;
	const unsigned char *end;
	int			format;
	int32		remaining;		/* events left in the segment */
	int32		group_remaining;
	LogEntry	entry;			/* the event read last */
} LogSegmentReader;

extern void LogSegmentReaderInit(LogSegmentReader *reader, int64 first_position,
								 int32 event_count, const char *payload, Size len);
extern bool LogSegmentRead(LogSegmentReader *reader, LogEntry *entry);

#endif							/* DAYBOOK_LOG_SEGMENT_H */

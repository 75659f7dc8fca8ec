/*-------------------------------------------------------------------------
 *
 * log_write.c
 *	  Appends events to the log.  The database's worker is the only writer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "daybook.h"
#include "sequencer/log_rows.h"
#include "sequencer/sequencer_internal.h"
#include "utils/memutils.h"
#include "utils/rel.h"

static LogSegmentWriter writer;
static MemoryContext segment_context = NULL;
static Relation log_table;
static CatalogIndexState log_indexes;
static int64 next_position;
static int	segments_written;
static int64 events_written;

static void write_segment(void);

/* Begins appending after head, in the current transaction. */
void
LogWriteBegin(int64 head)
{
	if (segment_context == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		LogSegmentWriterInit(&writer);
		segment_context = AllocSetContextCreate(TopMemoryContext,
												"daybook log segment",
												ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(old);
	}
	LogSegmentWriterReset(&writer);
	next_position = head + 1;
	log_table = NULL;
	segments_written = 0;
	events_written = 0;
}

/* The position of the event that will be written next. */
int64
LogWriteNextPosition(void)
{
	return next_position;
}

void
LogWriteEvent(int32 table_no, int64 id, TimestampTz committed_at, int64 transaction)
{
	LogEntry	entry;

	entry.position = next_position++;
	entry.transaction = transaction;
	entry.id = id;
	entry.committed_at = committed_at;
	entry.table_no = table_no;
	LogSegmentAdd(&writer, &entry);
	events_written++;
	if (LogSegmentIsFull(&writer))
		write_segment();
}

/* Writes what is left and returns the new head. */
int64
LogWriteEnd(void)
{
	if (writer.event_count > 0)
		write_segment();
	if (log_table)
	{
		CatalogCloseIndexes(log_indexes);
		table_close(log_table, NoLock);
		log_table = NULL;
	}
	LogMergeNote(next_position - events_written, segments_written, events_written);
	return next_position - 1;
}

static void
write_segment(void)
{
	MemoryContext old;

	if (log_table == NULL)
	{
		log_table = table_open(DaybookRelation(LOG_SEGMENT_TABLE), RowExclusiveLock);
		log_indexes = CatalogOpenIndexes(log_table);
	}
	MemoryContextReset(segment_context);
	old = MemoryContextSwitchTo(segment_context);
	LogSegmentInsert(log_table, log_indexes, &writer);
	MemoryContextSwitchTo(old);
	segments_written++;
	LogSegmentWriterReset(&writer);
}

/* Stores a finished segment. */
void
LogSegmentInsert(Relation rel, CatalogIndexState indexes, LogSegmentWriter *segment)
{
	Datum		values[LOG_SEGMENT_NATTS];
	bool		nulls[LOG_SEGMENT_NATTS] = {false};

	values[LOG_SEGMENT_FIRST_POSITION - 1] = Int64GetDatum(segment->first_position);
	values[LOG_SEGMENT_EVENT_COUNT - 1] = Int32GetDatum(segment->event_count);
	values[LOG_SEGMENT_ENTRIES - 1] = PointerGetDatum(LogSegmentFinish(segment));
	CatalogTupleInsertWithInfo(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls),
							   indexes);
}

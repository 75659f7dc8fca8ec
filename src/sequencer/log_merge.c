/*-------------------------------------------------------------------------
 *
 * log_merge.c
 *	  Puts the small segments of quiet hours together.
 *
 * At low load each round of the sequencer publishes one event or two, and
 * each takes a row of the log.  When enough such rows stand next to each
 * other they are replaced by full ones, in one transaction: a reader sees
 * either, and both say the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "daybook.h"
#include "miscadmin.h"
#include "sequencer/log_rows.h"
#include "sequencer/sequencer_internal.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A run of rows is merged when it is this long ... */
#define MERGE_SEGMENTS			256

/* ... and has fewer events a row than this; with more, rows are good as they are. */
#define MERGE_EVENTS_PER_ROW	6

/* A run that does not call for it is merged when there is nothing else to do. */
#define MERGE_SEGMENTS_IDLE		32

/* Rows taken into one transaction. */
#define MERGE_BATCH				2048

/* How many rows are looked at backwards at the start to find the run. */
#define MERGE_LOOK_BACK			10000

/* The run of small segments at the end of the log. */
static int64 run_start;
static int64 run_segments;
static int64 run_events;

static bool is_small(Relation rel, HeapTuple tuple);
static int64 int_column(Relation rel, HeapTuple tuple, int column);
static void add_to_run(int64 segments, int64 events);
static HeapTuple *collect_rows(Relation rel, int *nrows);
static void read_row(Relation rel, HeapTuple tuple, LogSegmentReader *reader);
static int	rewrite_rows(Relation rel, HeapTuple *rows, int nrows);

/* Finds the run of small segments that an earlier worker left. */
void
LogMergeStart(void)
{
	Relation	rel = table_open(DaybookRelation(LOG_SEGMENT_TABLE), AccessShareLock);
	Relation	index = index_open(DaybookRelation(LOG_SEGMENT_INDEX), AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index, GetActiveSnapshot(), 0, NULL);
	HeapTuple	tuple;
	int64		segments = 0;
	int64		events = 0;

	while (segments < MERGE_LOOK_BACK &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, BackwardScanDirection)) &&
		   is_small(rel, tuple))
	{
		run_start = int_column(rel, tuple, LOG_SEGMENT_FIRST_POSITION);
		events += int_column(rel, tuple, LOG_SEGMENT_EVENT_COUNT);
		segments++;
	}
	run_segments = run_events = 0;
	add_to_run(segments, events);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* One that holds few events and is not full of transactions either. */
static bool
is_small(Relation rel, HeapTuple tuple)
{
	return int_column(rel, tuple, LOG_SEGMENT_EVENT_COUNT) < MERGE_EVENTS_PER_ROW * 2 &&
		tuple->t_len < LOG_SEGMENT_MAX_BYTES / 4;
}

static int64
int_column(Relation rel, HeapTuple tuple, int column)
{
	bool		is_null;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel), &is_null);

	Assert(!is_null);
	return column == LOG_SEGMENT_EVENT_COUNT ? DatumGetInt32(value) : DatumGetInt64(value);
}

/* Segments with so many events in all have been written after the position before. */
void
LogMergeNote(int64 first_position, int segments, int64 events)
{
	if (segments == 0)
		return;
	if (run_segments == 0)
		run_start = first_position;
	add_to_run(segments, events);
}

/*
 * A run that has become good as it is ends at once, or else its many events
 * would hide that those after it come one by one.
 */
static void
add_to_run(int64 segments, int64 events)
{
	run_segments += segments;
	run_events += events;
	if (run_events >= run_segments * MERGE_EVENTS_PER_ROW)
		run_segments = run_events = 0;
}

/* idle: there is nothing else to do. */
bool
LogMergeIsDue(bool idle)
{
	return run_segments >= (idle ? MERGE_SEGMENTS_IDLE : MERGE_SEGMENTS);
}

/* Merges the run, or its beginning, in the current transaction. */
void
LogMerge(void)
{
	Relation	rel = table_open(DaybookRelation(LOG_SEGMENT_TABLE), RowExclusiveLock);
	int			nrows;
	HeapTuple  *rows = collect_rows(rel, &nrows);
	int64		events = 0;

	for (int i = 0; i < nrows; i++)
		events += int_column(rel, rows[i], LOG_SEGMENT_EVENT_COUNT);
	run_segments -= nrows;
	run_events -= events;
	if (nrows > 1)
		events = rewrite_rows(rel, rows, nrows);
	if (nrows < MERGE_BATCH)
		run_segments = run_events = 0;
	else
		add_to_run(1, events);
	table_close(rel, NoLock);
}

static HeapTuple *
collect_rows(Relation rel, int *nrows)
{
	HeapTuple  *rows = palloc(MERGE_BATCH * sizeof(HeapTuple));
	Relation	index = index_open(DaybookRelation(LOG_SEGMENT_INDEX), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, LOG_SEGMENT_FIRST_POSITION, BTGreaterEqualStrategyNumber,
				F_INT8GE, Int64GetDatum(run_start));
	scan = systable_beginscan_ordered(rel, index, GetActiveSnapshot(), 1, &key);
	*nrows = 0;
	while (*nrows < MERGE_BATCH &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
		rows[(*nrows)++] = heap_copytuple(tuple);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	return rows;
}

/*
 * The old rows are deleted first, so that a new one may begin at the same
 * position.  The next run begins at the last row written, which may have room;
 * returns how many events are in that.
 */
static int
rewrite_rows(Relation rel, HeapTuple *rows, int nrows)
{
	CatalogIndexState indexes = CatalogOpenIndexes(rel);
	LogSegmentWriter writer;
	LogSegmentReader reader;
	LogEntry	entry;
	int			last_count = 0;

	LogSegmentWriterInit(&writer);
	for (int i = 0; i < nrows; i++)
		CatalogTupleDelete(rel, &rows[i]->t_self);
	for (int i = 0; i < nrows; i++)
	{
		CHECK_FOR_INTERRUPTS();
		read_row(rel, rows[i], &reader);
		while (LogSegmentRead(&reader, &entry))
		{
			LogSegmentAdd(&writer, &entry);
			run_start = writer.first_position;
			last_count = writer.event_count;
			if (!LogSegmentIsFull(&writer))
				continue;
			LogSegmentInsert(rel, indexes, &writer);
			LogSegmentWriterReset(&writer);
		}
	}
	if (writer.event_count > 0)
		LogSegmentInsert(rel, indexes, &writer);
	CatalogCloseIndexes(indexes);
	return last_count;
}

static void
read_row(Relation rel, HeapTuple tuple, LogSegmentReader *reader)
{
	bool		is_null;
	bytea	   *entries = DatumGetByteaPP(heap_getattr(tuple, LOG_SEGMENT_ENTRIES,
													   RelationGetDescr(rel), &is_null));

	LogSegmentReaderInit(reader,
						 int_column(rel, tuple, LOG_SEGMENT_FIRST_POSITION),
						 int_column(rel, tuple, LOG_SEGMENT_EVENT_COUNT),
						 VARDATA_ANY(entries), VARSIZE_ANY_EXHDR(entries));
}

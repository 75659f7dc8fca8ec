/*-------------------------------------------------------------------------
 *
 * sequencer_scan.c
 *	  Finds committed events that the log lacks, by their ids.
 *
 * Events found together are published in the order of their ids, which
 * respects cause and effect: who had seen an event took a higher id, and
 * nobody has seen them in any other order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/commit_ts.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "sequencer/log_scan.h"
#include "sequencer/sequencer_internal.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Events looked at in one pass, of each table. */
#define MAX_EVENTS_PER_PASS		10000

typedef struct ScannedEvent
{
	int64		id;
	int32		table_no;
	TransactionId xid;
	TimestampTz committed_at;
} ScannedEvent;

/* What one pass has found. */
typedef struct ScanBatch
{
	Snapshot	snapshot;
	List	   *tables;
	ScannedEvent *events;
	int			count;
	int			max;
	int			looked_at;
} ScanBatch;

/* All ids up to here have been looked at. */
static int64 highest = 0;

/* Ids above the low-water mark that were in the log at the start; NULL once passed. */
static IdSet *known = NULL;

/* The table that a pass did not come to the end of, by its number. */
static int32 behind = 0;

static int64 probe_missing(int64 low, int64 high, void *arg);
static bool scan_above(ScanBatch *batch);
static void note_gaps(ScanBatch *batch, int before, int64 new_highest);
static void drop_known(ScanBatch *batch, int before);
static int64 scan_tables(ScanBatch *batch, int64 low, int64 high, bool only_missing);
static void scan_table(ScanBatch *batch, SequencedTable *table, int64 low,
					   int64 *upto, bool only_missing);
static void add_event(ScanBatch *batch, SequencedTable *table, HeapTuple tuple,
					  int64 id, TupleTableSlot *slot);
static void publish(ScanBatch *batch);
static int	compare_ids(const void *a, const void *b);

/*
 * Starts from the stored marks: every event with an id up to low_water is in
 * the log or will never be, and log entries up to log_position have no higher
 * id.  What stands in the log above that must not be published again.  Returns
 * the highest id in the log, or the low-water mark.
 */
int64
ScanStart(int64 low_water, int64 log_position, MemoryContext context)
{
	LogScan    *scan = LogScanBegin(GetActiveSnapshot(), log_position);
	LogEntry	entry;

	highest = low_water;
	known = IdSetCreate(context);
	while (LogScanNext(scan, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		if (entry.id > low_water)
			IdSetAdd(known, entry.table_no, entry.id);
	}
	LogScanEnd(scan);
	return Max(low_water, IdSetMax(known));
}

/* What is known of ids goes, with its memory. */
void
ScanEnd(void)
{
	known = NULL;
}

/* The id up to which a scan has looked. */
int64
ScanHighest(void)
{
	return highest;
}

/*
 * Publishes what has come to light since the last pass, within an open
 * LogWriteBegin().  *complete: there was no more.  Returns the number of
 * events published.
 *
 * Missing ids come before higher ones, since whoever wrote the higher may
 * have seen the lower; so a pass that has not been through them looks no
 * further.
 */
int
ScanPass(Snapshot snapshot, List *tables, bool *complete)
{
	ScanBatch	batch = {.snapshot = snapshot, .tables = tables};

	*complete = GapsProbe(snapshot, probe_missing, &batch);
	if (*complete)
		*complete = scan_above(&batch);
	qsort(batch.events, batch.count, sizeof(ScannedEvent), compare_ids);
	publish(&batch);
	return batch.count;
}

/* Finds missing ids; a GapProbe. */
static int64
probe_missing(int64 low, int64 high, void *arg)
{
	ScanBatch  *batch = arg;
	int			before = batch->count;
	int64		reached;

	if (batch->looked_at >= MAX_EVENTS_PER_PASS)
		return low - 1;
	reached = scan_tables(batch, low, high, true);
	for (int i = before; i < batch->count; i++)
		GapsTake(batch->events[i].id);
	drop_known(batch, before);
	return reached;
}

/* Looks at ids above the highest; true if it has seen all. */
static bool
scan_above(ScanBatch *batch)
{
	int			before = batch->count;
	int64		last = highest;
	int64		reached;

	if (highest == PG_INT64_MAX)
		return true;
	reached = scan_tables(batch, highest + 1, PG_INT64_MAX, false);
	for (int i = before; i < batch->count; i++)
		last = Max(last, batch->events[i].id);
	if (reached < PG_INT64_MAX)
		last = reached;
	if (last > highest)
		note_gaps(batch, before, last);
	return reached == PG_INT64_MAX;
}

/*
 * Everything between the old and the new highest id that was not seen is
 * missing; then drops what the log has already.
 */
static void
note_gaps(ScanBatch *batch, int before, int64 new_highest)
{
	int			count = batch->count - before;
	int64	   *ids = palloc(count * sizeof(int64) + 1);

	qsort(batch->events + before, count, sizeof(ScannedEvent), compare_ids);
	for (int i = 0; i < count; i++)
		ids[i] = batch->events[before + i].id;
	GapsNote(highest + 1, new_highest, ids, count, batch->snapshot);
	pfree(ids);
	highest = new_highest;
	drop_known(batch, before);
}

/* Drops what was in the log at the start; that need not be known for ever. */
static void
drop_known(ScanBatch *batch, int before)
{
	int			kept = before;

	if (known == NULL)
		return;
	for (int i = before; i < batch->count; i++)
		if (!IdSetHas(known, batch->events[i].table_no, batch->events[i].id))
			batch->events[kept++] = batch->events[i];
	batch->count = kept;
	if (highest >= IdSetMax(known) && !GapsBelow(IdSetMax(known)))
	{
		IdSetFree(known);
		known = NULL;
	}
}

/*
 * Adds the events with ids from low to high, or only those that are missing.
 * Returns up to which id all tables have been looked at.  The one that has
 * come less far than others before is likely to do so again, and comes first:
 * what the others have above that place is not read only to be dropped.
 */
static int64
scan_tables(ScanBatch *batch, int64 low, int64 high, bool only_missing)
{
	int			before = batch->count;
	int			kept = before;
	int64		reached = high;
	int32		first = behind;
	ListCell   *lc;

	foreach(lc, batch->tables)
		if (((SequencedTable *) lfirst(lc))->table_no == first)
			scan_table(batch, lfirst(lc), low, &reached, only_missing);
	foreach(lc, batch->tables)
		if (((SequencedTable *) lfirst(lc))->table_no != first)
			scan_table(batch, lfirst(lc), low, &reached, only_missing);

	/* a table that hit its limit may have more below what others gave */
	for (int i = before; i < batch->count; i++)
		if (batch->events[i].id <= reached)
			batch->events[kept++] = batch->events[i];
	batch->count = kept;
	return reached;
}

/* The same of one table; lowers *upto to where it has come. */
static void
scan_table(ScanBatch *batch, SequencedTable *table, int64 low, int64 *upto,
		   bool only_missing)
{
	Relation	rel = try_relation_open(table->relid, AccessShareLock);
	Relation	index;
	IndexScanDesc scan;
	ScanKeyData keys[2];
	TupleTableSlot *slot;
	int			count = 0;

	if (rel == NULL)
		return;
	index = index_open(LookUpEventTable(rel)->id_index, AccessShareLock);
	slot = table_slot_create(rel, NULL);
	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(low));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(*upto));
	scan = index_beginscan_compat(rel, index, batch->snapshot, 2);
	index_rescan(scan, keys, 2, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		is_null;
		int64		id = DatumGetInt64(slot_getattr(slot, EVENT_ID, &is_null));

		CHECK_FOR_INTERRUPTS();
		if (!only_missing || GapsHas(id))
			add_event(batch, table, ExecFetchSlotHeapTuple(slot, false, NULL), id, slot);
		if (++count == MAX_EVENTS_PER_PASS)
		{
			*upto = id;
			behind = table->table_no;
			break;
		}
	}
	batch->looked_at += count;
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

static void
add_event(ScanBatch *batch, SequencedTable *table, HeapTuple tuple, int64 id,
		  TupleTableSlot *slot)
{
	ScannedEvent *event;
	bool		is_null;

	if (batch->count == batch->max)
	{
		batch->max = Max(64, batch->max * 2);
		batch->events = batch->events == NULL ?
			palloc(batch->max * sizeof(ScannedEvent)) :
			repalloc_huge(batch->events, batch->max * sizeof(ScannedEvent));
	}
	event = &batch->events[batch->count++];
	event->id = id;
	event->table_no = table->table_no;
	event->xid = HeapTupleHeaderGetXmin(tuple->t_data);

	/* the commit's time where the server keeps it, else that of the append */
	if (!track_commit_timestamp ||
		!TransactionIdIsNormal(event->xid) ||
		!TransactionIdGetCommitTsData(event->xid, &event->committed_at, NULL))
		event->committed_at = DatumGetTimestampTz(slot_getattr(slot, EVENT_RECORDED_AT,
															   &is_null));
}

/* Writes a batch down; events of one transaction point to the first of them. */
static void
publish(ScanBatch *batch)
{
	typedef struct
	{
		TransactionId xid;		/* hash key */
		int64		position;
		TimestampTz committed_at;
	} FirstEvent;
	HASHCTL		ctl = {.keysize = sizeof(TransactionId), .entrysize = sizeof(FirstEvent)};
	HTAB	   *firsts;

	if (batch->count == 0)
		return;
	ctl.hcxt = CurrentMemoryContext;
	firsts = hash_create("daybook scanned transactions", 256, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < batch->count; i++)
	{
		ScannedEvent *event = &batch->events[i];
		int64		position = LogWriteNextPosition();
		FirstEvent *first;
		bool		found = false;

		/* rows frozen long ago no longer tell their transactions apart */
		if (!TransactionIdIsNormal(event->xid))
		{
			LogWriteEvent(event->table_no, event->id, event->committed_at, position);
			continue;
		}
		first = hash_search(firsts, &event->xid, HASH_ENTER, &found);
		if (!found)
		{
			first->position = position;
			first->committed_at = event->committed_at;
		}
		LogWriteEvent(event->table_no, event->id, first->committed_at, first->position);
	}
	hash_destroy(firsts);
}

static int
compare_ids(const void *a, const void *b)
{
	int64		x = ((const ScannedEvent *) a)->id;
	int64		y = ((const ScannedEvent *) b)->id;

	return x < y ? -1 : x > y;
}

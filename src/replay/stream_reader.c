/*-------------------------------------------------------------------------
 *
 * stream_reader.c
 *	  Reading the streams of an event table in order of version.
 *
 * Events come straight from the index scan, as long as they are of the newest
 * version of their type.  From the first that is not, events are read ahead
 * and upcast together: the functions that do it run as another role, and
 * becoming one costs more than most of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "replay/stream_reader.h"
#include "schema/upcast.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

/* Columns of the index on (stream_id, version). */
#define STREAM_INDEX_STREAM_ID	1
#define STREAM_INDEX_VERSION	2

/*
 * Events that are read ahead: one at first, since the caller may not want
 * more, then twice as many each time.
 */
#define MAX_AHEAD_EVENTS		256
#define MAX_AHEAD_BYTES			(1024 * 1024)

struct StreamReader
{
	MemoryContext context;		/* index scans allocate as they go */
	Relation	table;
	Relation	index;
	Snapshot	snapshot;
	IndexScanDesc scan;			/* NULL before the first range */
	ScanKeyData keys[3];
	TupleTableSlot *slot;		/* of the scan */
	ScanDirection direction;
	TimestampTz until;
	bool		at_end;			/* an index scan that is asked again starts again */

	Upcasting  *upcasting;		/* NULL: events are given as they are */
	MemoryContext ahead_context;
	TupleTableSlot *ahead_slot;
	HeapTuple  *ahead;			/* NULL where an event was dropped */
	int			ahead_room;
	int			ahead_count;
	int			ahead_next;
};

static void begin_range(StreamReader *reader, int nkeys, ScanDirection direction);
static bool next_stored(StreamReader *reader);
static bool slot_applies(StreamReader *reader);
static void read_ahead(StreamReader *reader);

StreamReader *
StreamReaderBegin(Relation table, Snapshot snapshot, bool as_stored)
{
	StreamReader *reader = palloc0(sizeof(StreamReader));

	reader->context = CurrentMemoryContext;
	reader->table = table;
	reader->snapshot = snapshot;
	reader->index = index_open(RequireEventTable(table)->stream_index, AccessShareLock);
	reader->slot = table_slot_create(table, NULL);
	reader->until = DT_NOEND;
	if (!as_stored)
		reader->upcasting = UpcastingBegin(table);
	if (reader->upcasting)
	{
		reader->ahead_context = AllocSetContextCreate(CurrentMemoryContext,
													  "events read ahead",
													  ALLOCSET_DEFAULT_SIZES);
		reader->ahead_slot = MakeSingleTupleTableSlot(RelationGetDescr(table),
													  &TTSOpsHeapTuple);
		reader->ahead = palloc(MAX_AHEAD_EVENTS * sizeof(HeapTuple));
	}
	return reader;
}

/* The lock on the index is kept to the end of the transaction, as the table's is. */
void
StreamReaderEnd(StreamReader *reader)
{
	if (reader->scan)
		index_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->slot);
	index_close(reader->index, NoLock);
	if (reader->upcasting)
	{
		UpcastingEnd(reader->upcasting);
		ExecDropSingleTupleTableSlot(reader->ahead_slot);
		MemoryContextDelete(reader->ahead_context);
		pfree(reader->ahead);
	}
	pfree(reader);
}

/* Keys are copied by the scan; what they point to is not. */
static void
begin_range(StreamReader *reader, int nkeys, ScanDirection direction)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);

	if (reader->scan && reader->scan->numberOfKeys != nkeys)
	{
		index_endscan(reader->scan);
		reader->scan = NULL;
	}
	if (reader->scan == NULL)
		reader->scan = index_beginscan_compat(reader->table, reader->index,
											  reader->snapshot, nkeys);
	index_rescan(reader->scan, reader->keys, nkeys, NULL, 0);
	MemoryContextSwitchTo(caller);
	reader->direction = direction;
	reader->at_end = false;
	reader->ahead_room = 1;
	reader->ahead_count = 0;
	reader->ahead_next = 0;
}

void
StreamReaderSeek(StreamReader *reader, text *stream_id, int64 from_version,
				 int64 to_version, ScanDirection direction)
{
	ScanKeyEntryInitialize(&reader->keys[0], 0, STREAM_INDEX_STREAM_ID, BTEqualStrategyNumber,
						   InvalidOid, reader->index->rd_indcollation[0],
						   F_TEXTEQ, PointerGetDatum(stream_id));
	ScanKeyEntryInitialize(&reader->keys[1], 0, STREAM_INDEX_VERSION,
						   BTGreaterEqualStrategyNumber, InvalidOid, InvalidOid,
						   F_INT8GE, Int64GetDatum(from_version));
	ScanKeyEntryInitialize(&reader->keys[2], 0, STREAM_INDEX_VERSION,
						   BTLessEqualStrategyNumber, InvalidOid, InvalidOid,
						   F_INT8LE, Int64GetDatum(to_version));
	begin_range(reader, 3, direction);
}

void
StreamReaderSeekAfter(StreamReader *reader, text *after, text *upto)
{
	Oid			collation = reader->index->rd_indcollation[0];
	int			nkeys = 0;

	if (after)
		ScanKeyEntryInitialize(&reader->keys[nkeys++], 0, STREAM_INDEX_STREAM_ID,
							   BTGreaterStrategyNumber, InvalidOid, collation,
							   F_TEXT_GT, PointerGetDatum(after));
	if (upto)
		ScanKeyEntryInitialize(&reader->keys[nkeys++], 0, STREAM_INDEX_STREAM_ID,
							   BTLessEqualStrategyNumber, InvalidOid, collation,
							   F_TEXT_LE, PointerGetDatum(upto));
	begin_range(reader, nkeys, ForwardScanDirection);
}

void
StreamReaderUntil(StreamReader *reader, TimestampTz until)
{
	reader->until = until;
}

TupleTableSlot *
StreamReaderNext(StreamReader *reader)
{
	for (;;)
	{
		while (reader->ahead_next < reader->ahead_count)
		{
			HeapTuple	tuple = reader->ahead[reader->ahead_next++];

			if (tuple != NULL)
				return ExecStoreHeapTuple(tuple, reader->ahead_slot, false);
		}
		if (!next_stored(reader))
			return NULL;
		if (reader->upcasting == NULL || !slot_applies(reader))
			return reader->slot;
		read_ahead(reader);
	}
}

/* Puts the next event of the table into the scan's slot; false at the end. */
static bool
next_stored(StreamReader *reader)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	TupleTableSlot *slot = reader->slot;
	bool		found = false;

	while (!found && !reader->at_end)
	{
		bool		is_null;

		CHECK_FOR_INTERRUPTS();
		if (!index_getnext_slot(reader->scan, reader->direction, slot))
			reader->at_end = true;
		else
			found = TIMESTAMP_IS_NOEND(reader->until) ||
				DatumGetTimestampTz(slot_getattr(slot, EVENT_RECORDED_AT, &is_null)) <= reader->until;
	}
	MemoryContextSwitchTo(caller);
	return found;
}

static bool
slot_applies(StreamReader *reader)
{
	TupleTableSlot *slot = reader->slot;

	slot_getsomeattrs(slot, EVENT_TYPE);
	return UpcastApplies(reader->upcasting,
						 DatumGetTextPP(slot->tts_values[EVENT_TYPE - 1]),
						 DatumGetInt32(slot->tts_values[EVENT_SCHEMA_VERSION - 1]));
}

/* Upcasts the event in the scan's slot and those that follow it. */
static void
read_ahead(StreamReader *reader)
{
	TupleDesc	desc = RelationGetDescr(reader->table);
	MemoryContext caller;
	Size		bytes = 0;

	ExecClearTuple(reader->ahead_slot);
	MemoryContextReset(reader->ahead_context);
	caller = MemoryContextSwitchTo(reader->ahead_context);
	reader->ahead_next = reader->ahead_count = 0;
	do
	{
		HeapTuple	tuple = ExecCopySlotHeapTuple(reader->slot);

		reader->ahead[reader->ahead_count++] = tuple;
		bytes += tuple->t_len;
	} while (reader->ahead_count < reader->ahead_room && bytes < MAX_AHEAD_BYTES &&
			 next_stored(reader));
	ExecClearTuple(reader->slot);

	for (int i = 0; i < reader->ahead_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (UpcastTupleApplies(reader->upcasting, reader->ahead[i], desc))
			reader->ahead[i] = UpcastTuple(reader->upcasting, reader->ahead[i], desc);
	}
	UpcastRest(reader->upcasting);
	MemoryContextSwitchTo(caller);
	reader->ahead_room = Min(reader->ahead_room * 2, MAX_AHEAD_EVENTS);
}

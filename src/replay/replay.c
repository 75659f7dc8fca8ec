/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Reading one stream in order of version.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "replay/event_source.h"
#include "replay/row_function.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(daybook_replay);
PG_FUNCTION_INFO_V1(daybook_stream_version);

/* Arguments of daybook.replay. */
enum
{
	REPLAY_EVENT_TABLE,
	REPLAY_STREAM_ID,
	REPLAY_FROM_VERSION,
	REPLAY_TO_VERSION,
	REPLAY_UNTIL,
	REPLAY_BACKWARDS,
	REPLAY_NARGS
};

/* Columns of the index on (stream_id, version). */
#define STREAM_INDEX_STREAM_ID	1
#define STREAM_INDEX_VERSION	2

/* An index scan of one stream. */
typedef struct StreamScan
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	ScanDirection direction;
} StreamScan;

/* A replay in progress. */
typedef struct Replay
{
	RowSource	source;
	StreamScan	stream;
	TimestampTz until;
} Replay;

static RowSource *begin_replay(const NullableDatum *args, Snapshot snapshot);
static TupleTableSlot *next_replayed(RowSource *source);
static void end_replay(RowSource *source);
static void open_stream(StreamScan *stream, Snapshot snapshot, Oid table, Datum stream_id,
						int64 from_version, int64 to_version, ScanDirection direction);
static bool next_event(StreamScan *stream);
static void close_stream(StreamScan *stream);

const RowFunction ReplayFunction = {
	.name = "replay",
	.nargs = REPLAY_NARGS,
	.begin = begin_replay,
	.order_column = EVENT_VERSION,
	.backwards_arg = REPLAY_BACKWARDS
};

Datum
daybook_replay(PG_FUNCTION_ARGS)
{
	return ReturnRows(&ReplayFunction, fcinfo);
}

/* The version of a stream's last event, 0 when the stream does not exist. */
Datum
daybook_stream_version(PG_FUNCTION_ARGS)
{
	StreamScan	stream;
	int64		version = 0;
	bool		isnull;

	open_stream(&stream, GetActiveSnapshot(), PG_GETARG_OID(0), PG_GETARG_DATUM(1),
				1, PG_INT64_MAX, BackwardScanDirection);
	if (next_event(&stream))
		version = DatumGetInt64(slot_getattr(stream.slot, EVENT_VERSION, &isnull));
	close_stream(&stream);
	PG_RETURN_INT64(version);
}

static RowSource *
begin_replay(const NullableDatum *args, Snapshot snapshot)
{
	Replay	   *replay = palloc0(sizeof(Replay));
	int64		from_version = 1;
	int64		to_version = PG_INT64_MAX;
	bool		backwards = false;

	RefuseNull(&args[REPLAY_EVENT_TABLE], "event_table");
	RefuseNull(&args[REPLAY_STREAM_ID], "stream_id");
	if (!args[REPLAY_FROM_VERSION].isnull)
		from_version = DatumGetInt64(args[REPLAY_FROM_VERSION].value);
	if (!args[REPLAY_TO_VERSION].isnull)
		to_version = DatumGetInt64(args[REPLAY_TO_VERSION].value);
	if (!args[REPLAY_BACKWARDS].isnull)
		backwards = DatumGetBool(args[REPLAY_BACKWARDS].value);
	replay->until = args[REPLAY_UNTIL].isnull ? DT_NOEND :
		DatumGetTimestampTz(args[REPLAY_UNTIL].value);

	replay->source.next = next_replayed;
	replay->source.end = end_replay;
	open_stream(&replay->stream, snapshot,
				DatumGetObjectId(args[REPLAY_EVENT_TABLE].value),
				args[REPLAY_STREAM_ID].value, from_version, to_version,
				backwards ? BackwardScanDirection : ForwardScanDirection);
	return &replay->source;
}

/* Each event of a replay leaves through here. */
static TupleTableSlot *
next_replayed(RowSource *source)
{
	Replay	   *replay = (Replay *) source;
	TupleTableSlot *slot = replay->stream.slot;

	while (next_event(&replay->stream))
	{
		bool		isnull;

		if (TIMESTAMP_IS_NOEND(replay->until) ||
			DatumGetTimestampTz(slot_getattr(slot, EVENT_RECORDED_AT, &isnull)) <= replay->until)
			return slot;
	}
	return NULL;
}

static void
end_replay(RowSource *source)
{
	close_stream(&((Replay *) source)->stream);
}

static void
open_stream(StreamScan *stream, Snapshot snapshot, Oid table, Datum stream_id,
			int64 from_version, int64 to_version, ScanDirection direction)
{
	Oid			index;
	ScanKeyData keys[3];

	stream->table = OpenReadableEventTable(table);
	index = RequireEventTable(stream->table)->stream_index;
	stream->index = index_open(index, AccessShareLock);
	stream->direction = direction;
	stream->slot = table_slot_create(stream->table, NULL);

	ScanKeyEntryInitialize(&keys[0], 0, STREAM_INDEX_STREAM_ID, BTEqualStrategyNumber,
						   InvalidOid, stream->index->rd_indcollation[0],
						   F_TEXTEQ, stream_id);
	ScanKeyEntryInitialize(&keys[1], 0, STREAM_INDEX_VERSION, BTGreaterEqualStrategyNumber,
						   InvalidOid, InvalidOid, F_INT8GE, Int64GetDatum(from_version));
	ScanKeyEntryInitialize(&keys[2], 0, STREAM_INDEX_VERSION, BTLessEqualStrategyNumber,
						   InvalidOid, InvalidOid, F_INT8LE, Int64GetDatum(to_version));
	stream->scan = index_beginscan_compat(stream->table, stream->index, snapshot,
										  lengthof(keys));
	index_rescan(stream->scan, keys, lengthof(keys), NULL, 0);
}

/* Puts the stream's next event into its slot. */
static bool
next_event(StreamScan *stream)
{
	CHECK_FOR_INTERRUPTS();
	return index_getnext_slot(stream->scan, stream->direction, stream->slot);
}

/* The lock on the table is kept to the end of the transaction. */
static void
close_stream(StreamScan *stream)
{
	index_endscan(stream->scan);
	ExecDropSingleTupleTableSlot(stream->slot);
	index_close(stream->index, NoLock);
	table_close(stream->table, NoLock);
}

/*-------------------------------------------------------------------------
 *
 * fold_snapshot.c
 *	  Snapshots: states that were computed before, kept in
 *	  daybook.fold_snapshot.
 *
 * Snapshots are read with the snapshot that reads the events.  Who sees one
 * sees all events that it takes in, since their transactions had committed
 * when it was taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "daybook.h"
#include "event_table/event_source.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "fold/fold.h"
#include "miscadmin.h"
#include "schema/schema_ddl.h"
#include "storage/bufmgr.h"
#include "user_function.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(daybook_take_snapshot);
PG_FUNCTION_INFO_V1(daybook_drop_snapshots);

/* columns of daybook.fold_snapshot, of which the first are its key */
enum
{
	SNAPSHOT_FOLD = 1,
	SNAPSHOT_STREAM_ID,
	SNAPSHOT_VERSION,
	SNAPSHOT_RECORDED_AT,
	SNAPSHOT_TAKEN_AT,
	SNAPSHOT_FINGERPRINT,
	SNAPSHOT_STATE
};

struct SnapshotScan
{
	FoldRun    *run;
	Relation	rel;
	Relation	index;
	Snapshot	snapshot;
	Datum		fold;
	uint8		fingerprint[FINGERPRINT_LENGTH];
};

static bool is_usable(const SnapshotScan *scan, HeapTuple tuple, TimestampTz until);
static void read_snapshot(const SnapshotScan *scan, HeapTuple tuple, Snapshotted *result);
static bytea *pack_state(const StateType *type, Datum state);
static Datum unpack_state(const StateType *type, bytea *packed);
static bool take_snapshot(FoldRun *run, text *stream_id, int64 *version);
static void store(FoldRun *run, Relation event_table, text *stream_id,
				  const Snapshotted *snapshotted);
static void thin_out(FoldRun *run, Relation event_table, text *stream_id);
static void choose_dropped(Datum *dropped, int *count);

/* daybook.take_snapshot(name, stream_id) */
Datum
daybook_take_snapshot(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		version;
	bool		taken;

	PreventCommandIfReadOnly("daybook.take_snapshot()");
	do
	{
		FoldRun    *run = FoldRunAcquire(name);

		CHECK_FOR_INTERRUPTS();
		RequireFoldOwner(FoldRunDefinition(run));
		taken = take_snapshot(run, PG_GETARG_TEXT_PP(1), &version);
		FoldRunRelease(run);
	} while (!taken);
	PG_RETURN_INT64(version);
}

static bool
take_snapshot(FoldRun *run, text *stream_id, int64 *version)
{
	Relation	table = OpenReadableEventTable(FoldRunDefinition(run)->event_table);
	Snapshotted from;
	Snapshotted now;
	bool		taken = SnapshotTake(run, table, stream_id, 0, &from, &now);

	table_close(table, NoLock);
	*version = taken ? now.version : 0;
	return taken;
}

/* daybook.drop_snapshots(name) */
Datum
daybook_drop_snapshots(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {PG_GETARG_DATUM(0)};

	PreventCommandIfReadOnly("daybook.drop_snapshots()");
	RequireFoldOwner(RequireFoldDefinition(text_to_cstring(PG_GETARG_TEXT_PP(0))));
	PG_RETURN_INT64(RunOnOwnTables("DELETE FROM daybook.fold_snapshot WHERE fold = $1",
								   1, types, values, NULL));
}

SnapshotScan *
SnapshotScanBegin(FoldRun *run, Relation event_table, Snapshot snapshot)
{
	Relation	rel = table_open(DaybookRelation("fold_snapshot"), AccessShareLock);
	SnapshotScan *scan;

	if (RelationGetNumberOfBlocks(rel) == 0)
	{
		table_close(rel, AccessShareLock);
		return NULL;
	}
	scan = palloc(sizeof(SnapshotScan));
	scan->run = run;
	scan->rel = rel;
	scan->index = index_open(DaybookRelation("fold_snapshot_pkey"), AccessShareLock);
	scan->snapshot = snapshot;
	scan->fold = CStringGetTextDatum(FoldRunDefinition(run)->name);
	FoldRunFingerprint(run, event_table, scan->fingerprint);
	return scan;
}

void
SnapshotScanEnd(SnapshotScan *scan)
{
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, AccessShareLock);
	pfree(scan);
}

bool
SnapshotFind(SnapshotScan *scan, text *stream_id, int64 to_version, TimestampTz until,
			 Snapshotted *result)
{
	ScanKeyData keys[3];
	SysScanDesc rows;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], SNAPSHOT_FOLD, BTEqualStrategyNumber, F_TEXTEQ, scan->fold);
	ScanKeyInit(&keys[1], SNAPSHOT_STREAM_ID, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(stream_id));
	ScanKeyInit(&keys[2], SNAPSHOT_VERSION, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(to_version));
	rows = systable_beginscan_ordered(scan->rel, scan->index, scan->snapshot,
									  lengthof(keys), keys);
	do
	{
		tuple = systable_getnext_ordered(rows, BackwardScanDirection);
	} while (HeapTupleIsValid(tuple) && !is_usable(scan, tuple, until));
	if (HeapTupleIsValid(tuple))
		read_snapshot(scan, tuple, result);
	systable_endscan_ordered(rows);
	return HeapTupleIsValid(tuple);
}

static bool
is_usable(const SnapshotScan *scan, HeapTuple tuple, TimestampTz until)
{
	TupleDesc	desc = RelationGetDescr(scan->rel);
	bool		is_null;
	bytea	   *fingerprint;

	if (!TIMESTAMP_IS_NOEND(until) &&
		DatumGetTimestampTz(heap_getattr(tuple, SNAPSHOT_RECORDED_AT, desc, &is_null)) > until)
		return false;
	fingerprint = DatumGetByteaPP(heap_getattr(tuple, SNAPSHOT_FINGERPRINT, desc, &is_null));
	return VARSIZE_ANY_EXHDR(fingerprint) == FINGERPRINT_LENGTH &&
		memcmp(VARDATA_ANY(fingerprint), scan->fingerprint, FINGERPRINT_LENGTH) == 0;
}

static void
read_snapshot(const SnapshotScan *scan, HeapTuple tuple, Snapshotted *result)
{
	TupleDesc	desc = RelationGetDescr(scan->rel);
	bool		is_null;
	Datum		state;

	result->version = DatumGetInt64(heap_getattr(tuple, SNAPSHOT_VERSION, desc, &is_null));
	result->recorded_at =
		DatumGetTimestampTz(heap_getattr(tuple, SNAPSHOT_RECORDED_AT, desc, &is_null));
	state = heap_getattr(tuple, SNAPSHOT_STATE, desc, &result->is_null);
	result->state = result->is_null ? (Datum) 0 :
		unpack_state(FoldRunStateType(scan->run), DatumGetByteaPP(state));
}

/* A value of any type, as it would be stored in a column. */
static bytea *
pack_state(const StateType *type, Datum state)
{
	Size		size = type->by_value ? sizeof(Datum) : datumGetSize(state, false, type->len);
	bytea	   *packed = palloc(VARHDRSZ + size);

	SET_VARSIZE(packed, VARHDRSZ + size);
	memcpy(VARDATA(packed), type->by_value ? (char *) &state : DatumGetPointer(state), size);
	return packed;
}

static Datum
unpack_state(const StateType *type, bytea *packed)
{
	Size		size = VARSIZE_ANY_EXHDR(packed);
	char	   *state;
	Datum		value;

	if (type->by_value)
	{
		memcpy(&value, VARDATA_ANY(packed), sizeof(Datum));
		return value;
	}
	state = palloc(size);
	memcpy(state, VARDATA_ANY(packed), size);
	return PointerGetDatum(state);
}

/*
 * Functions that are replaced while they are called may have taken in some of
 * the events each: such a state must not be stored.
 */
bool
SnapshotTake(FoldRun *run, Relation event_table, text *stream_id, int64 max_events,
			 Snapshotted *from, Snapshotted *now)
{
	uint8		fingerprint[FINGERPRINT_LENGTH];

	FoldRunFingerprint(run, event_table, fingerprint);
	if (!FoldRunIsCurrent(run))
		return false;
	FoldStream(run, event_table, stream_id, PG_INT64_MAX, DT_NOEND, max_events, from, now);
	if (!FoldRunIsUnchanged(run, event_table))
		return false;
	if (now->version > from->version)
	{
		store(run, event_table, stream_id, now);
		thin_out(run, event_table, stream_id);
	}
	return true;
}

static void
store(FoldRun *run, Relation event_table, text *stream_id, const Snapshotted *snapshotted)
{
	const StateType *type = FoldRunStateType(run);
	Oid			types[] = {TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID, BYTEAOID, BYTEAOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	bytea	   *fingerprint = palloc(VARHDRSZ + FINGERPRINT_LENGTH);
	Datum		state = snapshotted->state;

	SET_VARSIZE(fingerprint, VARHDRSZ + FINGERPRINT_LENGTH);
	FoldRunFingerprint(run, event_table, (uint8 *) VARDATA(fingerprint));
	values[0] = CStringGetTextDatum(FoldRunDefinition(run)->name);
	values[1] = PointerGetDatum(stream_id);
	values[2] = Int64GetDatum(snapshotted->version);
	values[3] = TimestampTzGetDatum(snapshotted->recorded_at);
	values[4] = PointerGetDatum(fingerprint);
	if (snapshotted->is_null)
		nulls[5] = 'n';
	else
	{
		/* flat, and with nothing out of line */
		state = datumCopy(state, type->by_value, type->len);
		if (type->len == -1)
			state = PointerGetDatum(PG_DETOAST_DATUM(state));
		values[5] = PointerGetDatum(pack_state(type, state));
	}
	RunOnOwnTables("INSERT INTO daybook.fold_snapshot"
				   " (fold, stream_id, version, recorded_at, fingerprint, state)"
				   " VALUES ($1, $2, $3, $4, $5, $6)"
				   " ON CONFLICT (fold, stream_id, version) DO UPDATE SET"
				   " recorded_at = EXCLUDED.recorded_at, taken_at = EXCLUDED.taken_at,"
				   " fingerprint = EXCLUDED.fingerprint, state = EXCLUDED.state",
				   6, types, values, nulls);
}

/*
 * Deletes snapshots of a stream that are of no use any more: those taken with
 * another fingerprint, and of the others so many that distances from the
 * newest about double.  What remains is few, and for any earlier version there
 * is one from which it is not far.
 */
static void
thin_out(FoldRun *run, Relation event_table, text *stream_id)
{
	Oid			types[] = {TEXTOID, TEXTOID, BYTEAOID};
	bytea	   *fingerprint = palloc(VARHDRSZ + FINGERPRINT_LENGTH);
	Datum		values[3];
	Datum	   *dropped;
	int			count = 0;
	RunAs		caller;

	SET_VARSIZE(fingerprint, VARHDRSZ + FINGERPRINT_LENGTH);
	FoldRunFingerprint(run, event_table, (uint8 *) VARDATA(fingerprint));
	values[0] = CStringGetTextDatum(FoldRunDefinition(run)->name);
	values[1] = PointerGetDatum(stream_id);
	values[2] = PointerGetDatum(fingerprint);

	RunAsSuperuser(&caller);
	SPI_connect();
	if (SPI_execute_with_args("SELECT version, fingerprint = $3 FROM daybook.fold_snapshot"
							  " WHERE fold = $1 AND stream_id = $2 ORDER BY version DESC",
							  3, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read snapshots");
	dropped = palloc((SPI_processed + 1) * sizeof(Datum));
	choose_dropped(dropped, &count);
	if (count > 0)
	{
		types[2] = INT8ARRAYOID;
		values[2] = PointerGetDatum(construct_array(dropped, count, INT8OID, sizeof(int64),
													FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		SPI_execute_with_args("DELETE FROM daybook.fold_snapshot"
							  " WHERE fold = $1 AND stream_id = $2 AND version = ANY ($3)",
							  3, types, values, NULL, false, 0);
	}
	SPI_finish();
	RunAsEnd(&caller);
}

/* Goes through the versions that SPI has fetched, from the newest back. */
static void
choose_dropped(Datum *dropped, int *count)
{
	int64		newest = -1;
	int64		kept = -1;		/* the last that stays */
	int64		waiting = -1;	/* stays or not, as the next one tells */

	for (uint64 i = 0; i <= SPI_processed; i++)
	{
		HeapTuple	row = i < SPI_processed ? SPI_tuptable->vals[i] : NULL;
		bool		is_null;
		int64		version = 0;

		if (row)
		{
			version = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &is_null));
			if (!DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &is_null)))
			{
				dropped[(*count)++] = Int64GetDatum(version);
				continue;
			}
		}
		if (newest < 0)
			newest = kept = version;
		else
		{
			if (waiting >= 0 && newest - version <= 2 * (newest - kept))
				dropped[(*count)++] = Int64GetDatum(waiting);
			else if (waiting >= 0)
				kept = waiting;
			waiting = version;
		}
	}
}

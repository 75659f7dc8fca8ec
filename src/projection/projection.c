/*-------------------------------------------------------------------------
 *
 * projection.c
 *	  Reading and writing daybook.projection and daybook.projection_position.
 *
 * The rows are read with the latest snapshot, whatever the isolation level of
 * the calling transaction, since a worker may have moved on meanwhile; they
 * are written under ProjectionLock, so nobody ever waits for a row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "daybook.h"
#include "miscadmin.h"
#include "projection/projection.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* What there is to lock of a projection. */
#define LOCK_PROJECTION	0
#define LOCK_GATE		1
#define LOCK_WRITERS	2

/* columns of daybook.projection, from 0 */
enum
{
	P_NAME,
	P_OWNER,
	P_MODE,
	P_STATE,
	P_HANDLER_KIND,
	P_HANDLER,
	P_SOURCES,
	P_TABLES,
	P_TYPES,
	P_CATEGORIES,
	P_BATCH_SIZE,
	P_ON_ERROR,
	P_FROM_POSITION,
	P_CREATED_AT,
	P_RESTORED_PID,
	P_RESTORED_SESSION_START,
	P_REBUILD_OF,
	P_LIVE_TABLES,
	P_MAX_RATE,
	P_REBUILT_AT,
	P_INDEPENDENT_STREAMS,
	P_SHARE,
	P_SHARES,
	P_SHARE_END,
	P_COLUMNS
};

/* columns of daybook.projection_position, from 0 */
enum
{
	Q_NAME,
	Q_POSITION,
	Q_GENERATION,
	Q_PAUSED_AT_ID,
	Q_ATTEMPTS,
	Q_RETRY_AT,
	Q_FAILED_AT,
	Q_ERROR_SQLSTATE,
	Q_ERROR_MESSAGE,
	Q_ERROR_DETAIL,
	Q_ERROR_CONTEXT,
	Q_ERROR_POSITION,
	Q_ERROR_EVENT_TABLE,
	Q_ERROR_EVENT_ID,
	Q_UPDATED_AT,
	Q_COLUMNS
};

/* A scan of one of the two tables, of one row or of all. */
typedef struct OwnScan
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
} OwnScan;

static void own_scan_begin(OwnScan *scan, const char *table, const char *index, const char *name);
static void lock_rows(void);
static Relation open_own_table(const char *name, LOCKMODE lock);
static void own_scan_end(OwnScan *scan);
static int	compare_shares(const ListCell *a, const ListCell *b);
static Projection *projection_from_tuple(HeapTuple tuple, TupleDesc desc);
static void projection_values(const Projection *projection, Datum *values, bool *nulls);
static void progress_from_tuple(HeapTuple tuple, TupleDesc desc, ProjectionProgress *progress);
static void progress_values(const Projection *projection, const ProjectionProgress *progress,
							Datum *values, bool *nulls);
static Datum text_or_null(const char *value, bool *isnull);
static Datum int8_or_null(int64 value, bool *isnull);
static Oid	lock_id(const char *name);
static char *copy_text(Datum value, bool isnull);
static ArrayType *copy_array(Datum value, bool isnull);

/*
 * Lets one transaction at a time change a projection or apply a batch to it.
 * Two names with the same hash only wait for each other.
 */
void
ProjectionLock(const char *name)
{
	LockDatabaseObject(DaybookRelation("projection"), lock_id(name), LOCK_PROJECTION,
					   ExclusiveLock);
	lock_rows();
}

/*
 * Rows are replaced at the place where they were read, so the tables are locked
 * from before that: VACUUM FULL and CLUSTER move rows.
 */
static void
lock_rows(void)
{
	LockRelationOid(DaybookRelation("projection"), AccessShareLock);
	LockRelationOid(DaybookRelation("projection_position"), AccessShareLock);
}

/* Takes the lock if that needs no waiting. */
bool
ProjectionLockIfFree(const char *name)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, DaybookRelation("projection"), lock_id(name),
					   LOCK_PROJECTION);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	lock_rows();
	return true;
}

/* Has this transaction the lock, and so whoever would apply events waits for its end? */
bool
ProjectionIsLockedHere(const char *name)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, DaybookRelation("projection"), lock_id(name),
					   LOCK_PROJECTION);
	return lock_held_by_me_compat(&tag, ExclusiveLock);
}

/* Lets one writer at a time run an inline handler, to the end of his transaction. */
void
ProjectionLockWriters(const char *name)
{
	LockDatabaseObject(DaybookRelation("projection"), lock_id(name), LOCK_WRITERS, ExclusiveLock);
}

/*
 * The gate that a worker passes before each batch.  Who wants the lock from it
 * closes the gate, breaks off the batch, and opens it when he has the lock:
 * without that the worker might be in the next batch before he asks for it.
 */
void
ProjectionGateClose(const char *name)
{
	LockDatabaseObject(DaybookRelation("projection"), lock_id(name), LOCK_GATE, ExclusiveLock);
}

void
ProjectionGateOpen(const char *name)
{
	UnlockDatabaseObject(DaybookRelation("projection"), lock_id(name), LOCK_GATE, ExclusiveLock);
}

void
ProjectionGatePass(const char *name)
{
	ProjectionGateClose(name);
	ProjectionGateOpen(name);
}

static Oid
lock_id(const char *name)
{
	return (Oid) hash_bytes((const unsigned char *) name, strlen(name));
}

/* The definition of a projection, NULL if there is none of that name. */
Projection *
ProjectionLoad(const char *name)
{
	return ProjectionLoadIfNewer(name, NULL);
}

/* The same, giving back the known one as long as its row has not changed. */
Projection *
ProjectionLoadIfNewer(const char *name, const Projection *known)
{
	Projection *result = NULL;
	HeapTuple	tuple;
	OwnScan		scan;

	own_scan_begin(&scan, "projection", "projection_pkey", name);
	tuple = systable_getnext(scan.scan);
	if (HeapTupleIsValid(tuple))
	{
		if (known != NULL &&
			known->xmin == HeapTupleHeaderGetRawXmin(tuple->t_data) &&
			ItemPointerEquals(unconstify(ItemPointerData *, &known->tid), &tuple->t_self))
			result = unconstify(Projection *, known);
		else
			result = projection_from_tuple(tuple, RelationGetDescr(scan.rel));
	}
	own_scan_end(&scan);
	return result;
}

/* All projections of the database, in the order of their names. */
List *
ProjectionLoadAll(void)
{
	List	   *result = NIL;
	HeapTuple	tuple;
	OwnScan		scan;

	own_scan_begin(&scan, "projection", "projection_pkey", NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan.scan)))
		result = lappend(result, projection_from_tuple(tuple, RelationGetDescr(scan.rel)));
	own_scan_end(&scan);
	return result;
}

/* The rebuild of a projection that is in progress: its shares in their order, NIL if there is none. */
List *
ProjectionLoadRebuild(const char *name)
{
	List	   *shares = NIL;
	ListCell   *lc;

	foreach(lc, ProjectionLoadAll())
	{
		Projection *projection = lfirst(lc);

		if (projection->rebuild_of != NULL && strcmp(projection->rebuild_of, name) == 0)
			shares = lappend(shares, projection);
	}
	list_sort(shares, compare_shares);
	return shares;
}

static int
compare_shares(const ListCell *a, const ListCell *b)
{
	return ((Projection *) lfirst(a))->share - ((Projection *) lfirst(b))->share;
}

void
ProjectionInsert(Projection *projection)
{
	Relation	rel = open_own_table("projection", RowExclusiveLock);
	Datum		values[P_COLUMNS];
	bool		nulls[P_COLUMNS];
	HeapTuple	tuple;

	projection_values(projection, values, nulls);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple);
	projection->tid = tuple->t_self;
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
ProjectionSetState(Projection *projection, bool paused)
{
	projection->is_paused = paused;
	ProjectionUpdate(projection);
}

/* Takes away the mark of a load from a dump. */
void
ProjectionSetRestored(Projection *projection)
{
	projection->restored_pid = 0;
	projection->restored_session_start = 0;
	ProjectionUpdate(projection);
}

void
ProjectionDelete(Projection *projection)
{
	Relation	rel = open_own_table("projection", RowExclusiveLock);

	CatalogTupleDelete(rel, &projection->tid);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Reads how far a projection is; false if it has no row. */
bool
ProgressLoad(const char *name, ProjectionProgress *progress)
{
	HeapTuple	tuple;
	OwnScan		scan;

	own_scan_begin(&scan, "projection_position", "projection_position_pkey", name);
	tuple = systable_getnext(scan.scan);
	if (HeapTupleIsValid(tuple))
		progress_from_tuple(tuple, RelationGetDescr(scan.rel), progress);
	own_scan_end(&scan);
	return HeapTupleIsValid(tuple);
}

/*
 * The same, from where the row was last: as long as some old transaction keeps
 * all its versions, the index would lead through every one of them.
 */
bool
ProgressReload(const char *name, ProjectionProgress *progress)
{
	Relation	rel = open_own_table("projection_position", AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = false;

	/* VACUUM may have made the table shorter */
	if (ItemPointerIsValid(&progress->tid) &&
		ItemPointerGetBlockNumber(&progress->tid) < RelationGetNumberOfBlocks(rel) &&
		table_tuple_fetch_row_version(rel, &progress->tid, snapshot, slot))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, Q_NAME + 1, &isnull);

		found = strcmp(TextDatumGetCString(value), name) == 0;
		if (found)
			progress_from_tuple(ExecFetchSlotHeapTuple(slot, false, NULL), RelationGetDescr(rel), progress);
	}
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found || ProgressLoad(name, progress);
}

void
ProgressInsert(const Projection *projection, const ProjectionProgress *progress)
{
	Relation	rel = open_own_table("projection_position", RowExclusiveLock);
	Datum		values[Q_COLUMNS];
	bool		nulls[Q_COLUMNS];

	progress_values(projection, progress, values, nulls);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Replaces the row that progress was read from. */
void
ProgressUpdate(const Projection *projection, ProjectionProgress *progress)
{
	Relation	rel = open_own_table("projection_position", RowExclusiveLock);
	Datum		values[Q_COLUMNS];
	bool		nulls[Q_COLUMNS];
	HeapTuple	tuple;

	progress_values(projection, progress, values, nulls);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleUpdate(rel, &progress->tid, tuple);
	progress->tid = tuple->t_self;
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
ProgressDelete(const char *name)
{
	Relation	rel = open_own_table("projection_position", RowExclusiveLock);
	ProjectionProgress progress;

	if (ProgressLoad(name, &progress))
		CatalogTupleDelete(rel, &progress.tid);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* At once, as if it had not failed; what went wrong stays in sight until then. */
void
ProgressTryAgain(ProjectionProgress *progress)
{
	progress->attempts = 0;
	progress->retry_at = 0;
	progress->failed_at = 0;
}

void
ProgressClearError(ProjectionProgress *progress)
{
	ProgressTryAgain(progress);
	memset(&progress->error, 0, sizeof(ProjectionError));
}

/* A type of the extension, by its name in schema daybook. */
Oid
DaybookTypeOid(const char *name)
{
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									   CStringGetDatum(name),
									   ObjectIdGetDatum(GetDaybookOids()->schema));

	if (!OidIsValid(type))
		elog(ERROR, "type daybook.%s does not exist", name);
	return type;
}

/* Begins a scan for the row of one projection, or of all where name is NULL. */
static void
own_scan_begin(OwnScan *scan, const char *table, const char *index, const char *name)
{
	ScanKeyData key[1];

	if (name != NULL)
		ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_TEXTEQ,
					CStringGetTextDatum(name));
	scan->rel = open_own_table(table, AccessShareLock);
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan(scan->rel, DaybookRelation(index), true,
									scan->snapshot, name != NULL ? 1 : 0, key);
}

/* The columns must be those that this version of the library knows. */
static Relation
open_own_table(const char *name, LOCKMODE lock)
{
	Relation	rel = table_open(DaybookRelation(name), lock);
	int			columns = strcmp(name, "projection") == 0 ? P_COLUMNS : Q_COLUMNS;

	if (RelationGetDescr(rel)->natts != columns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table daybook.%s is not of this version of daybook", name),
				 errdetail("It has %d columns where the library knows %d.",
						   RelationGetDescr(rel)->natts, columns),
				 errhint("Restart the server after an upgrade, and say ALTER EXTENSION daybook UPDATE.")));
	return rel;
}

static void
own_scan_end(OwnScan *scan)
{
	systable_endscan(scan->scan);
	UnregisterSnapshot(scan->snapshot);
	table_close(scan->rel, AccessShareLock);
}

static Projection *
projection_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	Projection *projection = palloc0(sizeof(Projection));
	Datum		values[P_COLUMNS];
	bool		nulls[P_COLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	projection->name = copy_text(values[P_NAME], false);
	projection->owner = DatumGetObjectId(values[P_OWNER]);
	projection->is_inline = strcmp(copy_text(values[P_MODE], false), "inline") == 0;
	projection->is_paused = strcmp(copy_text(values[P_STATE], false), "paused") == 0;
	projection->has_function = strcmp(copy_text(values[P_HANDLER_KIND], false), "function") == 0;
	projection->handler = copy_text(values[P_HANDLER], false);
	projection->sources = copy_array(values[P_SOURCES], false);
	projection->tables = copy_array(values[P_TABLES], false);
	projection->types = copy_array(values[P_TYPES], nulls[P_TYPES]);
	projection->categories = copy_array(values[P_CATEGORIES], nulls[P_CATEGORIES]);
	projection->batch_size = DatumGetInt32(values[P_BATCH_SIZE]);
	projection->on_error = copy_text(values[P_ON_ERROR], false);
	projection->from_position = DatumGetInt64(values[P_FROM_POSITION]);
	projection->created_at = DatumGetTimestampTz(values[P_CREATED_AT]);
	if (!nulls[P_RESTORED_PID])
		projection->restored_pid = DatumGetInt32(values[P_RESTORED_PID]);
	if (!nulls[P_RESTORED_SESSION_START])
		projection->restored_session_start = DatumGetTimestampTz(values[P_RESTORED_SESSION_START]);
	projection->rebuild_of = copy_text(values[P_REBUILD_OF], nulls[P_REBUILD_OF]);
	projection->live_tables = copy_array(values[P_LIVE_TABLES], nulls[P_LIVE_TABLES]);
	projection->max_rate = DatumGetInt32(values[P_MAX_RATE]);
	if (!nulls[P_REBUILT_AT])
		projection->rebuilt_at = DatumGetTimestampTz(values[P_REBUILT_AT]);
	projection->independent_streams = DatumGetBool(values[P_INDEPENDENT_STREAMS]);
	projection->share = DatumGetInt32(values[P_SHARE]);
	projection->shares = DatumGetInt32(values[P_SHARES]);
	if (!nulls[P_SHARE_END])
		projection->share_end = DatumGetInt64(values[P_SHARE_END]);
	projection->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	projection->tid = tuple->t_self;
	return projection;
}

static void
projection_values(const Projection *projection, Datum *values, bool *nulls)
{
	memset(nulls, false, sizeof(bool) * P_COLUMNS);
	values[P_NAME] = CStringGetTextDatum(projection->name);
	values[P_OWNER] = ObjectIdGetDatum(projection->owner);
	values[P_MODE] = CStringGetTextDatum(projection->is_inline ? "inline" : "async");
	values[P_STATE] = CStringGetTextDatum(projection->is_paused ? "paused" : "running");
	values[P_HANDLER_KIND] = CStringGetTextDatum(projection->has_function ? "function" : "sql");
	values[P_HANDLER] = CStringGetTextDatum(projection->handler);
	values[P_SOURCES] = PointerGetDatum(projection->sources);
	values[P_TABLES] = PointerGetDatum(projection->tables);
	values[P_TYPES] = PointerGetDatum(projection->types);
	nulls[P_TYPES] = projection->types == NULL;
	values[P_CATEGORIES] = PointerGetDatum(projection->categories);
	nulls[P_CATEGORIES] = projection->categories == NULL;
	values[P_BATCH_SIZE] = Int32GetDatum(projection->batch_size);
	values[P_ON_ERROR] = CStringGetTextDatum(projection->on_error);
	values[P_FROM_POSITION] = Int64GetDatum(projection->from_position);
	values[P_CREATED_AT] = TimestampTzGetDatum(projection->created_at);
	values[P_RESTORED_PID] = Int32GetDatum(projection->restored_pid);
	nulls[P_RESTORED_PID] = projection->restored_pid == 0;
	values[P_RESTORED_SESSION_START] = TimestampTzGetDatum(projection->restored_session_start);
	nulls[P_RESTORED_SESSION_START] = projection->restored_pid == 0;
	values[P_REBUILD_OF] = text_or_null(projection->rebuild_of, &nulls[P_REBUILD_OF]);
	values[P_LIVE_TABLES] = PointerGetDatum(projection->live_tables);
	nulls[P_LIVE_TABLES] = projection->live_tables == NULL;
	values[P_MAX_RATE] = Int32GetDatum(projection->max_rate);
	values[P_REBUILT_AT] = int8_or_null(projection->rebuilt_at, &nulls[P_REBUILT_AT]);
	values[P_INDEPENDENT_STREAMS] = BoolGetDatum(projection->independent_streams);
	values[P_SHARE] = Int32GetDatum(projection->share);
	values[P_SHARES] = Int32GetDatum(projection->shares);
	values[P_SHARE_END] = Int64GetDatum(projection->share_end);
	nulls[P_SHARE_END] = projection->shares == 1;
}

/* Replaces the row that the projection was read from. */
void
ProjectionUpdate(Projection *projection)
{
	Relation	rel = open_own_table("projection", RowExclusiveLock);
	Datum		values[P_COLUMNS];
	bool		nulls[P_COLUMNS];
	HeapTuple	tuple;

	projection_values(projection, values, nulls);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleUpdate(rel, &projection->tid, tuple);
	projection->tid = tuple->t_self;
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

static void
progress_from_tuple(HeapTuple tuple, TupleDesc desc, ProjectionProgress *progress)
{
	Datum		values[Q_COLUMNS];
	bool		nulls[Q_COLUMNS];
	ProjectionError *error = &progress->error;

	heap_deform_tuple(tuple, desc, values, nulls);
	progress->position = nulls[Q_POSITION] ? 0 : DatumGetInt64(values[Q_POSITION]);
	progress->generation = DatumGetInt64(values[Q_GENERATION]);
	progress->paused_at_id = nulls[Q_PAUSED_AT_ID] ? 0 : DatumGetInt64(values[Q_PAUSED_AT_ID]);
	progress->attempts = DatumGetInt32(values[Q_ATTEMPTS]);
	progress->retry_at = nulls[Q_RETRY_AT] ? 0 : DatumGetTimestampTz(values[Q_RETRY_AT]);
	progress->failed_at = nulls[Q_FAILED_AT] ? 0 : DatumGetTimestampTz(values[Q_FAILED_AT]);
	error->sqlstate = copy_text(values[Q_ERROR_SQLSTATE], nulls[Q_ERROR_SQLSTATE]);
	error->message = copy_text(values[Q_ERROR_MESSAGE], nulls[Q_ERROR_MESSAGE]);
	error->detail = copy_text(values[Q_ERROR_DETAIL], nulls[Q_ERROR_DETAIL]);
	error->context = copy_text(values[Q_ERROR_CONTEXT], nulls[Q_ERROR_CONTEXT]);
	error->position = nulls[Q_ERROR_POSITION] ? 0 : DatumGetInt64(values[Q_ERROR_POSITION]);
	error->event_table = nulls[Q_ERROR_EVENT_TABLE] ? InvalidOid : DatumGetObjectId(values[Q_ERROR_EVENT_TABLE]);
	error->event_id = nulls[Q_ERROR_EVENT_ID] ? 0 : DatumGetInt64(values[Q_ERROR_EVENT_ID]);
	progress->tid = tuple->t_self;
}

static void
progress_values(const Projection *projection, const ProjectionProgress *progress,
				Datum *values, bool *nulls)
{
	const ProjectionError *error = &progress->error;

	memset(nulls, false, sizeof(bool) * Q_COLUMNS);
	values[Q_NAME] = CStringGetTextDatum(projection->name);
	values[Q_POSITION] = Int64GetDatum(progress->position);
	nulls[Q_POSITION] = projection->is_inline;
	values[Q_GENERATION] = Int64GetDatum(progress->generation);
	values[Q_PAUSED_AT_ID] = Int64GetDatum(progress->paused_at_id);
	nulls[Q_PAUSED_AT_ID] = !(projection->is_inline && projection->is_paused);
	values[Q_ATTEMPTS] = Int32GetDatum(progress->attempts);
	values[Q_RETRY_AT] = int8_or_null(progress->retry_at, &nulls[Q_RETRY_AT]);
	values[Q_FAILED_AT] = int8_or_null(progress->failed_at, &nulls[Q_FAILED_AT]);
	values[Q_ERROR_SQLSTATE] = text_or_null(error->sqlstate, &nulls[Q_ERROR_SQLSTATE]);
	values[Q_ERROR_MESSAGE] = text_or_null(error->message, &nulls[Q_ERROR_MESSAGE]);
	values[Q_ERROR_DETAIL] = text_or_null(error->detail, &nulls[Q_ERROR_DETAIL]);
	values[Q_ERROR_CONTEXT] = text_or_null(error->context, &nulls[Q_ERROR_CONTEXT]);
	values[Q_ERROR_POSITION] = int8_or_null(error->position, &nulls[Q_ERROR_POSITION]);
	values[Q_ERROR_EVENT_TABLE] = ObjectIdGetDatum(error->event_table);
	nulls[Q_ERROR_EVENT_TABLE] = !OidIsValid(error->event_table);
	values[Q_ERROR_EVENT_ID] = int8_or_null(error->event_id, &nulls[Q_ERROR_EVENT_ID]);
	values[Q_UPDATED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
}

static Datum
text_or_null(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

/* for bigint and for timestamptz, which is one */
static Datum
int8_or_null(int64 value, bool *isnull)
{
	*isnull = value == 0;
	return Int64GetDatum(value);
}

static char *
copy_text(Datum value, bool isnull)
{
	return isnull ? NULL : TextDatumGetCString(value);
}

static ArrayType *
copy_array(Datum value, bool isnull)
{
	return isnull ? NULL : DatumGetArrayTypePCopy(value);
}

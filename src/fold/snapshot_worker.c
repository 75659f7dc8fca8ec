/*-------------------------------------------------------------------------
 *
 * snapshot_worker.c
 *	  The worker that takes snapshots of folds, off the path of appends.
 *
 * It follows the log.  Where it meets a version that is a multiple of a fold's
 * snapshot_every, the stream gets a snapshot of its present state, unless it
 * has one that is nearly as new.  Folds that are equally far in the log share
 * the reading.  A fold whose fingerprint has changed starts again from the
 * beginning of the log.
 *
 * All work is done in short transactions.  What is lost in a crash is done
 * again: a snapshot may be taken twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "daybook.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "executor/spi.h"
#include "fold/fold.h"
#include "fold/snapshot_worker.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replay/event_reader.h"
#include "schema/schema_ddl.h"
#include "sequencer/log_scan.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "subtransaction.h"
#include "tcop/tcopprot.h"
#include "user_function.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "worker/worker_session.h"
#include "worker/worker_state.h"

/* Positions of the log that are read at a time. */
#define CHUNK_POSITIONS		5000

/* A transaction takes no further snapshots after this time, in milliseconds. */
#define TRANSACTION_TIME	100

/* Events that are folded before the state is stored and the rest put off. */
#define EVENTS_PER_SNAPSHOT	20000

/* A stream whose events take longer than this, in milliseconds, is given up. */
#define STREAM_TIMEOUT		60000

/* With nothing published, look for changed functions after this time, in milliseconds. */
#define IDLE_NAPTIME		60000

/* Pause before a worker that has ended is started again, in milliseconds. */
#define RESTART_PAUSE		5000

/* A fold that takes snapshots. */
typedef struct FoldTask
{
	char	   *name;
	Oid			event_table;
	int32		every;
	int64		position;		/* the log has been read up to here */
	uint8		fingerprint[FINGERPRINT_LENGTH];	/* zero: not known yet */
	bool		ready;
	bool		reported;		/* an error in this chunk, to the server's log */
} FoldTask;

/* A stream that may need a snapshot. */
typedef struct Candidate
{
	FoldTask   *task;
	text	   *stream_id;
	int64		version;		/* that has come by in the log */
	bool		unfinished;		/* more is to be done, whatever has been stored */
} Candidate;

/* Something of a fold's that is given STREAM_TIMEOUT. */
typedef struct GuardedCall
{
	void		(*function) (void *arg);
	void	   *arg;
} GuardedCall;

typedef enum StepResult
{
	STEP_MORE,
	STEP_CAUGHT_UP,
	STEP_EXIT
} StepResult;

/* The chunk of the log that is being worked on. */
static MemoryContext chunk_context;
static List *group = NIL;			/* FoldTask: folds that the chunk was read for */
static List *candidates = NIL;
static int64 chunk_end;
static uint64 wait_beyond = 0;		/* head of the log when all was done */

static BackgroundWorkerHandle *worker_handle = NULL;
static bool shortage_reported = false;

static bool snapshots_wanted(void);
static void start_worker(void);
static StepResult step(void);
static List *load_tasks(void);
static FoldTask *make_task(HeapTuple row, TupleDesc desc);
static void read_chunk(List *tasks, int64 head);
static void choose_group(List *tasks, int64 head, int64 *start, int64 *boundary);
static void check_task(void *arg);
static void require_owner_reads(const FoldRun *run);
static ArrayType *tables_of_group(void);
static void note_event(const LogEvent *event, TupleDesc desc);
static void take_snapshots(void);
static bool run_guarded(void (*function) (void *arg), void *arg, FoldTask *task,
						text *stream_id);
static bool run_in_time(void *arg);
static void take_candidate(void *arg);
static bool has_recent_snapshot(FoldRun *run, Relation table, const Candidate *candidate);
static void store_position(const FoldTask *task);
static void record_error(FoldTask *task, text *stream_id, const ErrorData *error);
static void wait_for_events(DatabaseState *db, pid_t parent);

/*
 * In the database's worker
 */

/* The postmaster sets our latch when a worker that we have started ends. */
bool
SnapshotWorkerHasEnded(void)
{
	pid_t		pid;

	return worker_handle && GetBackgroundWorkerPid(worker_handle, &pid) == BGWH_STOPPED;
}

long
SnapshotWorkerSupervise(void)
{
	static TimestampTz started_at = 0;

	if (SnapshotWorkerHasEnded())
	{
		pfree(worker_handle);
		worker_handle = NULL;
	}
	if (worker_handle || !snapshots_wanted())
		return -1;
	if (!TimestampDifferenceExceeds(started_at, GetCurrentTimestamp(), RESTART_PAUSE))
		return RESTART_PAUSE;
	started_at = GetCurrentTimestamp();
	start_worker();
	return worker_handle ? -1 : RESTART_PAUSE;
}

static bool
snapshots_wanted(void)
{
	bool		wanted = false;

	StartTransactionCommand();
	if (OidIsValid(LockDaybookExtension()))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		wanted = load_tasks() != NIL;
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	return wanted;
}

static void
start_worker(void)
{
	BackgroundWorker worker = {0};
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, DAYBOOK_EXTENSION, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "daybook_snapshot_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "daybook snapshots for database %u", MyDatabaseId);
	strlcpy(worker.bgw_type, "daybook snapshots", BGW_MAXLEN);
	if (RegisterDynamicBackgroundWorker(&worker, &worker_handle))
		shortage_reported = false;
	else
	{
		worker_handle = NULL;
		if (!shortage_reported)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("daybook could not start a worker for snapshots of folds"),
					 errhint("Increase max_worker_processes; until then folds are computed without new snapshots.")));
		shortage_reported = true;
	}
	MemoryContextSwitchTo(caller);
}

/*
 * In the worker itself
 */

void
daybook_snapshot_worker_main(Datum arg)
{
	DatabaseState *db;
	pid_t		parent;
	StepResult	result = STEP_MORE;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	WorkerConnect(DatumGetObjectId(arg));
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", "daybook snapshots", PGC_USERSET, PGC_S_OVERRIDE);
	WorkerAttach(false);
	db = MyDatabaseState();
	parent = db ? db->worker_pid : 0;
	chunk_context = AllocSetContextCreate(TopMemoryContext, "daybook snapshot chunk",
										  ALLOCSET_DEFAULT_SIZES);

	while (result != STEP_EXIT && !WorkerMustStop() && db->worker_pid == parent)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		result = step();
		pgstat_report_stat(true);
		if (result == STEP_CAUGHT_UP)
			wait_for_events(db, parent);
	}
	proc_exit(0);
}

/* One transaction: reads a chunk of the log, or takes snapshots for the one read. */
static StepResult
step(void)
{
	StepResult	result = STEP_MORE;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!OidIsValid(LockDaybookExtension()))
	{
		CommitTransactionCommand();
		return STEP_EXIT;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	if (group == NIL)
	{
		int64		head = LogHead(GetActiveSnapshot());
		List	   *tasks;

		MemoryContextReset(chunk_context);
		MemoryContextSwitchTo(chunk_context);
		tasks = load_tasks();
		read_chunk(tasks, head);
		wait_beyond = head;
		if (group == NIL)
			result = tasks == NIL ? STEP_EXIT : STEP_CAUGHT_UP;
	}
	if (group != NIL)
		take_snapshots();
	PopActiveSnapshot();
	CommitTransactionCommand();
	return result;
}

/* The folds that take snapshots, in the current memory context. */
static List *
load_tasks(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *tasks = NIL;

	SPI_connect();
	if (SPI_execute("SELECT d.name, d.event_table, d.snapshot_every, coalesce(p.position, 0), p.fingerprint"
					" FROM daybook.fold_definition d"
					" LEFT JOIN daybook.fold_progress p ON p.fold = d.name"
					" WHERE d.snapshot_every > 0", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the definitions of folds");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		tasks = lappend(tasks, make_task(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(caller);
	}
	SPI_finish();
	return tasks;
}

static FoldTask *
make_task(HeapTuple row, TupleDesc desc)
{
	FoldTask   *task = palloc0(sizeof(FoldTask));
	bool		is_null;
	Datum		fingerprint;

	task->name = TextDatumGetCString(SPI_getbinval(row, desc, 1, &is_null));
	task->event_table = DatumGetObjectId(SPI_getbinval(row, desc, 2, &is_null));
	task->every = DatumGetInt32(SPI_getbinval(row, desc, 3, &is_null));
	task->position = DatumGetInt64(SPI_getbinval(row, desc, 4, &is_null));
	fingerprint = SPI_getbinval(row, desc, 5, &is_null);
	if (!is_null && VARSIZE_ANY_EXHDR(DatumGetPointer(fingerprint)) == FINGERPRINT_LENGTH)
		memcpy(task->fingerprint, VARDATA_ANY(DatumGetPointer(fingerprint)), FINGERPRINT_LENGTH);
	return task;
}

/*
 * Reads the log for those folds that are furthest behind, and notes which
 * streams may need a snapshot.
 */
static void
read_chunk(List *tasks, int64 head)
{
	EventFilter filter = {0};
	EventReader *reader;
	LogEvent   *event;
	TupleDesc	desc;
	int64		start;
	int64		boundary;

	choose_group(tasks, head, &start, &boundary);
	if (group == NIL)
		return;
	filter.event_tables = tables_of_group();
	filter.as_stored = true;
	reader = EventReaderBegin(GetActiveSnapshot(), start, &filter, false);
	EventReaderLimit(reader, Min(CHUNK_POSITIONS, boundary - start));
	desc = lookup_rowtype_tupdesc(GetDaybookOids()->event_type, -1);
	while ((event = EventReaderNext(reader)) != NULL)
		note_event(event, desc);
	ReleaseTupleDesc(desc);
	chunk_end = EventReaderPosition(reader);
	EventReaderEnd(reader);
}

/* The folds that are furthest behind, and how far they are alone with that. */
static void
choose_group(List *tasks, int64 head, int64 *start, int64 *boundary)
{
	ListCell   *lc;

	*start = head;
	*boundary = head;
	foreach(lc, tasks)
	{
		FoldTask   *task = lfirst(lc);

		if (task->position >= head ||
			!run_guarded(check_task, task, task, NULL) || !task->ready)
			continue;
		if (task->position < *start)
		{
			*boundary = *start;
			*start = task->position;
			list_free(group);
			group = NIL;
		}
		if (task->position == *start)
			group = lappend(group, task);
		else
			*boundary = Min(*boundary, task->position);
	}
}

/*
 * A changed fold starts again: its streams need new snapshots.  A dump restores
 * a table's keys and triggers after its rows.
 */
static void
check_task(void *arg)
{
	FoldTask   *task = arg;
	FoldRun    *run = FoldRunAcquire(task->name);
	Relation	table = table_open(task->event_table, AccessShareLock);
	const EventTable *known = LookUpEventTable(table);
	uint8		present[FINGERPRINT_LENGTH];

	task->ready = known->has_trigger && OidIsValid(known->id_index) &&
		OidIsValid(known->stream_index);
	if (task->ready)
		require_owner_reads(run);
	FoldRunFingerprint(run, table, present);
	table_close(table, NoLock);
	FoldRunRelease(run);
	if (memcmp(present, task->fingerprint, FINGERPRINT_LENGTH) == 0)
		return;
	memcpy(task->fingerprint, present, FINGERPRINT_LENGTH);
	task->position = 0;
}

/* What the transition gets to see, its owner can keep. */
static void
require_owner_reads(const FoldRun *run)
{
	const FoldDefinition *definition = FoldRunDefinition(run);
	RunAs		caller;

	RunAsRole(&caller, definition->owner, "pg_catalog, pg_temp");
	CheckEventTableReadable(definition->event_table);
	RunAsEnd(&caller);
}

static ArrayType *
tables_of_group(void)
{
	Datum	   *tables = palloc(list_length(group) * sizeof(Datum));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, group)
		tables[count++] = ObjectIdGetDatum(((FoldTask *) lfirst(lc))->event_table);
	return construct_array(tables, count, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT);
}

static void
note_event(const LogEvent *event, TupleDesc desc)
{
	bool		is_null;
	int64		version = DatumGetInt64(heap_getattr(event->tuple, EVENT_VERSION, desc, &is_null));
	ListCell   *lc;

	foreach(lc, group)
	{
		FoldTask   *task = lfirst(lc);
		Candidate  *candidate;

		if (task->event_table != event->event_table || version % task->every != 0)
			continue;
		candidate = palloc0(sizeof(Candidate));
		candidate->task = task;
		candidate->version = version;
		candidate->stream_id =
			DatumGetTextPCopy(heap_getattr(event->tuple, EVENT_STREAM_ID, desc, &is_null));
		candidates = lappend(candidates, candidate);
	}
}

/* Takes snapshots for some time; when all are taken, the chunk is done with. */
static void
take_snapshots(void)
{
	TimestampTz began = GetCurrentTimestamp();
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "daybook snapshot",
												  ALLOCSET_DEFAULT_SIZES);
	ListCell   *lc;

	while (candidates != NIL &&
		   !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), TRANSACTION_TIME))
	{
		Candidate  *candidate = linitial(candidates);

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		if (!run_guarded(take_candidate, candidate, candidate->task, candidate->stream_id))
			candidate->unfinished = false;
		MemoryContextReset(context);
		if (!candidate->unfinished)
			candidates = list_delete_first(candidates);
	}
	MemoryContextSwitchTo(chunk_context);
	MemoryContextDelete(context);
	if (candidates != NIL)
		return;
	foreach(lc, group)
		store_position(lfirst(lc));
	group = NIL;
}

/*
 * Runs something that can fail because of a fold's functions, in a
 * subtransaction.  False: it failed, and the fold's row says why.
 */
static bool
run_guarded(void (*function) (void *arg), void *arg, FoldTask *task, text *stream_id)
{
	GuardedCall call = {function, arg};
	ErrorData  *error = RunInSubtransaction(run_in_time, &call);

	if (error == NULL)
		return true;
	QueryCancelPending = false;
	/* what is in hand when a fold is dropped comes to nothing */
	if (LoadFoldDefinition(task->name))
		record_error(task, stream_id, error);
	return false;
}

static bool
run_in_time(void *arg)
{
	GuardedCall *call = arg;

	enable_timeout_after(STATEMENT_TIMEOUT, STREAM_TIMEOUT);
	PG_TRY();
	{
		call->function(call->arg);
	}
	PG_FINALLY();
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
	}
	PG_END_TRY();
	return true;
}

/* Stores the state of the stream, or what can be computed of it in short time. */
static void
take_candidate(void *arg)
{
	Candidate  *candidate = arg;
	FoldRun    *run = FoldRunAcquire(candidate->task->name);
	Relation	table = table_open(FoldRunDefinition(run)->event_table, AccessShareLock);
	Snapshotted from;
	Snapshotted now;

	require_owner_reads(run);
	if (candidate->unfinished || !has_recent_snapshot(run, table, candidate))
		candidate->unfinished = !SnapshotTake(run, table, candidate->stream_id, EVENTS_PER_SNAPSHOT,
											  &from, &now) ||
			now.version - from.version >= EVENTS_PER_SNAPSHOT;
	table_close(table, NoLock);
	FoldRunRelease(run);
}

/* A stream that has moved on may have been stored beyond the version met. */
static bool
has_recent_snapshot(FoldRun *run, Relation table, const Candidate *candidate)
{
	SnapshotScan *scan = SnapshotScanBegin(run, table, GetActiveSnapshot());
	Snapshotted newest;
	bool		found = false;

	if (scan)
	{
		found = SnapshotFind(scan, candidate->stream_id, PG_INT64_MAX, DT_NOEND, &newest) &&
			newest.version > candidate->version - candidate->task->every;
		SnapshotScanEnd(scan);
	}
	return found;
}

/*
 * A fold that is dropped meanwhile is waited for at its definition, which goes
 * before what refers to it.
 */
static void
store_position(const FoldTask *task)
{
	Oid			types[] = {TEXTOID, INT8OID, BYTEAOID};
	bytea	   *fingerprint = palloc(VARHDRSZ + FINGERPRINT_LENGTH);
	Datum		values[3];

	SET_VARSIZE(fingerprint, VARHDRSZ + FINGERPRINT_LENGTH);
	memcpy(VARDATA(fingerprint), task->fingerprint, FINGERPRINT_LENGTH);
	values[0] = CStringGetTextDatum(task->name);
	values[1] = Int64GetDatum(chunk_end);
	values[2] = PointerGetDatum(fingerprint);
	RunOnOwnTables("INSERT INTO daybook.fold_progress (fold, position, fingerprint)"
				" SELECT name, $2, $3 FROM daybook.fold_definition WHERE name = $1 FOR KEY SHARE"
				" ON CONFLICT (fold) DO UPDATE SET position = EXCLUDED.position,"
				" fingerprint = EXCLUDED.fingerprint",
				3, types, values, NULL);
}

/*
 * The fold goes on with other streams; a stream is tried again when it has
 * grown.  What stands in the way of all of them would be noted with every
 * event that is published: the same error is noted once a minute.
 */
static void
record_error(FoldTask *task, text *stream_id, const ErrorData *error)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4] = {' ', stream_id ? ' ' : 'n', ' ', ' '};
	bool		is_news;

	values[0] = CStringGetTextDatum(task->name);
	values[1] = PointerGetDatum(stream_id);
	values[2] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[3] = CStringGetTextDatum(error->message);
	is_news = RunOnOwnTables("INSERT INTO daybook.fold_progress AS p"
							 " (fold, position, error_at, error_stream_id, error_sqlstate, error_message)"
							 " SELECT name, 0, pg_catalog.clock_timestamp(), $2, $3, $4"
							 " FROM daybook.fold_definition WHERE name = $1 FOR KEY SHARE"
							 " ON CONFLICT (fold) DO UPDATE SET error_at = EXCLUDED.error_at,"
							 " error_stream_id = EXCLUDED.error_stream_id,"
							 " error_sqlstate = EXCLUDED.error_sqlstate,"
							 " error_message = EXCLUDED.error_message"
							 " WHERE (p.error_stream_id, p.error_sqlstate, p.error_message)"
							 " IS DISTINCT FROM (EXCLUDED.error_stream_id, EXCLUDED.error_sqlstate, EXCLUDED.error_message)"
							 " OR p.error_at < EXCLUDED.error_at - interval '1 minute'",
							 4, types, values, nulls) > 0;
	ereport(task->reported || !is_news ? DEBUG1 : LOG,
			(errcode(error->sqlerrcode),
			 errmsg("could not take a snapshot of fold \"%s\": %s", task->name, error->message),
			 error->context ? errcontext("%s", error->context) : 0));
	task->reported = true;
}

/* Wakes up when events were published, or when a fold was created. */
static void
wait_for_events(DatabaseState *db, pid_t parent)
{
	pgstat_report_activity(STATE_IDLE, NULL);
	ConditionVariablePrepareToSleep(&db->published);
	if (!WorkerMustStop() && db->worker_pid == parent &&
		pg_atomic_read_u64(&db->head) <= wait_beyond)
		(void) ConditionVariableTimedSleep(&db->published, IDLE_NAPTIME, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/*-------------------------------------------------------------------------
 *
 * worker_state.c
 *	  Shared memory of backends and workers, and waking across a commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "daybook.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/wait_event.h"
#include "worker/worker_state.h"

/* Pauses between starts of a worker that keeps failing, in milliseconds. */
#define FIRST_RESTART_PAUSE		100
#define LAST_RESTART_PAUSE		30000

/* Pause before a worker that left no trace is started again, in milliseconds. */
#define START_PAUSE				1000

/* A worker that has lived this long, in milliseconds, starts a new count. */
#define HEALTHY_LIFETIME		10000

/* How long a command waits for a database's workers to go, in milliseconds. */
#define HOLD_TIMEOUT			10000

/* A process of ours that is connected to a database. */
typedef struct WorkerProcess
{
	pid_t		pid;			/* 0: free */
	Oid			database;
} WorkerProcess;

typedef struct WorkerState
{
	LWLock	   *lock;
	Latch	   *launcher_latch;
	ConditionVariable process_ended;
	int			process_count;
	WorkerProcess *processes;
	DatabaseState databases[FLEXIBLE_ARRAY_MEMBER];
} WorkerState;

static WorkerState *state = NULL;

/* What this transaction's commit has to bring about. */
static bool wake_at_commit = false;
static bool supervise_at_commit = false;
static bool start_at_commit = false;
static bool rescan_at_commit = false;

/* This session has waited for the last commit of its own, and may for the next. */
static bool awaits_own_commits = false;

/* Somebody has asked this process to end, which is no failure of it. */
static volatile sig_atomic_t asked_to_end = false;

static DatabaseState *enter_database(void);
static DatabaseState *find_database(Oid database);
static DatabaseState *find_or_add_database(Oid database);
static void detach(int code, Datum is_database_worker);
static void note_end(DatabaseState *db, bool failed);
static int	signal_processes(Oid database);
static void wake_launcher(void);
static void raise_to(pg_atomic_uint64 *target, uint64 value);
static void end_of_transaction(XactEvent event, void *arg);

Size
WorkerStateSize(void)
{
	Size		size = MAXALIGN(offsetof(WorkerState, databases));

	size = add_size(size, mul_size(daybook_max_databases, sizeof(DatabaseState)));
	return add_size(size, mul_size(max_worker_processes, sizeof(WorkerProcess)));
}

void
WorkerStateInit(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	state = ShmemInitStruct("daybook workers", WorkerStateSize(), &found);
	if (!found)
	{
		memset(state, 0, WorkerStateSize());
		state->lock = &GetNamedLWLockTranche(DAYBOOK_EXTENSION)->lock;
		state->process_count = max_worker_processes;
		state->processes = (WorkerProcess *) &state->databases[daybook_max_databases];
		ConditionVariableInit(&state->process_ended);
		for (int i = 0; i < daybook_max_databases; i++)
		{
			DatabaseState *db = &state->databases[i];

			pg_atomic_init_u64(&db->head, 0);
			pg_atomic_init_u64(&db->sequenced_lsn, 0);
			pg_atomic_init_u64(&db->log_lsn, 0);
			pg_atomic_init_u64(&db->flush_request, 0);
			pg_atomic_init_u64(&db->awaited_lsn, 0);
			ConditionVariableInit(&db->published);
			ConditionVariableInit(&db->projected);
			pg_atomic_init_u32(&db->waiting_consumers, 0);
			for (int j = 0; j < WAITING_CONSUMER_COUNTERS; j++)
				pg_atomic_init_u32(&db->waiting_for[j], 0);
			pg_atomic_init_u64(&db->consumer_changes, 0);
			pg_atomic_init_u64(&db->consumer_refusals, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

bool
WorkerStateAvailable(void)
{
	return state != NULL;
}

/* For what cannot be done without workers. */
void
RequirePreload(void)
{
	if (state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("daybook is not loaded by the server"),
				 /* which not everybody may see */
				 superuser() ? errdetail("shared_preload_libraries is \"%s\".",
										 GetConfigOption("shared_preload_libraries", false, false)) : 0,
				 errhint("Add daybook to shared_preload_libraries and restart the server.")));
}

void
WorkerCallbacksInit(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
}

DatabaseState *
MyDatabaseState(void)
{
	static DatabaseState *mine = NULL;

	if (state == NULL)
		return NULL;
	if (mine == NULL || mine->database != MyDatabaseId)
	{
		LWLockAcquire(state->lock, LW_SHARED);
		mine = find_database(MyDatabaseId);
		LWLockRelease(state->lock);
	}
	return mine;
}

/*
 * For a session that is going to wait for the database's worker.  It may be
 * here before the launcher, which has still to come after the server's start
 * or the database's creation.
 */
DatabaseState *
MyDatabaseStateToWait(void)
{
	DatabaseState *db = MyDatabaseState();

	RequirePreload();
	if (db == NULL)
		db = enter_database();
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has no daybook worker"),
				 errhint("Look for the reason in the server's log; daybook.max_databases may be too small.")));
	return db;
}

/* NULL when there is no room. */
static DatabaseState *
enter_database(void)
{
	DatabaseState *db;
	bool		starts_worker;

	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	db = find_or_add_database(MyDatabaseId);
	if (db)
		db->look_again = true;
	starts_worker = db && db->worker_pid == 0;
	LWLockRelease(state->lock);
	/* a worker that is there wakes the launcher when it ends */
	if (starts_worker)
		wake_launcher();
	return db;
}

static DatabaseState *
find_database(Oid database)
{
	for (int i = 0; i < daybook_max_databases; i++)
		if (state->databases[i].database == database)
			return &state->databases[i];
	return NULL;
}

/* Is there no entry left for another database? */
bool
WorkerStateIsFull(void)
{
	bool		full;

	LWLockAcquire(state->lock, LW_SHARED);
	full = find_database(InvalidOid) == NULL;
	LWLockRelease(state->lock);
	return full;
}

/* NULL when there is no room. */
static DatabaseState *
find_or_add_database(Oid database)
{
	DatabaseState *db = find_database(database);

	if (db != NULL)
		return db;
	db = find_database(InvalidOid);
	if (db == NULL)
		return NULL;
	db->database = database;
	db->held = 0;
	db->look_again = false;
	db->failures = 0;
	db->start_after = 0;
	db->worker_pid = 0;
	db->worker_latch = NULL;
	db->supervise = false;
	db->mode = SEQUENCER_STOPPED;
	db->hint[0] = '\0';
	db->started_at = 0;
	db->last_published_at = 0;
	db->low_water = 0;
	db->open_gaps = 0;
	db->decoded_lsn = InvalidXLogRecPtr;
	pg_atomic_write_u64(&db->head, 0);
	pg_atomic_write_u64(&db->sequenced_lsn, 0);
	pg_atomic_write_u64(&db->log_lsn, 0);
	pg_atomic_write_u64(&db->flush_request, 0);
	pg_atomic_write_u64(&db->awaited_lsn, 0);
	return db;
}

/*
 * A latch is in its process's PGPROC and can be set at any time; a process
 * that has taken the place of ours looks at its latch in vain.
 */
void
WakeDatabaseWorker(void)
{
	DatabaseState *db = MyDatabaseState();
	Latch	   *latch = db ? db->worker_latch : NULL;

	if (latch)
		SetLatch(latch);
}

void
WakeDatabaseWorkerAtCommit(void)
{
	wake_at_commit = true;
}

/* The list of projections has changed: some worker may be missing or too many. */
void
SuperviseAtCommit(void)
{
	supervise_at_commit = true;
}

/* The extension has been created here. */
void
StartDatabaseWorkerAtCommit(void)
{
	start_at_commit = true;
}

/* A database has been created, perhaps from one that has the extension. */
void
RescanDatabasesAtCommit(void)
{
	rescan_at_commit = true;
}

/* Has the sequencer see to all commits up to lsn at once: this session waits for it. */
void
RequestSequencing(XLogRecPtr lsn)
{
	DatabaseState *db = MyDatabaseState();

	if (db == NULL)
		return;
	raise_to(&db->flush_request, lsn);
	raise_to(&db->awaited_lsn, lsn);
	WakeDatabaseWorker();
}

/*
 * Somebody who reads his own writes commits, is answered, and asks again: by
 * then his next commit can have been seen to.
 */
void
OwnCommitIsAwaited(void)
{
	awaits_own_commits = true;
}

static void
raise_to(pg_atomic_uint64 *target, uint64 value)
{
	uint64		current = pg_atomic_read_u64(target);

	while (current < value &&
		   !pg_atomic_compare_exchange_u64(target, &current, value))
		;
}

/*
 * The commit is visible to others by now, and so are its events to a
 * sequencer that we wake.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
	{
		DatabaseState *db;

		if (start_at_commit && state)
			(void) enter_database();
		if (rescan_at_commit && state)
			wake_launcher();
		db = wake_at_commit || supervise_at_commit ? MyDatabaseState() : NULL;
		if (db)
		{
			raise_to(&db->flush_request, XactLastCommitEnd);
			if (awaits_own_commits)
				raise_to(&db->awaited_lsn, XactLastCommitEnd);
			if (supervise_at_commit)
			{
				db->supervise = true;
				ConditionVariableBroadcast(&db->published);
				ConditionVariableBroadcast(&db->projected);
			}
			pg_memory_barrier();
			if (supervise_at_commit || awaits_own_commits || !db->resting)
				WakeDatabaseWorker();
			awaits_own_commits = false;
		}
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		wake_at_commit = supervise_at_commit = start_at_commit = rescan_at_commit = false;
}

static void
wake_launcher(void)
{
	Latch	   *latch = state->launcher_latch;

	if (latch)
		SetLatch(latch);
}

/*
 * Keeps the launcher from starting workers in a database until
 * ReleaseDatabase().  False when there is no room to note it, in which case
 * there is no worker either.
 */
bool
HoldDatabase(Oid database)
{
	DatabaseState *db;

	if (state == NULL)
		return false;
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	db = find_or_add_database(database);
	if (db)
		db->held++;
	LWLockRelease(state->lock);
	return db != NULL;
}

/* Ends our processes in a database that is being held. */
void
EndDatabaseProcesses(Oid database)
{
	ConditionVariablePrepareToSleep(&state->process_ended);
	while (signal_processes(database) > 0)
		if (ConditionVariableTimedSleep(&state->process_ended, HOLD_TIMEOUT,
										PG_WAIT_EXTENSION))
			break;
	ConditionVariableCancelSleep();
}

/* Has the form of an exit callback, since the session may end while it holds on. */
void
ReleaseDatabase(int code, Datum database)
{
	DatabaseState *db;

	ConditionVariableCancelSleep();
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	db = find_database(DatumGetObjectId(database));
	if (db)
		db->held--;
	LWLockRelease(state->lock);
	wake_launcher();
}

/* Tells all our processes of a database to end; returns how many there are. */
static int
signal_processes(Oid database)
{
	int			count = 0;

	LWLockAcquire(state->lock, LW_SHARED);
	for (int i = 0; i < state->process_count; i++)
		if (state->processes[i].pid != 0 && state->processes[i].database == database)
		{
			kill(state->processes[i].pid, SIGTERM);
			count++;
		}
	LWLockRelease(state->lock);
	return count;
}

/* SIGTERM */
void
WorkerAskedToEnd(SIGNAL_ARGS)
{
	asked_to_end = true;
	die(postgres_signal_arg);
}

/*
 * Enters this process into the list of its database's processes; it leaves
 * at exit.  A second worker of a database ends at once.
 */
void
WorkerAttach(bool is_database_worker)
{
	DatabaseState *db;
	bool		attached = false;

	/* after core has let go of our replication slot, which DROP DATABASE looks for */
	on_shmem_exit(detach, BoolGetDatum(is_database_worker));
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	db = find_database(MyDatabaseId);
	if (db && db->held == 0 && !(is_database_worker && db->worker_pid != 0))
	{
		for (int i = 0; i < state->process_count && !attached; i++)
			if (state->processes[i].pid == 0)
			{
				state->processes[i].pid = MyProcPid;
				state->processes[i].database = MyDatabaseId;
				attached = true;
			}
		if (is_database_worker && attached)
		{
			db->worker_pid = MyProcPid;
			db->worker_latch = MyLatch;
			db->look_again = false;
			db->hint[0] = '\0';
			db->resting = false;
			db->started_at = GetCurrentTimestamp();
			db->last_published_at = 0;
			db->open_gaps = 0;
			db->decoded_lsn = InvalidXLogRecPtr;
			db->mode = SEQUENCER_STARTING;
			db->supervise = true;
		}
	}
	LWLockRelease(state->lock);
	if (!attached)
		proc_exit(0);
}

static void
detach(int code, Datum is_database_worker)
{
	DatabaseState *db;

	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < state->process_count; i++)
		if (state->processes[i].pid == MyProcPid)
			state->processes[i].pid = 0;
	db = find_database(MyDatabaseId);
	if (db && db->worker_pid == MyProcPid)
		note_end(db, code != 0 && !asked_to_end);
	LWLockRelease(state->lock);
	ConditionVariableBroadcast(&state->process_ended);
	if (DatumGetBool(is_database_worker))
		wake_launcher();
	else if (db && db->worker_latch)
	{
		db->supervise = true;
		SetLatch(db->worker_latch);
	}
}

/* A worker that fails again and again is started again after growing pauses. */
static void
note_end(DatabaseState *db, bool failed)
{
	TimestampTz now = GetCurrentTimestamp();
	int			pause = FIRST_RESTART_PAUSE;

	if (TimestampDifferenceExceeds(db->started_at, now, HEALTHY_LIFETIME))
		db->failures = 0;
	if (failed)
	{
		pause <<= Min(db->failures, 10);
		db->failures++;
		strlcpy(db->hint, "the worker has failed and will be started again; the server's log says why",
				SEQUENCER_HINT_LEN);
	}
	db->start_after = TimestampTzPlusMilliseconds(now, Min(pause, LAST_RESTART_PAUSE));
	db->worker_pid = 0;
	db->worker_latch = NULL;
	db->mode = SEQUENCER_STOPPED;
}

/* Does a command need this database to itself? */
bool
WorkerMustStop(void)
{
	DatabaseState *db = MyDatabaseState();

	return db == NULL || db->held > 0;
}

/*
 * Called by the database's worker when it finds no extension: frees the
 * entry, unless the extension has been created since the worker came.
 */
void
DatabaseWithoutExtension(void)
{
	DatabaseState *db;

	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	db = find_database(MyDatabaseId);
	if (db && db->held == 0 && !db->look_again)
	{
		db->database = InvalidOid;
		/* projectors have to look, and end */
		ConditionVariableBroadcast(&db->published);
	}
	LWLockRelease(state->lock);
}

/* What the status view says of a database that has no worker. */
void
DatabaseHint(Oid database, const char *hint)
{
	DatabaseState *db;

	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	db = find_database(database);
	if (db && db->worker_pid == 0)
		strlcpy(db->hint, hint, SEQUENCER_HINT_LEN);
	LWLockRelease(state->lock);
}

void
LauncherAttach(void)
{
	state->launcher_latch = MyLatch;
}

/* Has there been one since the server's start?  One that ends comes again. */
bool
LauncherHasCome(void)
{
	return state->launcher_latch != NULL;
}

/*
 * Which databases want a worker now, of those that exist.  A database that is
 * neither in the table nor looked into before is entered: its worker leaves
 * again if it finds no extension.  Lowers *timeout to the milliseconds until a failed worker is
 * due again.
 */
List *
DatabasesWanted(List *existing, List *looked_into, long *timeout)
{
	List	   *wanted = NIL;
	ListCell   *lc;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < daybook_max_databases; i++)
	{
		DatabaseState *db = &state->databases[i];

		if (OidIsValid(db->database) && db->held == 0 && db->worker_pid == 0 &&
			!list_member_oid(existing, db->database))
			db->database = InvalidOid;
	}
	foreach(lc, existing)
	{
		DatabaseState *db = find_database(lfirst_oid(lc));

		if (db == NULL && !list_member_oid(looked_into, lfirst_oid(lc)))
			db = find_or_add_database(lfirst_oid(lc));
		if (db == NULL || db->held > 0 || db->worker_pid != 0)
			continue;
		if (db->start_after <= now)
		{
			wanted = lappend_oid(wanted, db->database);
			/* in case it ends before it comes to WorkerAttach() */
			db->start_after = TimestampTzPlusMilliseconds(now, START_PAUSE);
		}
		else
			*timeout = Min(*timeout,
						   TimestampDifferenceMilliseconds(now, db->start_after) + 1);
	}
	LWLockRelease(state->lock);
	return wanted;
}

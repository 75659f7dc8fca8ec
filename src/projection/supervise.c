/*-------------------------------------------------------------------------
 *
 * supervise.c
 *	  Starting the workers of this database's asynchronous projections.
 *
 * As long as daybook.max_projectors allows, each projection has a worker of
 * its own.  When it does not, workers that have nothing to do make room for
 * projections with events to apply, and after them those whose turn has been
 * long enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "daybook.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "projection/projection.h"
#include "projection/projector.h"
#include "projection/projector_slots.h"
#include "sequencer/log_scan.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/* milliseconds */
#define TURN				1000	/* a busy worker keeps its place this long */
#define RESTART_PAUSE		1000	/* after a worker ended in an error */
#define RESTORE_PAUSE		1000	/* between looks at whether a load is over */
#define START_TIMEOUT		60000	/* after which a worker will not come any more */

/* A projection without a worker. */
typedef struct Candidate
{
	const char *name;
	bool		has_work;
	TimestampTz last_launch;
} Candidate;

/* A launch of this process that may still fail to become a process. */
typedef struct PendingLaunch
{
	ProjectorLaunch launch;
	BackgroundWorkerHandle *handle;
} PendingLaunch;

typedef struct LaunchTime
{
	char		name[NAMEDATALEN];
	TimestampTz time;
} LaunchTime;

static List *pending_launches = NIL;
static HTAB *launch_times = NULL;
static bool shortage_reported = false;

static void reap_pending_launches(void);
static List *find_candidates(long *next_call);
static bool being_restored(const Projection *projection);
static bool may_start(const char *name, long *next_call);
static Candidate *make_candidate(const Projection *projection, int64 head);
static int	compare_candidates(const ListCell *a, const ListCell *b);
static bool start(const Candidate *candidate, long *next_call);
static void make_room(int left_out);
static bool launch_worker(const ProjectorLaunch *launch);
static TimestampTz *launch_time(const char *name);
static void call_within(long *next_call, long milliseconds);

long
ProjectorsSupervise(void)
{
	long		next_call = -1;
	ListCell   *lc;

	reap_pending_launches();
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (OidIsValid(get_extension_oid(DAYBOOK_EXTENSION, true)))
	{
		int			left_out = 0;

		PushActiveSnapshot(GetTransactionSnapshot());
		foreach(lc, find_candidates(&next_call))
			left_out += start(lfirst(lc), &next_call) ? 0 : 1;
		PopActiveSnapshot();
		make_room(left_out);
	}
	CommitTransactionCommand();
	if (pending_launches != NIL)
		call_within(&next_call, RESTART_PAUSE);
	return next_call;
}

/* Takes back the slots of workers that the postmaster could not start. */
static void
reap_pending_launches(void)
{
	List	   *still_pending = NIL;
	ListCell   *lc;
	MemoryContext save = MemoryContextSwitchTo(TopMemoryContext);

	foreach(lc, pending_launches)
	{
		PendingLaunch *pending = lfirst(lc);
		pid_t		pid;

		switch (GetBackgroundWorkerPid(pending->handle, &pid))
		{
			case BGWH_NOT_YET_STARTED:
				still_pending = lappend(still_pending, pending);
				continue;
			case BGWH_STARTED:
				break;
			case BGWH_STOPPED:
			case BGWH_POSTMASTER_DIED:
				ProjectorSlotFree(&pending->launch);
				break;
		}
		pfree(pending->handle);
		pfree(pending);
	}
	list_free(pending_launches);
	pending_launches = still_pending;
	MemoryContextSwitchTo(save);
}

/* Projections that should have a worker and have none, most urgent first. */
static List *
find_candidates(long *next_call)
{
	List	   *candidates = NIL;
	int64		head = LogHead(GetActiveSnapshot());
	ListCell   *lc;

	foreach(lc, ProjectionLoadAll())
	{
		Projection *projection = lfirst(lc);

		if (projection->is_inline || projection->is_paused)
			continue;
		if (being_restored(projection))
			call_within(next_call, RESTORE_PAUSE);
		else if (may_start(projection->name, next_call))
			candidates = lappend(candidates, make_candidate(projection, head));
	}
	list_sort(candidates, compare_candidates);
	return candidates;
}

/*
 * Whether the load of a dump that the projection came with is still going on:
 * the session that loaded it is there, or any session of pg_restore.
 */
static bool
being_restored(const Projection *projection)
{
	Oid			types[2] = {INT4OID, TIMESTAMPTZOID};
	Datum		values[2];
	OwnerContext superuser;
	bool		result;

	if (projection->restored_pid == 0)
		return false;
	values[0] = Int32GetDatum(projection->restored_pid);
	values[1] = TimestampTzGetDatum(projection->restored_session_start);
	SuperuserContextEnter(&superuser);
	SPI_connect();
	if (SPI_execute_with_args("SELECT FROM pg_stat_activity"
							  " WHERE datname = current_database() AND pid <> pg_backend_pid()"
							  " AND (application_name = 'pg_restore' OR (pid = $1 AND backend_start = $2))",
							  2, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the sessions of a restore");
	result = SPI_processed > 0;
	SPI_finish();
	OwnerContextLeave(&superuser);
	return result;
}

/* True if the projection has no worker, and its last one did not just fail. */
static bool
may_start(const char *name, long *next_call)
{
	ProjectorSlot slot;
	TimestampTz now = GetCurrentTimestamp();

	if (!ProjectorSlotFind(name, &slot))
		return true;
	if (OidIsValid(slot.database))
		return slot.pid == 0 && TimestampDifferenceExceeds(slot.since, now, START_TIMEOUT);
	if (TimestampDifferenceExceeds(slot.since, now, RESTART_PAUSE))
		return true;
	call_within(next_call, RESTART_PAUSE);
	return false;
}

/* A rebuild that has caught up still has to exchange the tables. */
static Candidate *
make_candidate(const Projection *projection, int64 head)
{
	Candidate  *candidate = palloc(sizeof(Candidate));
	ProjectionProgress progress;

	candidate->name = projection->name;
	candidate->has_work = ProgressLoad(projection->name, &progress) &&
		(progress.position < head || projection->rebuild_of != NULL) &&
		progress.retry_at <= GetCurrentTimestamp();
	candidate->last_launch = *launch_time(projection->name);
	return candidate;
}

/* Those with work first, then those that have waited longest. */
static int
compare_candidates(const ListCell *a, const ListCell *b)
{
	const Candidate *ca = lfirst(a);
	const Candidate *cb = lfirst(b);

	if (ca->has_work != cb->has_work)
		return ca->has_work ? -1 : 1;
	if (ca->last_launch != cb->last_launch)
		return ca->last_launch < cb->last_launch ? -1 : 1;
	return 0;
}

/* Starts a worker; false if there is work for it, and no place. */
static bool
start(const Candidate *candidate, long *next_call)
{
	ProjectorLaunch launch;

	if (!ProjectorSlotReserve(candidate->name, &launch))
	{
		if (daybook_max_projectors > 0)
			call_within(next_call, TURN);
		return !candidate->has_work;
	}
	if (launch_worker(&launch))
	{
		shortage_reported = false;
		*launch_time(candidate->name) = GetCurrentTimestamp();
		return true;
	}
	ProjectorSlotFree(&launch);
	call_within(next_call, RESTART_PAUSE);
	if (!shortage_reported)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for projection \"%s\"", candidate->name),
				 errdetail("max_worker_processes is %d.", max_worker_processes),
				 errhint("Increase max_worker_processes; until then projections wait for their turn.")));
	shortage_reported = true;
	return !candidate->has_work;
}

/* Asks workers to end, for as many projections with work that have none. */
static void
make_room(int left_out)
{
	DatabaseState *database = MyDatabaseState();
	TimestampTz turn_began = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -TURN);
	bool		asked = ProjectorSlotsTrim();

	if (ProjectorSlotsVacate(left_out, turn_began) || asked)
		ConditionVariableBroadcast(&database->published);
}

static bool
launch_worker(const ProjectorLaunch *launch)
{
	BackgroundWorker worker;
	PendingLaunch *pending;
	MemoryContext save = MemoryContextSwitchTo(TopMemoryContext);
	bool		launched;

	StaticAssertStmt(sizeof(ProjectorLaunch) <= BGW_EXTRALEN, "ProjectorLaunch must fit into bgw_extra");
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, DAYBOOK_EXTENSION, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "daybook_projector_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "daybook projector", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "daybook projector for %s", launch->name);
	memcpy(worker.bgw_extra, launch, sizeof(ProjectorLaunch));

	pending = palloc(sizeof(PendingLaunch));
	pending->launch = *launch;
	launched = RegisterDynamicBackgroundWorker(&worker, &pending->handle);
	if (launched)
		pending_launches = lappend(pending_launches, pending);
	else
		pfree(pending);
	MemoryContextSwitchTo(save);
	return launched;
}

/* When this process last started a worker for a projection. */
static TimestampTz *
launch_time(const char *name)
{
	LaunchTime *entry;
	bool		found;

	if (launch_times == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(LaunchTime);
		launch_times = hash_create("daybook projector launches", 16, &ctl,
								   HASH_ELEM | HASH_STRINGS);
	}
	entry = hash_search(launch_times, name, HASH_ENTER, &found);
	if (!found)
		entry->time = 0;
	return &entry->time;
}

static void
call_within(long *next_call, long milliseconds)
{
	if (*next_call < 0 || milliseconds < *next_call)
		*next_call = milliseconds;
}

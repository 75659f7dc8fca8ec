/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  Rebuilding a projection while its old rows are served.
 *
 * A rebuild is a projection of its own, from the same events into copies of
 * the tables.  So it has a worker, a position, retries and parked events like
 * any other, and goes on after a restart where it was.  When it has caught up,
 * its worker exchanges the files of tables and copies, takes its position and
 * its parked events over to the projection, and removes itself.
 *
 * In parallel, it begins as several projections into the same copies, each for
 * a share of the streams, up to the end that the log has then.  Whoever comes
 * there last lets all go on to the new end if that is far, or else has one of
 * them go on alone, as any rebuild.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "projection/parking.h"
#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "sequencer/log_scan.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/*
 * Events in a batch of a rebuild, unless its caller says how many.  A row that
 * many events go to is written once in each batch, so few large batches are
 * several times as fast.  A function is called for each event anyhow, and an
 * error costs it the whole batch.
 */
#define REBUILD_BATCH_SIZE			5000000
#define REBUILD_FUNCTION_BATCH_SIZE	5000

/* So many events, for each of the workers, are not left to one alone. */
#define REBUILD_ROUND_EVENTS		50000

/* A rebuild that this session asked for; one that was rolled back has no row with that time. */
typedef struct AskedFor
{
	char		name[NAMEDATALEN];	/* of the projection */
	TimestampTz created_at;		/* of the rebuild */
} AskedFor;

/* in TopMemoryContext */
static List *asked_for = NIL;

static void note_asked_for(const Projection *rebuild);
static AskedFor *find_asked_for(const char *name);
static int	batch_size_of(const Projection *projection, const RebuildOptions *options);
static void start_share(const Projection *rebuild);
static Projection *find_share(List *shares, const char *name);
static bool is_at_end(const Projection *share);
static bool all_at_end(List *shares);
static void begin_round(List *shares, int64 end);
static void go_on_alone(List *shares);
static char *share_name(const char *rebuild, int share);
static char *rebuild_name(int shares);
static bool name_is_free(const char *name, int shares);

/* Starts the rebuild of a projection, which the caller has locked. */
void
RebuildStart(const Projection *projection, const RebuildOptions *options)
{
	Projection	rebuild = *projection;

	rebuild.name = rebuild_name(options->parallel);
	rebuild.is_paused = false;
	rebuild.restored_pid = 0;
	rebuild.batch_size = batch_size_of(projection, options);
	rebuild.created_at = GetCurrentTimestamp();
	rebuild.rebuild_of = projection->name;
	rebuild.live_tables = projection->tables;
	rebuild.max_rate = options->max_rate;
	rebuild.tables = CopiesCreate(projection, rebuild.name, true);
	rebuild.shares = options->parallel;
	rebuild.share_end = Max(LogHead(GetActiveSnapshot()), rebuild.from_position);
	for (rebuild.share = 0; rebuild.share < rebuild.shares; rebuild.share++)
		start_share(&rebuild);
	SuperviseAtCommit();
	note_asked_for(&rebuild);
}

static void
note_asked_for(const Projection *rebuild)
{
	AskedFor   *asked = find_asked_for(rebuild->rebuild_of);

	if (asked == NULL)
	{
		MemoryContext save = MemoryContextSwitchTo(TopMemoryContext);

		asked = palloc(sizeof(AskedFor));
		strlcpy(asked->name, rebuild->rebuild_of, NAMEDATALEN);
		asked_for = lappend(asked_for, asked);
		MemoryContextSwitchTo(save);
	}
	asked->created_at = rebuild->created_at;
}

static AskedFor *
find_asked_for(const char *name)
{
	ListCell   *lc;

	foreach(lc, asked_for)
	{
		if (strcmp(((AskedFor *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	}
	return NULL;
}

static int
batch_size_of(const Projection *projection, const RebuildOptions *options)
{
	if (options->batch_size > 0)
		return options->batch_size;
	return Max(projection->batch_size,
			   projection->has_function ? REBUILD_FUNCTION_BATCH_SIZE : REBUILD_BATCH_SIZE);
}

static void
start_share(const Projection *rebuild)
{
	Projection	share = *rebuild;
	ProjectionProgress progress;

	share.name = share_name(rebuild->name, rebuild->share);
	ProjectionInsert(&share);
	memset(&progress, 0, sizeof(progress));
	progress.position = share.from_position;
	ProgressInsert(&share, &progress);
}

/* Whether there is a rebuild that this session asked for. */
bool
RebuildWasAskedFor(const char *name)
{
	AskedFor   *asked = find_asked_for(name);
	List	   *shares = asked ? ProjectionLoadRebuild(name) : NIL;

	return shares != NIL && ((Projection *) linitial(shares))->created_at == asked->created_at;
}

/*
 * Has the rebuild of a projection, which the caller has locked, try again at
 * once where it has failed, and do with errors what it is told, if anything.
 */
void
RebuildTryAgain(const char *name, const char *on_error)
{
	ListCell   *lc;

	foreach(lc, ProjectionLoadRebuild(name))
		ProjectionLockFromWorker(((Projection *) lfirst(lc))->name);
	/* it may have changed while this waited for the locks */
	foreach(lc, ProjectionLoadRebuild(name))
	{
		Projection *share = lfirst(lc);
		ProjectionProgress progress;

		if (!ProgressLoad(share->name, &progress))
			elog(ERROR, "projection \"%s\" has no progress", share->name);
		if (on_error != NULL)
		{
			share->on_error = pstrdup(on_error);
			ProjectionUpdate(share);
		}
		ProgressTryAgain(&progress);
		ProjectionSaveChange(share, &progress);
	}
}

/* A projection that is paused stays as it is: its rebuild waits with the exchange. */
bool
RebuildIsHeldUp(const Projection *rebuild)
{
	Projection *projection = ProjectionLoad(rebuild->rebuild_of);

	return projection != NULL && projection->is_paused;
}

/* Gives up the rebuild of a projection, which the caller has locked; false if there is none. */
bool
RebuildCancel(const char *name)
{
	List	   *shares = ProjectionLoadRebuild(name);
	ListCell   *lc;

	if (shares == NIL)
		return false;
	foreach(lc, shares)
	{
		Projection *share = lfirst(lc);

		ProjectionLockFromWorker(share->name);
	}
	/* it may have changed while this waited for the locks */
	shares = ProjectionLoadRebuild(name);
	foreach(lc, shares)
	{
		Projection *share = lfirst(lc);

		if (share->share == 0)
			CopiesDrop(share->name);
		ParkedDelete(share->name);
		ProgressDelete(share->name);
		ProjectionDelete(share);
		ProjectorNotifyAtCommit(share->name);
	}
	return true;
}

/*
 * Called by a worker that has come to the end of its share, without a lock.
 * The last of them decides how the rebuild goes on; others stop, which makes
 * room for those who have no worker yet.  Returns whether this one goes on.
 */
bool
RebuildShareDone(const Projection *share)
{
	List	   *shares = ProjectionLoadRebuild(share->rebuild_of);
	bool		is_last = all_at_end(shares);
	Projection *first;
	Projection *own;
	int64		head;
	ListCell   *lc;

	/* in the order of shares, so that two who end at once do not block each other */
	foreach(lc, shares)
	{
		Projection *other = lfirst(lc);

		if (is_last || strcmp(other->name, share->name) == 0)
			ProjectionLock(other->name);
	}
	shares = ProjectionLoadRebuild(share->rebuild_of);
	own = find_share(shares, share->name);
	if (own == NULL)
		return false;
	/* another worker was faster */
	if (own->shares == 1 || !is_at_end(own))
		return true;
	if (!is_last)
	{
		ProjectionSetState(own, true);
		return false;
	}
	first = linitial(shares);
	head = LogHead(GetActiveSnapshot());
	if (head - first->share_end > (int64) REBUILD_ROUND_EVENTS * first->shares)
	{
		begin_round(shares, head);
		return true;
	}
	go_on_alone(shares);
	return own == first;
}

static Projection *
find_share(List *shares, const char *name)
{
	ListCell   *lc;

	foreach(lc, shares)
	{
		if (strcmp(((Projection *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	}
	return NULL;
}

static bool
is_at_end(const Projection *share)
{
	ProjectionProgress progress;

	return ProgressLoad(share->name, &progress) && progress.position >= share->share_end;
}

static bool
all_at_end(List *shares)
{
	ListCell   *lc;

	foreach(lc, shares)
	{
		if (!is_at_end(lfirst(lc)))
			return false;
	}
	return true;
}

/* Lets all shares go on to a new end. */
static void
begin_round(List *shares, int64 end)
{
	ListCell   *lc;

	foreach(lc, shares)
	{
		Projection *share = lfirst(lc);

		share->share_end = end;
		ProjectionSetState(share, false);
		ProjectorNotifyAtCommit(share->name);
	}
	SuperviseAtCommit();
}

/* Lets the first share be all of the rebuild from here on. */
static void
go_on_alone(List *shares)
{
	Projection *first = linitial(shares);
	ProjectionProgress progress;
	ListCell   *lc;

	for_each_from(lc, shares, 1)
	{
		Projection *other = lfirst(lc);

		ParkedMove(other->name, first->name);
		ProgressDelete(other->name);
		ProjectionDelete(other);
		ProjectorNotifyAtCommit(other->name);
	}
	first->shares = 1;
	ProjectionSetState(first, false);
	if (!ProgressLoad(first->name, &progress))
		elog(ERROR, "projection \"%s\" has no progress", first->name);
	ProjectionSaveChange(first, &progress);
	SuperviseAtCommit();
}

/*
 * Puts the rebuilt rows in the place of the old ones.  The projection and its
 * rebuild are locked.  False if the projection has got ahead of the rebuild.
 */
bool
RebuildSwap(Projection *rebuild, ProjectionProgress *progress)
{
	Projection *projection = ProjectionLoad(rebuild->rebuild_of);
	ProjectionProgress live;

	if (projection == NULL || !ProgressLoad(projection->name, &live))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\", which was being rebuilt, does not exist any more", rebuild->rebuild_of)));
	if (progress->position < live.position)
		return false;

	CopiesLockForExchange(projection, rebuild->tables);
	CheckTablesNotShared(projection);
	CheckTablesNotReferenced(projection);
	CopiesExchange(projection, rebuild->tables);
	ParkedDelete(projection->name);
	ParkedMove(rebuild->name, projection->name);
	live.position = progress->position;
	ProgressClearError(&live);
	projection->has_function = rebuild->has_function;
	projection->handler = rebuild->handler;
	projection->rebuilt_at = GetCurrentTimestamp();
	ProjectionUpdate(projection);
	ProjectionSaveChange(projection, &live);
	ProgressDelete(rebuild->name);
	ProjectionDelete(ProjectionLoad(rebuild->name));
	return true;
}

/* The first share has the name of the rebuild, which is that of the copies' schema too. */
static char *
share_name(const char *rebuild, int share)
{
	return share == 0 ? pstrdup(rebuild) : psprintf("%s_%d", rebuild, share);
}

/*
 * A name that neither a schema nor, for any of its shares, a projection has.
 * What is begun at the same time cannot be seen yet, but has its name locked.
 */
static char *
rebuild_name(int shares)
{
	for (int n = 1;; n++)
	{
		char	   *name = psprintf("daybook_rebuild_%d", n);

		CHECK_FOR_INTERRUPTS();
		/* it may have come to be before the lock was free */
		if (name_is_free(name, shares) && ProjectionLockIfFree(name) &&
			name_is_free(name, shares))
			return name;
		pfree(name);
	}
}

static bool
name_is_free(const char *name, int shares)
{
	if (OidIsValid(get_namespace_oid(name, true)))
		return false;
	for (int share = 0; share < shares; share++)
	{
		if (ProjectionLoad(share_name(name, share)) != NULL)
			return false;
	}
	return true;
}

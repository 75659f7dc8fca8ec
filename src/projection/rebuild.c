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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "projection/parking.h"
#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/*
 * Events in a batch of a rebuild, at least: large batches are several times as
 * fast.  A function is called for each event anyhow, and an error costs it the
 * whole batch.
 */
#define REBUILD_BATCH_SIZE			50000
#define REBUILD_FUNCTION_BATCH_SIZE	5000

/* projections whose rebuild this session asked for, in TopMemoryContext */
static List *asked_for = NIL;

static char *rebuild_name(void);

/* Starts the rebuild of a projection, which the caller has locked. */
void
RebuildStart(const Projection *projection, int max_rate)
{
	Projection	rebuild = *projection;
	ProjectionProgress progress;
	int			batch_size = projection->has_function ? REBUILD_FUNCTION_BATCH_SIZE : REBUILD_BATCH_SIZE;
	MemoryContext save;

	rebuild.name = rebuild_name();
	rebuild.is_paused = false;
	rebuild.restored_pid = 0;
	rebuild.batch_size = Max(projection->batch_size, batch_size);
	rebuild.created_at = GetCurrentTimestamp();
	rebuild.rebuild_of = projection->name;
	rebuild.live_tables = projection->tables;
	rebuild.max_rate = max_rate;
	rebuild.tables = CopiesCreate(projection, rebuild.name, true);
	ProjectionInsert(&rebuild);
	memset(&progress, 0, sizeof(progress));
	progress.position = rebuild.from_position;
	ProgressInsert(&rebuild, &progress);
	SuperviseAtCommit();

	save = MemoryContextSwitchTo(TopMemoryContext);
	if (!RebuildWasAskedFor(projection->name))
		asked_for = lappend(asked_for, pstrdup(projection->name));
	MemoryContextSwitchTo(save);
}

/* Whether this session asked for the rebuild, if there is one. */
bool
RebuildWasAskedFor(const char *name)
{
	ListCell   *lc;

	foreach(lc, asked_for)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* Gives up the rebuild of a projection, which the caller has locked; false if there is none. */
bool
RebuildCancel(const char *name)
{
	Projection *rebuild = ProjectionLoadRebuild(name);

	if (rebuild == NULL)
		return false;
	ProjectionLockFromWorker(rebuild->name);
	rebuild = ProjectionLoadRebuild(name);
	CopiesDrop(rebuild->name);
	ParkedDelete(rebuild->name);
	ProgressDelete(rebuild->name);
	ProjectionDelete(rebuild);
	ProjectorNotifyAtCommit(rebuild->name);
	return true;
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

	CopiesExchange(projection, rebuild->tables);
	ParkedDelete(projection->name);
	ParkedMove(rebuild->name, projection->name);
	live.position = progress->position;
	live.attempts = 0;
	live.retry_at = 0;
	live.failed_at = 0;
	memset(&live.error, 0, sizeof(ProjectionError));
	projection->has_function = rebuild->has_function;
	projection->handler = rebuild->handler;
	projection->rebuilt_at = GetCurrentTimestamp();
	ProjectionUpdate(projection);
	ProjectionSaveChange(projection, &live);
	ProgressDelete(rebuild->name);
	ProjectionDelete(ProjectionLoad(rebuild->name));
	return true;
}

/* A name that neither a projection nor a schema has. */
static char *
rebuild_name(void)
{
	for (int n = 1;; n++)
	{
		char	   *name = psprintf("daybook_rebuild_%d", n);

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(get_namespace_oid(name, true)) && ProjectionLoad(name) == NULL)
			return name;
		pfree(name);
	}
}

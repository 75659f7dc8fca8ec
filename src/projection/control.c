/*-------------------------------------------------------------------------
 *
 * control.c
 *	  Pausing, resuming, rebuilding and dropping projections.
 *
 * Each of these interrupts the batch that the projection's worker is in, so
 * that it need not wait for a slow handler, then takes the projection's lock
 * and holds it to its end.  The interrupted batch is applied again later, or
 * never, as what was done here commits or not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "compat.h"
#include "daybook.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "relation_text.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

static void check_not_in_handler(const char *name);
static bool rebuild_in_place(const Projection *projection, bool may_choose, bool in_place,
							 const RebuildOptions *options);
static void set_independent(Projection *projection, bool independent, bool goes_on);
static void check_parallel(const Projection *projection, int parallel);
static int	limit_parallel(const Projection *projection, int parallel);
static void empty_and_refill(Projection *projection, ProjectionProgress *progress);
static void restart_rebuild(const Projection *projection, const RebuildOptions *options);
static void empty_tables(const Projection *projection);
static bool owner_owns_all(const Projection *projection);

PG_FUNCTION_INFO_V1(daybook_pause_projection);
Datum
daybook_pause_projection(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection = ProjectionToChange(fcinfo, &progress);

	if (projection->is_paused)
		PG_RETURN_VOID();
	if (projection->is_inline)
	{
		InlineLockSources(projection);
		progress.paused_at_id = InlineLastEventId(projection);
	}
	ProjectionSetState(projection, true);
	ProjectionSaveChange(projection, &progress);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(daybook_resume_projection);
Datum
daybook_resume_projection(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection = ProjectionToChange(fcinfo, &progress);

	if (projection->is_inline && projection->is_paused)
	{
		ProjectionSetState(projection, false);
		InlineReplay(projection, progress.paused_at_id);
	}
	else if (projection->is_paused)
		ProjectionSetState(projection, false);
	if (projection->restored_pid != 0)
		ProjectionSetRestored(projection);

	/* the error stays in sight until the next try, as does its event */
	ProgressTryAgain(&progress);
	ProjectionSaveChange(projection, &progress);
	RebuildTryAgain(projection->name, NULL);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(daybook_rebuild_projection);
Datum
daybook_rebuild_projection(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection;
	RebuildOptions options = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name, max_rate and parallel of rebuild_projection must not be null")));
	if (PG_GETARG_INT32(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rate must not be negative"),
				 errdetail("It is %d.", PG_GETARG_INT32(2)),
				 errhint("Give 0 for a rebuild without a limit.")));
	options.max_rate = PG_GETARG_INT32(2);
	options.parallel = PG_GETARG_INT32(3);
	if (!PG_ARGISNULL(4))
	{
		options.batch_size = PG_GETARG_INT32(4);
		ProjectionCheckBatchSize(options.batch_size);
	}
	projection = ProjectionToChange(fcinfo, &progress);
	check_parallel(projection, options.parallel);
	CheckTablesNotShared(projection);
	if (rebuild_in_place(projection, PG_ARGISNULL(1), !PG_ARGISNULL(1) && PG_GETARG_BOOL(1), &options))
		empty_and_refill(projection, &progress);
	else
		restart_rebuild(projection, &options);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(daybook_alter_projection);
Datum
daybook_alter_projection(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection;
	Projection	changed;
	RebuildOptions options = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(5))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and parallel of alter_projection must not be null")));
	options.parallel = PG_GETARG_INT32(5);
	projection = ProjectionToChange(fcinfo, &progress);
	if (!PG_ARGISNULL(2))
		projection->batch_size = PG_GETARG_INT32(2);
	if (!PG_ARGISNULL(3))
		projection->on_error = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (!PG_ARGISNULL(4))
		set_independent(projection, PG_GETARG_BOOL(4), PG_ARGISNULL(1));
	ProjectionCheckSettings(projection);
	check_parallel(projection, options.parallel);
	ProjectionUpdate(projection);
	if (PG_ARGISNULL(1))
	{
		if (options.parallel > 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("alter_projection rebuilds for a new handler only"),
					 errhint("Leave parallel out, and call daybook.rebuild_projection() with it.")));
		ProjectionSaveChange(projection, &progress);
		if (!PG_ARGISNULL(3))
			RebuildTryAgain(projection->name, projection->on_error);
		PG_RETURN_VOID();
	}

	changed = *projection;
	ProjectionSetHandler(&changed, fcinfo, 1);
	HandlerCheck(&changed);
	CheckTablesNotShared(projection);
	if (rebuild_in_place(projection, true, false, &options))
	{
		ProjectionUpdate(&changed);
		empty_and_refill(&changed, &progress);
	}
	else
	{
		ProjectionSaveChange(projection, &progress);
		restart_rebuild(&changed, &options);
	}
	PG_RETURN_VOID();
}

/* A rebuild in parallel relies on it, unless a new handler ends that anyway. */
static void
set_independent(Projection *projection, bool independent, bool goes_on)
{
	if (!independent && goes_on && list_length(ProjectionLoadRebuild(projection->name)) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is being rebuilt in parallel", projection->name),
				 errdetail("That takes independent streams."),
				 errhint("Wait until it is done, or call daybook.cancel_rebuild().")));
	projection->independent_streams = independent;
}

PG_FUNCTION_INFO_V1(daybook_cancel_rebuild);
Datum
daybook_cancel_rebuild(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection = ProjectionToChange(fcinfo, &progress);

	PG_RETURN_BOOL(RebuildCancel(projection->name));
}

/*
 * Decides how to rebuild, where the caller leaves it open.  A projection that
 * stands still has no worker that could exchange the tables.
 */
static bool
rebuild_in_place(const Projection *projection, bool may_choose, bool in_place,
				 const RebuildOptions *options)
{
	char	   *obstacle;

	if (projection->is_inline)
		obstacle = "It is kept inline.";
	else if (projection->is_paused)
		obstacle = "It is paused.";
	else if (!may_choose && in_place)
		obstacle = "It is to be rebuilt in place.";
	else
		obstacle = CopiesObstacle(projection);
	if (obstacle == NULL)
		return false;
	if (options->parallel > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" cannot be rebuilt in parallel", projection->name),
				 errdetail_internal("%s", obstacle),
				 errhint("Only a rebuild beside the tables can have more than one worker.")));
	if (options->batch_size > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" cannot be rebuilt in batches of a size of their own", projection->name),
				 errdetail_internal("%s", obstacle),
				 errhint("Leave batch_size out: a rebuild in place has the batches of the projection.")));
	if (!may_choose && !in_place)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" cannot be rebuilt beside its tables", projection->name),
				 errdetail_internal("%s", obstacle),
				 errhint("Rebuild it with in_place => true; until it is done, readers see what is there so far.")));
	if (may_choose && !projection->is_inline)
		ereport(NOTICE,
				(errmsg("projection \"%s\" is rebuilt in place", projection->name),
				 errdetail_internal("%s", obstacle)));
	return true;
}

static void
check_parallel(const Projection *projection, int parallel)
{
	if (parallel < 1 || parallel > MAX_REBUILD_SHARES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parallel must be between 1 and %d", MAX_REBUILD_SHARES),
				 errdetail("It is %d.", parallel)));
	if (parallel > 1 && !projection->independent_streams)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" cannot be rebuilt in parallel", projection->name),
				 errdetail("It does not say that its streams are independent."),
				 errhint("If its rows do not depend on the order of events of different streams, call daybook.alter_projection() with independent_streams => true.")));
}

/* More workers than can run would only take turns. */
static int
limit_parallel(const Projection *projection, int parallel)
{
	int			limit = Max(Min(daybook_max_projectors, max_worker_processes), 1);

	if (parallel <= limit)
		return parallel;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("projection \"%s\" is rebuilt by %d workers rather than %d",
					projection->name, limit, parallel),
			 errdetail("daybook.max_projectors is %d, and max_worker_processes %d.",
					   daybook_max_projectors, max_worker_processes),
			 errhint("Increase these, and call daybook.rebuild_projection() again.")));
	return limit;
}

/* Empties the tables, which are filled again by live batches. */
static void
empty_and_refill(Projection *projection, ProjectionProgress *progress)
{
	(void) RebuildCancel(projection->name);
	if (projection->is_inline)
		InlineLockSources(projection);
	empty_tables(projection);
	ParkedDelete(projection->name);
	projection->rebuilt_at = GetCurrentTimestamp();
	ProjectionUpdate(projection);
	ProgressClearError(progress);
	progress->position = projection->from_position;
	if (projection->is_inline && projection->is_paused)
		progress->paused_at_id = InlineLastEventId(projection);
	if (projection->is_inline)
		InlineReplay(projection, 0);
	ProjectionSaveChange(projection, progress);
}

/* Begins to fill copies of the tables, anew if that is going on. */
static void
restart_rebuild(const Projection *projection, const RebuildOptions *options)
{
	RebuildOptions limited = *options;

	CheckTablesNotReferenced(projection);
	(void) RebuildCancel(projection->name);
	limited.parallel = limit_parallel(projection, options->parallel);
	RebuildStart(projection, &limited);
}

PG_FUNCTION_INFO_V1(daybook_drop_projection);
Datum
daybook_drop_projection(PG_FUNCTION_ARGS)
{
	ProjectionProgress progress;
	Projection *projection = ProjectionToChange(fcinfo, &progress);

	if (projection->is_inline)
		InlineDetach(projection);
	(void) RebuildCancel(projection->name);
	ParkedDelete(projection->name);
	ProgressDelete(projection->name);
	ProjectionDelete(projection);
	ProjectorNotifyAtCommit(projection->name);
	PG_RETURN_VOID();
}

/*
 * The projection named by the first argument, which must be the caller's,
 * locked, with the batch in progress stopped.
 */
Projection *
ProjectionToChange(FunctionCallInfo fcinfo, ProjectionProgress *progress)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Projection *projection;

	/* their rows are written by access methods, which do not ask */
	PreventCommandIfReadOnly(psprintf("daybook.%s()", get_func_name(fcinfo->flinfo->fn_oid)));
	(void) ProjectionOwned(name);
	check_not_in_handler(name);
	ProjectionLockFromWorker(name);
	/* it may have changed while this waited for the lock */
	projection = ProjectionOwned(name);
	if (!ProgressLoad(name, progress))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("projection \"%s\" has no row in daybook.projection_position", name)));
	return projection;
}

/* The batch in progress could neither be broken off nor come to its end. */
static void
check_not_in_handler(const char *name)
{
	if (HandlerIsRunning(name))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" cannot be changed by its own handler", name),
				 errhint("To stop it at an event, let the handler raise an error, and set on_error to 'stop'.")));
}

/* A projection that the caller may change, an error for any other. */
Projection *
ProjectionOwned(const char *name)
{
	Projection *projection = ProjectionLoad(name);

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name)));
	if (!has_privs_of_role(GetUserId(), projection->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of projection \"%s\"", name)));
	if (projection->rebuild_of != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is the rebuild of projection \"%s\"", name, projection->rebuild_of),
				 errhint("Give it up with daybook.cancel_rebuild().")));
	return projection;
}

/* Stores the progress and has the projection's worker take note at commit. */
void
ProjectionSaveChange(Projection *projection, ProjectionProgress *progress)
{
	progress->generation++;
	ProgressUpdate(projection, progress);
	ProjectorNotifyAtCommit(projection->name);
}

/*
 * One TRUNCATE, so that foreign keys among the tables are no obstacle.
 * Identity columns start again where the owner may do that: a rebuilt row
 * then gets the number it had.
 */
static void
empty_tables(const Projection *projection)
{
	StringInfoData command;
	OwnerContext owner;
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);

	initStringInfo(&command);
	for (int i = 0; i < n; i++)
	{
		if (get_rel_name(tables[i]) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("a table of projection \"%s\" does not exist any more", projection->name),
					 errdetail("It had OID %u.", tables[i]),
					 errhint("Drop the projection and create it anew.")));
		appendStringInfo(&command, "%s %s", i == 0 ? "TRUNCATE" : ",", RelationText(tables[i]));
	}
	if (owner_owns_all(projection))
		appendStringInfoString(&command, " RESTART IDENTITY");

	OwnerContextEnter(&owner, projection);
	SPI_connect();
	if (SPI_execute(command.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", command.data);
	SPI_finish();
	OwnerContextLeave(&owner);
}

static bool
owner_owns_all(const Projection *projection)
{
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);

	for (int i = 0; i < n; i++)
	{
		if (!relation_ownercheck_compat(tables[i], projection->owner))
			return false;
	}
	return true;
}

/*
 * Marks a row that comes from anywhere but create_projection, which is to say
 * from a dump: its tables may still have to be loaded.
 */
PG_FUNCTION_INFO_V1(daybook_projection_restored);
Datum
daybook_projection_restored(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	int			columns[2];
	Datum		values[2];
	bool		nulls[2] = {false, false};
	TupleDesc	desc;

	/* anyone can have the trigger on a table of his own, with columns of any type */
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != DaybookRelation("projection"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("daybook.projection_restored must be called by a BEFORE INSERT trigger of daybook.projection for each row")));
	desc = RelationGetDescr(trigger->tg_relation);
	columns[0] = SPI_fnumber(desc, "restored_pid");
	columns[1] = SPI_fnumber(desc, "restored_session_start");
	values[0] = Int32GetDatum(MyProcPid);
	values[1] = TimestampTzGetDatum(MyStartTimestamp);
	SuperviseAtCommit();
	PG_RETURN_POINTER(heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc, 2,
												columns, values, nulls));
}

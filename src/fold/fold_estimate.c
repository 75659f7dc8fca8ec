/*-------------------------------------------------------------------------
 *
 * fold_estimate.c
 *	  What the planner is told about folds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_statistic.h"
#include "event_table/event_table.h"
#include "fold/fold.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "parallel_check.h"
#include "schema/upcast.h"
#include "user_function.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"

static bool estimate_table(Oid transition, Relation event_table, RowEstimate *estimate);
static double stream_count(Relation event_table, double events);
static Cost function_cost(Oid function);
static bool is_parallel_safe(Oid transition, Relation event_table);

/* False where the fold is not known yet, or is not for the user. */
bool
FoldAllEstimate(const List *args, RowEstimate *estimate)
{
	Const	   *name = linitial(args);
	FoldDefinition *definition;
	Relation	table;
	Oid			transition;
	bool		known;

	if (!IsA(name, Const) || name->constisnull)
		return false;
	definition = LoadFoldDefinition(TextDatumGetCString(name->constvalue));
	if (definition == NULL)
		return false;
	transition = FunctionByText(definition->transition, definition->owner);
	table = try_relation_open(definition->event_table, AccessShareLock);
	if (table == NULL)
		return false;
	known = OidIsValid(transition) &&
		pg_class_aclcheck(RelationGetRelid(table), GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		estimate_table(transition, table, estimate);
	table_close(table, NoLock);
	return known;
}

/* Each event costs a row from the index and a call of the transition. */
static bool
estimate_table(Oid transition, Relation event_table, RowEstimate *estimate)
{
	BlockNumber pages;
	double		events;
	double		all_visible;

	if (!OidIsValid(LookUpEventTable(event_table)->stream_index))
		return false;
	estimate_rel_size(event_table, NULL, &pages, &events, &all_visible);
	estimate->pages = pages;
	estimate->rows = stream_count(event_table, events);
	estimate->cost = pages * random_page_cost +
		events * (cpu_index_tuple_cost + cpu_tuple_cost + function_cost(transition));
	estimate->parallel_safe = is_parallel_safe(transition, event_table);
	return true;
}

static bool
is_parallel_safe(Oid transition, Relation event_table)
{
	return func_parallel(transition) == PROPARALLEL_SAFE &&
		event_table->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		UpcastersAreParallelSafe(event_table);
}

/* A fold that is not known yet may be any; one that does not exist fails anyway. */
bool
FoldCallIsParallelSafe(const FuncExpr *call)
{
	Const	   *name = ConstantArgument(call, 0);
	FoldDefinition *definition;
	Relation	table;
	Oid			transition;
	bool		safe;

	if (name == NULL)
		return false;
	if (name->constisnull)
		return true;
	definition = LoadFoldDefinition(TextDatumGetCString(name->constvalue));
	if (definition == NULL)
		return true;
	transition = FunctionByText(definition->transition, definition->owner);
	table = try_relation_open(definition->event_table, AccessShareLock);
	if (table == NULL)
		return true;
	safe = OidIsValid(transition) && is_parallel_safe(transition, table);
	table_close(table, NoLock);
	return safe;
}

static double
stream_count(Relation event_table, double events)
{
	HeapTuple	statistics = SearchSysCache3(STATRELATTINH,
											 ObjectIdGetDatum(RelationGetRelid(event_table)),
											 Int16GetDatum(EVENT_STREAM_ID),
											 BoolGetDatum(false));
	double		streams = DEFAULT_NUM_DISTINCT;

	if (HeapTupleIsValid(statistics))
	{
		streams = ((Form_pg_statistic) GETSTRUCT(statistics))->stadistinct;
		if (streams < 0)
			streams *= -events;
		ReleaseSysCache(statistics);
	}
	return clamp_row_est(Min(streams, events));
}

static Cost
function_cost(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Cost		cost;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	cost = ((Form_pg_proc) GETSTRUCT(tuple))->procost * cpu_operator_cost;
	ReleaseSysCache(tuple);
	return cost;
}

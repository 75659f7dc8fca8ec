/*-------------------------------------------------------------------------
 *
 * parallel_check.c
 *	  Keeping statements out of parallel mode whose calls could fail there.
 *
 * Functions that upcast or fold are as safe in parallel mode as the functions
 * of users that they run, for which PostgreSQL has no mark.  What is unsafe
 * (subtransactions before PostgreSQL 17, nextval) fails in the leader of a
 * parallel plan as well as in a worker, so that it would not do to mark ours
 * PARALLEL RESTRICTED; and PARALLEL UNSAFE would leave no event table, and no
 * event view, to be read in parallel.  So each statement's calls are looked at
 * before it is planned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "daybook.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parallel_check.h"

#define MAX_CHECKED_FUNCTIONS	8

typedef struct CheckedFunction
{
	const char *name;
	ParallelCheck check;
} CheckedFunction;

/* What a statement is about, as far as it matters here. */
typedef struct StatementParts
{
	bool		reads_tables;
	List	   *calls;			/* FuncExpr, of functions with checks */
} StatementParts;

static PlannedStmt *plan_statement(Query *query, const char *query_string, int cursor_options,
								   ParamListInfo params);
static bool may_be_parallel(Query *query);
static bool collect_parts(Node *node, void *arg);
static ParallelCheck find_check(Oid function);

static CheckedFunction checked_functions[MAX_CHECKED_FUNCTIONS];
static int	checked_function_count = 0;
static planner_hook_type prev_planner_hook = NULL;

void
ParallelChecksInit(void)
{
	prev_planner_hook = planner_hook;
	planner_hook = plan_statement;
}

void
RegisterParallelCheck(const char *function, ParallelCheck check)
{
	Assert(checked_function_count < MAX_CHECKED_FUNCTIONS);
	checked_functions[checked_function_count].name = function;
	checked_functions[checked_function_count++].check = check;
}

static PlannedStmt *
plan_statement(Query *query, const char *query_string, int cursor_options, ParamListInfo params)
{
	/* the planner's own conditions first: most statements fail one of them */
	if ((cursor_options & CURSOR_OPT_PARALLEL_OK) && query->commandType == CMD_SELECT &&
		max_parallel_workers_per_gather > 0 && !IsParallelWorker() && !may_be_parallel(query))
		cursor_options &= ~CURSOR_OPT_PARALLEL_OK;
	if (prev_planner_hook)
		return prev_planner_hook(query, query_string, cursor_options, params);
	return standard_planner(query, query_string, cursor_options, params);
}

/* What reads no table gets no parallel plan anyway, unless for debugging. */
static bool
may_be_parallel(Query *query)
{
	StatementParts parts = {0};
	ListCell   *lc;

#if PG_VERSION_NUM >= 160000
	parts.reads_tables = debug_parallel_query != DEBUG_PARALLEL_OFF;
#else
	parts.reads_tables = force_parallel_mode != FORCE_PARALLEL_OFF;
#endif
	collect_parts((Node *) query, &parts);
	if (!parts.reads_tables)
		return true;
	foreach(lc, parts.calls)
	{
		FuncExpr   *call = lfirst_node(FuncExpr, lc);

		if (!find_check(call->funcid) (call))
			return false;
	}
	return true;
}

static bool
collect_parts(Node *node, void *arg)
{
	StatementParts *parts = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		ListCell   *lc;

		foreach(lc, ((Query *) node)->rtable)
			parts->reads_tables |= lfirst_node(RangeTblEntry, lc)->rtekind == RTE_RELATION;
		return query_tree_walker((Query *) node, collect_parts, arg, 0);
	}
	if (IsA(node, FuncExpr) && find_check(((FuncExpr *) node)->funcid))
		parts->calls = lappend(parts->calls, node);
	return expression_tree_walker(node, collect_parts, arg);
}

static ParallelCheck
find_check(Oid function)
{
	char	   *name = DaybookFunctionName(function);

	if (name == NULL)
		return NULL;
	for (int i = 0; i < checked_function_count; i++)
		if (strcmp(name, checked_functions[i].name) == 0)
			return checked_functions[i].check;
	return NULL;
}

/* Named arguments are not in their places yet. */
Const *
ConstantArgument(const FuncExpr *call, int number)
{
	int			place = 0;
	ListCell   *lc;

	foreach(lc, call->args)
	{
		Node	   *arg = lfirst(lc);

		if (IsA(arg, NamedArgExpr))
		{
			place = ((NamedArgExpr *) arg)->argnumber;
			arg = (Node *) ((NamedArgExpr *) arg)->arg;
		}
		if (place++ == number)
			return IsA(arg, Const) ? (Const *) arg : NULL;
	}
	return NULL;
}

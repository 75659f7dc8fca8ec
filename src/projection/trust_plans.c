/*-------------------------------------------------------------------------
 *
 * trust_plans.c
 *	  Plans that a session has from before a handler ran.
 *
 * Functions that a handler calls keep their plans for the session.  One that
 * another role made, for the same search path, would be taken as it is, with
 * the objects that were found for that role: trust.c never saw it.  All plans
 * are made anew before the next handler of an owner for whom there may be one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "compat.h"
#include "miscadmin.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "projection/projection.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

/* A search path that handlers of the owner have had in this session. */
typedef struct HandlerPath
{
	Oid			owner;
	SearchPathMatcher *path;	/* as the plan cache compares them */
	bool		has_strange_plans;	/* made by another role since */
} HandlerPath;

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;
static planner_hook_type prev_planner = NULL;

static List *paths = NIL;		/* in TopMemoryContext */

static void analysed(ParseState *pstate, Query *query, JumbleState *jstate);
static PlannedStmt *make_plan(Query *query, const char *text, int cursor_options,
							  ParamListInfo params);
static void note_plan(void);
static void add_path(Oid owner);
static void drop_dead_paths(void);
static bool schemas_exist(const List *schemas);

void
TrustPlansInit(void)
{
	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = analysed;
	prev_planner = planner_hook;
	planner_hook = make_plan;
}

/* A handler of this owner is about to run, or to go on. */
void
TrustPlansRenew(Oid owner)
{
	bool		renew = false;
	ListCell   *lc;

	/* going on after another handler, it may be within a function of someone else */
	if (GetUserId() == owner)
		add_path(owner);
	foreach(lc, paths)
	{
		HandlerPath *path = lfirst(lc);

		if (path->owner != owner)
			continue;
		renew |= path->has_strange_plans;
		path->has_strange_plans = false;
	}
	if (renew)
		ResetPlanCache();
}

static void
analysed(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jstate);
	note_plan();
}

/* Also where the statement was analysed before: the planner inlines functions. */
static PlannedStmt *
make_plan(Query *query, const char *text, int cursor_options, ParamListInfo params)
{
	note_plan();
	return prev_planner ? prev_planner(query, text, cursor_options, params) :
		standard_planner(query, text, cursor_options, params);
}

static void
note_plan(void)
{
	ListCell   *lc;

	foreach(lc, paths)
	{
		HandlerPath *path = lfirst(lc);

		if (path->owner != GetUserId() && !path->has_strange_plans)
			path->has_strange_plans = SearchPathMatchesCurrentEnvironment(path->path);
	}
}

/* Remembers the present path; there may be plans for it from before. */
static void
add_path(Oid owner)
{
	HandlerPath *path;
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, paths)
	{
		path = lfirst(lc);
		if (path->owner == owner && SearchPathMatchesCurrentEnvironment(path->path))
			return;
	}
	drop_dead_paths();
	caller = MemoryContextSwitchTo(TopMemoryContext);
	path = palloc(sizeof(HandlerPath));
	path->owner = owner;
	path->path = GetSearchPathMatcher(TopMemoryContext);
	path->has_strange_plans = true;
	paths = lappend(paths, path);
	MemoryContextSwitchTo(caller);
}

/* Those with a schema that is gone, as each verification has its own, do not come again. */
static void
drop_dead_paths(void)
{
	ListCell   *lc;

	foreach(lc, paths)
	{
		HandlerPath *path = lfirst(lc);

		if (schemas_exist(path->path->schemas))
			continue;
		list_free(path->path->schemas);
		pfree(path->path);
		pfree(path);
		paths = foreach_delete_current(paths, lc);
	}
}

static bool
schemas_exist(const List *schemas)
{
	ListCell   *lc;

	foreach(lc, schemas)
	{
		if (!SearchSysCacheExists1(NAMESPACEOID, ObjectIdGetDatum(lfirst_oid(lc))))
			return false;
	}
	return true;
}

/*-------------------------------------------------------------------------
 *
 * redirect.c
 *	  Letting a handler work on copies of its projection's tables.
 *
 * While a redirection is on, every statement that is parsed has the copies
 * in the place of the tables, however it names them: the two have the same
 * columns.  What reaches the tables by another way, such as a view, is refused
 * when it is about to run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/pg_constraint.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "projection/projection.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;
static ExecutorCheckPerms_hook_type prev_check_perms = NULL;

static Redirection redirection = {NULL, NULL};

static void redirect_statement(ParseState *pstate, Query *query, JumbleState *jstate);
static bool redirect_walker(Node *node, void *context);
static void redirect_query(Query *query);
static void redirect_constraint(OnConflictExpr *on_conflict);
static Oid	redirected(Oid relation);
static void refuse_originals(List *range_table);

#if PG_VERSION_NUM >= 160000
static bool
check_perms(List *range_table, List *perms, bool raise)
{
	refuse_originals(range_table);
	return prev_check_perms == NULL || prev_check_perms(range_table, perms, raise);
}
#else
static bool
check_perms(List *range_table, bool raise)
{
	refuse_originals(range_table);
	return prev_check_perms == NULL || prev_check_perms(range_table, raise);
}
#endif

void
RedirectInit(void)
{
	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = redirect_statement;
	prev_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = check_perms;
}

/*
 * The arrays belong to the caller, who puts what was there before back whatever
 * happens: a handler may bring about that another one runs.
 */
Redirection
Redirect(Redirection to)
{
	Redirection before = redirection;

	redirection = to;
	return before;
}

static void
redirect_statement(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jstate);
	if (redirection.from != NULL)
		(void) redirect_walker((Node *) query, NULL);
}

static bool
redirect_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		redirect_query((Query *) node);
		return query_tree_walker((Query *) node, redirect_walker, context, 0);
	}
	return expression_tree_walker(node, redirect_walker, context);
}

/* The original stays locked too, which keeps it from being changed. */
static void
redirect_query(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		Oid			copy = rte->rtekind == RTE_RELATION ? redirected(rte->relid) : InvalidOid;

		if (!OidIsValid(copy))
			continue;
		LockRelationOid(copy, rte->rellockmode);
		rte->relid = copy;
	}
#if PG_VERSION_NUM >= 160000
	foreach(lc, query->rteperminfos)
	{
		RTEPermissionInfo *info = lfirst_node(RTEPermissionInfo, lc);

		if (OidIsValid(redirected(info->relid)))
			info->relid = redirected(info->relid);
	}
#endif
	if (query->onConflict != NULL && OidIsValid(query->onConflict->constraint))
		redirect_constraint(query->onConflict);
}

/* Keys of a copy have the names of the original's. */
static void
redirect_constraint(OnConflictExpr *on_conflict)
{
	char	   *name = get_constraint_name(on_conflict->constraint);
	Oid			index = get_constraint_index(on_conflict->constraint);
	Oid			copy = OidIsValid(index) ? redirected(IndexGetRelation(index, true)) : InvalidOid;

	if (OidIsValid(copy))
		on_conflict->constraint = get_relation_constraint_oid(copy, name, false);
}

/* The copy that stands for a relation, InvalidOid for one without. */
static Oid
redirected(Oid relation)
{
	Oid		   *from;
	Oid		   *to;
	int			n = RelationArray(redirection.from, &from);

	(void) RelationArray(redirection.to, &to);
	for (int i = 0; i < n; i++)
	{
		if (from[i] == relation)
			return to[i];
	}
	return InvalidOid;
}

static void
refuse_originals(List *range_table)
{
	ListCell   *lc;

	if (redirection.from == NULL)
		return;
	foreach(lc, range_table)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && OidIsValid(redirected(rte->relid)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("handler reaches table %s by a way that a copy of it cannot take the place of",
							RelationText(rte->relid)),
					 errdetail("It uses a view, or a function with a body in standard SQL."),
					 errhint("Call daybook.cancel_rebuild(), then daybook.rebuild_projection() with in_place => true.")));
	}
}

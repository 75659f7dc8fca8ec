/*-------------------------------------------------------------------------
 *
 * redirect.c
 *	  Letting a handler work on copies of its projection's tables.
 *
 * While a redirection is on, every statement that is parsed has the copies
 * in the place of the tables, however it names them: the two have the same
 * columns.  Of utility commands, which are not analysed, those that empty, lock
 * or fill tables are given the copies' names.  What reaches the tables by
 * another way, such as a view, is refused when it is about to run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "compat.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "projection/projection.h"
#include "relation_text.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;
static ExecutorCheckPerms_hook_type prev_check_perms = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

static Redirection redirection = {NULL, NULL};

static void redirect_statement(ParseState *pstate, Query *query, JumbleState *jstate);
static bool redirect_walker(Node *node, void *context);
static void redirect_query(Query *query);
static void redirect_constraint(OnConflictExpr *on_conflict);
static Oid	redirected(Oid relation);
static void refuse_originals(List *range_table);
pg_noreturn static void report_original(Oid relation, const char *how);
static void process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *environment, DestReceiver *dest,
							QueryCompletion *completion);
static List *table_names(Node *command);
static Oid	named_original(const RangeVar *name);
static void redirect_name(RangeVar *name);
static void refuse_command_on_original(Node *command);
static RangeVar *altered_table(Node *command);

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
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
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
			report_original(rte->relid, "It uses a view, or a function with a body in standard SQL.");
	}
}

static void
report_original(Oid relation, const char *how)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("handler reaches table %s by a way that a copy of it cannot take the place of",
					RelationText(relation)),
			 errdetail_internal("%s", how),
			 errhint("Call daybook.cancel_rebuild(), then daybook.rebuild_projection() with in_place => true.")));
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *completion)
{
	ProcessUtility_hook_type next = prev_process_utility ?
		prev_process_utility : standard_ProcessUtility;

	if (redirection.from != NULL)
	{
		ListCell   *lc;

		/* the statement may belong to a plan that is run again without */
		if (read_only_tree)
			pstmt = copyObject(pstmt);
		read_only_tree = false;
		foreach(lc, table_names(pstmt->utilityStmt))
			redirect_name(lfirst(lc));
		refuse_command_on_original(pstmt->utilityStmt);
	}
	next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
}

/* Of a command that does to a copy what it would do to the table. */
static List *
table_names(Node *command)
{
	List	   *names = NIL;
	ListCell   *lc;

	switch (nodeTag(command))
	{
		case T_TruncateStmt:
			return ((TruncateStmt *) command)->relations;
		case T_LockStmt:
			return ((LockStmt *) command)->relations;
		case T_CopyStmt:
			if (((CopyStmt *) command)->relation != NULL)
				names = list_make1(((CopyStmt *) command)->relation);
			return names;
		case T_VacuumStmt:
			foreach(lc, ((VacuumStmt *) command)->rels)
				if (lfirst_node(VacuumRelation, lc)->relation != NULL)
					names = lappend(names, lfirst_node(VacuumRelation, lc)->relation);
			return names;
		default:
			return NIL;
	}
}

/* The table that a copy stands for, InvalidOid for any other relation. */
static Oid
named_original(const RangeVar *name)
{
	Oid			relation = RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relation) && OidIsValid(redirected(relation)) ? relation : InvalidOid;
}

static void
redirect_name(RangeVar *name)
{
	Oid			original = named_original(name);

	if (!OidIsValid(original))
		return;
	name->catalogname = NULL;
	name->schemaname = get_namespace_name(get_rel_namespace(redirected(original)));
	name->relname = get_rel_name(redirected(original));
}

static void
refuse_command_on_original(Node *command)
{
	RangeVar   *table = altered_table(command);
	Oid			original = table ? named_original(table) : InvalidOid;

	if (OidIsValid(original))
		report_original(original, "It alters the table.");
	if (!IsA(command, DropStmt) || ((DropStmt *) command)->removeType != OBJECT_TABLE)
		return;
	for (int i = 0; i < list_length(((DropStmt *) command)->objects); i++)
	{
		original = named_original(makeRangeVarFromNameList(list_nth(((DropStmt *) command)->objects, i)));
		if (OidIsValid(original))
			report_original(original, "It drops the table.");
	}
}

/* The table whose definition a command changes; NULL for other commands. */
static RangeVar *
altered_table(Node *command)
{
	switch (nodeTag(command))
	{
		case T_AlterTableStmt:
			return ((AlterTableStmt *) command)->relation;
		case T_RenameStmt:
			return ((RenameStmt *) command)->relation;
		case T_AlterObjectSchemaStmt:
			return ((AlterObjectSchemaStmt *) command)->relation;
		case T_IndexStmt:
			return ((IndexStmt *) command)->relation;
		case T_CreateTrigStmt:
			return ((CreateTrigStmt *) command)->relation;
		case T_RuleStmt:
			return ((RuleStmt *) command)->relation;
		case T_ClusterStmt:
			return ((ClusterStmt *) command)->relation;
		case T_ReindexStmt:
			return ((ReindexStmt *) command)->relation;
		default:
			return NULL;
	}
}

/*-------------------------------------------------------------------------
 *
 * insert_statement.c
 *	  What the INSERT that fired a trigger says about conflicts.
 *
 * A version trigger is asked before the unique index is, and would turn away
 * the row that ON CONFLICT DO NOTHING means to pass over.  Triggers are not
 * told of the statement, so the statement being run is kept here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "event_table/event_table.h"
#include "event_table/insert_indexes.h"
#include "event_table/insert_statement.h"
#include "executor/executor.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorRun_hook_type prev_executor_run = NULL;
static ExecutorFinish_hook_type prev_executor_finish = NULL;

/* The innermost statement being run. */
static QueryDesc *current_statement = NULL;

static void check_statement(QueryDesc *statement, int flags);
static void refuse_busy_targets(PlannedStmt *stmt);
static ModifyTable *insert_into(PlannedStmt *stmt, Oid relid, OnConflictAction action,
								Oid index);
static ModifyTable *insert_node(Plan *plan, PlannedStmt *stmt, Oid relid,
								OnConflictAction action, Oid index);

#if PG_VERSION_NUM >= 180000
static void
run_statement(QueryDesc *statement, ScanDirection direction, uint64 count)
#else
static void
run_statement(QueryDesc *statement, ScanDirection direction, uint64 count,
			  bool execute_once)
#endif
{
	QueryDesc  *outer = current_statement;

	current_statement = statement;
	PG_TRY();
	{
#if PG_VERSION_NUM >= 180000
		if (prev_executor_run)
			prev_executor_run(statement, direction, count);
		else
			standard_ExecutorRun(statement, direction, count);
#else
		if (prev_executor_run)
			prev_executor_run(statement, direction, count, execute_once);
		else
			standard_ExecutorRun(statement, direction, count, execute_once);
#endif
	}
	PG_FINALLY();
	{
		current_statement = outer;
	}
	PG_END_TRY();
}

/* A WITH clause that nobody reads from is run here, to its end. */
static void
finish_statement(QueryDesc *statement)
{
	QueryDesc  *outer = current_statement;

	current_statement = statement;
	PG_TRY();
	{
		if (prev_executor_finish)
			prev_executor_finish(statement);
		else
			standard_ExecutorFinish(statement);
	}
	PG_FINALLY();
	{
		current_statement = outer;
	}
	PG_END_TRY();
}

void
InsertStatementInit(void)
{
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = check_statement;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = run_statement;
	prev_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = finish_statement;
}

/*
 * ON CONFLICT DO UPDATE is refused as a statement: otherwise it would depend
 * on the row whether it is an append, a version conflict or a forbidden change.
 */
static void
check_statement(QueryDesc *statement, int flags)
{
	PlannedStmt *stmt = statement->plannedstmt;

	if (prev_executor_start)
		prev_executor_start(statement, flags);
	else
		standard_ExecutorStart(statement, flags);
	refuse_busy_targets(stmt);
	if (statement->operation == CMD_INSERT && !(flags & EXEC_FLAG_EXPLAIN_ONLY))
		InsertOpenIndexes(statement);
	if (statement->operation == CMD_INSERT || stmt->hasModifyingCTE)
	{
		ModifyTable *node = insert_into(stmt, InvalidOid, ONCONFLICT_UPDATE, InvalidOid);

		if (node == NULL || (flags & EXEC_FLAG_EXPLAIN_ONLY))
			return;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot update append-only table \"%s\"",
						get_rel_name(rt_fetch(linitial_int(node->resultRelations),
											  stmt->rtable)->relid)),
				 errdetail("ON CONFLICT DO UPDATE would change a row."),
				 errhint("Use ON CONFLICT DO NOTHING, or append another event.")));
	}
}

static void
refuse_busy_targets(PlannedStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->resultRelations)
		RefuseIfBusy(rt_fetch(lfirst_int(lc), stmt->rtable)->relid);
}

/* Replication stores rows without one. */
bool
StatementIsRun(void)
{
	return current_statement != NULL;
}

/*
 * Does the statement that is being run insert into rel ON CONFLICT DO NOTHING,
 * and are conflicts in this index meant?
 */
bool
InsertIgnoresConflicts(Relation rel, Oid index)
{
	return current_statement &&
		insert_into(current_statement->plannedstmt, RelationGetRelid(rel),
					ONCONFLICT_NOTHING, index) != NULL;
}

/*
 * The statement's insertion with this action for conflicts in this index, or
 * in any, into relid, or into any protected table if that is InvalidOid.
 */
static ModifyTable *
insert_into(PlannedStmt *stmt, Oid relid, OnConflictAction action, Oid index)
{
	ModifyTable *node = insert_node(stmt->planTree, stmt, relid, action, index);
	ListCell   *lc;

	if (node == NULL && stmt->hasModifyingCTE)
		foreach(lc, stmt->subplans)
		{
			node = insert_node(lfirst(lc), stmt, relid, action, index);
			if (node)
				break;
		}
	return node;
}

static ModifyTable *
insert_node(Plan *plan, PlannedStmt *stmt, Oid relid, OnConflictAction action, Oid index)
{
	ModifyTable *node = (ModifyTable *) plan;
	Oid			target;

	if (plan == NULL || !IsA(plan, ModifyTable) || node->operation != CMD_INSERT ||
		node->onConflictAction != action)
		return NULL;
	if (OidIsValid(index) && node->arbiterIndexes != NIL &&
		!list_member_oid(node->arbiterIndexes, index))
		return NULL;
	target = rt_fetch(linitial_int(node->resultRelations), stmt->rtable)->relid;
	if (OidIsValid(relid) ? target == relid : TableIsProtected(target))
		return node;
	return NULL;
}

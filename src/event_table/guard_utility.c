/*-------------------------------------------------------------------------
 *
 * guard_utility.c
 *	  Refuses the subcommands of ALTER TABLE that the object access hook does
 *	  not see, or sees too late.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

static void process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *environment, DestReceiver *dest,
							QueryCompletion *completion);
static void guard_detach_concurrently(AlterTableStmt *command);
#if PG_VERSION_NUM < 160000
static void guard_row_security(AlterTableStmt *command);
#endif

void
GuardUtilityInit(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *completion)
{
	ProcessUtility_hook_type next = prev_process_utility ?
		prev_process_utility : standard_ProcessUtility;
	AlterTableStmt *alter = IsA(pstmt->utilityStmt, AlterTableStmt) ?
		(AlterTableStmt *) pstmt->utilityStmt : NULL;

	if (alter)
		guard_detach_concurrently(alter);
	next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
#if PG_VERSION_NUM < 160000
	if (alter)
		guard_row_security(alter);
#endif
}

/* Its first transaction has been committed when the hook is called. */
static void
guard_detach_concurrently(AlterTableStmt *command)
{
	ListCell   *lc;

	foreach(lc, command->cmds)
	{
		AlterTableCmd *cmd = lfirst(lc);
		Oid			partition;

		if (cmd->subtype != AT_DetachPartition || !((PartitionCmd *) cmd->def)->concurrent)
			continue;
		partition = RangeVarGetRelid(((PartitionCmd *) cmd->def)->name, NoLock, true);
		if (OidIsValid(partition) && TableIsProtected(partition))
			RefuseDetach(partition);
	}
}

#if PG_VERSION_NUM < 160000
/*
 * PostgreSQL 15 tells the hook nothing of row-level security.  Looked at
 * afterwards, when the command has locked the table.
 */
static void
guard_row_security(AlterTableStmt *command)
{
	ListCell   *lc;

	foreach(lc, command->cmds)
	{
		AlterTableType subtype = ((AlterTableCmd *) lfirst(lc))->subtype;
		Oid			relid;

		if (subtype != AT_EnableRowSecurity && subtype != AT_ForceRowSecurity)
			continue;
		relid = RangeVarGetRelid(command->relation, NoLock, true);
		if (OidIsValid(relid) && TableIsProtected(relid))
			RefuseRowSecurity(relid);
	}
}
#endif

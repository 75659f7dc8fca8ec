/*-------------------------------------------------------------------------
 *
 * guard_utility.c
 *	  Commands that are looked at before they run: subcommands of ALTER TABLE
 *	  that the object access hook does not see, or sees too late, ALTER
 *	  EXTENSION ... ADD and DROP, and a dump's additions to our publication.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/tablecmds.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "nodes/parsenodes.h"
#include "storage/lockdefs.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

static void process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *environment, DestReceiver *dest,
							QueryCompletion *completion);
static bool adds_what_is_there(AlterPublicationStmt *command);
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

	if (IsA(pstmt->utilityStmt, AlterPublicationStmt) &&
		adds_what_is_there((AlterPublicationStmt *) pstmt->utilityStmt))
	{
		if (completion)
			SetQueryCompletion(completion, CMDTAG_ALTER_PUBLICATION, 0);
		return;
	}
	if (alter)
		guard_detach_concurrently(alter);
	if (IsA(pstmt->utilityStmt, AlterExtensionContentsStmt))
		GuardMembership((AlterExtensionContentsStmt *) pstmt->utilityStmt);
	next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
#if PG_VERSION_NUM < 160000
	if (alter)
		guard_row_security(alter);
#endif
}

/*
 * A dump adds the event tables to our publication at its end, when the
 * sequencer may have done so: that must not make the restore fail.
 */
static bool
adds_what_is_there(AlterPublicationStmt *command)
{
	Oid			publication;
	ListCell   *lc;

	if (strcmp(command->pubname, DAYBOOK_PUBLICATION) != 0 ||
		command->action != AP_AddObjects || command->pubobjects == NIL)
		return false;
	publication = get_publication_oid(DAYBOOK_PUBLICATION, true);
	foreach(lc, command->pubobjects)
	{
		PublicationObjSpec *object = lfirst(lc);
		Oid			relid;

		if (object->pubobjtype != PUBLICATIONOBJ_TABLE)
			return false;
		/* the lock that the command itself takes: who adds the table now has it */
		relid = RangeVarGetRelid(object->pubtable->relation, ShareUpdateExclusiveLock, true);
		if (!OidIsValid(relid) || !EventTableIs(relid) ||
			!SearchSysCacheExists2(PUBLICATIONRELMAP, ObjectIdGetDatum(relid),
								   ObjectIdGetDatum(publication)))
			return false;
	}
	return true;
}

/*
 * Its first transaction has been committed when the hook is called.  The table
 * and the partition are locked as the command will lock them, so that nobody
 * who is giving the partition our access method comes between.
 */
static void
guard_detach_concurrently(AlterTableStmt *command)
{
	ListCell   *lc;

	foreach(lc, command->cmds)
	{
		AlterTableCmd *cmd = lfirst(lc);
		Oid			partition;
		Oid			protected;

		if (cmd->subtype != AT_DetachPartition || !((PartitionCmd *) cmd->def)->concurrent)
			continue;
		if (!OidIsValid(AlterTableLookupRelation(command, ShareUpdateExclusiveLock)))
			return;
		partition = RangeVarGetRelid(((PartitionCmd *) cmd->def)->name,
									 ShareUpdateExclusiveLock, true);
		protected = OidIsValid(partition) ? ProtectedTableUnder(partition) : InvalidOid;
		if (OidIsValid(protected))
			RefuseDetach(protected);
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

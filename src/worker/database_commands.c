/*-------------------------------------------------------------------------
 *
 * database_commands.c
 *	  Commands that the workers must know of.
 *
 * DROP DATABASE and its like want nobody else in the database, and DROP
 * DATABASE is refused outright while a replication slot of the database is in
 * use; so our workers leave before the command looks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "compat.h"
#include "daybook.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "subscription/subscription.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "worker/launcher.h"
#include "worker/worker_state.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

static void process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *environment, DestReceiver *dest,
							QueryCompletion *completion);
static Oid	database_wanted_alone(Node *command);
static const char *template_of(CreatedbStmt *command);
static bool ends_prepared_transaction(Node *command);
static void note_command(Node *command);
static void note_prepared_transaction(void);

void
DatabaseCommandsInit(void)
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
	Oid			database = database_wanted_alone(pstmt->utilityStmt);
	bool		ends_prepared = ends_prepared_transaction(pstmt->utilityStmt);

	note_command(pstmt->utilityStmt);

	if (OidIsValid(database) && HoldDatabase(database))
	{
		/* also when the session is ended meanwhile */
		PG_ENSURE_ERROR_CLEANUP(ReleaseDatabase, ObjectIdGetDatum(database));
		{
			EndDatabaseProcesses(database);
			next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
		}
		PG_END_ENSURE_ERROR_CLEANUP(ReleaseDatabase, ObjectIdGetDatum(database));
		ReleaseDatabase(0, ObjectIdGetDatum(database));
	}
	else
		next(pstmt, query, read_only_tree, context, params, environment, dest, completion);

	if (ends_prepared)
		note_prepared_transaction();
}

/*
 * The database that a command wants nobody else in, provided that the user
 * may run it: else anyone could stop the workers by trying.
 */
static Oid
database_wanted_alone(Node *command)
{
	const char *name = NULL;
	Oid			database;

	if (IsA(command, DropdbStmt))
		name = ((DropdbStmt *) command)->dbname;
	else if (IsA(command, CreatedbStmt))
		name = template_of((CreatedbStmt *) command);
	else if (IsA(command, AlterDatabaseStmt))
	{
		AlterDatabaseStmt *alter = (AlterDatabaseStmt *) command;

		if (list_length(alter->options) == 1 &&
			strcmp(((DefElem *) linitial(alter->options))->defname, "tablespace") == 0)
			name = alter->dbname;
	}
	else if (IsA(command, RenameStmt) &&
			 ((RenameStmt *) command)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) command)->subname;

	/* none of these runs in a transaction block, where we would hold on for too long */
	if (name == NULL || IsTransactionBlock() || !IsTransactionState())
		return InvalidOid;
	database = get_database_oid(name, true);
	/* of these only CREATE DATABASE goes through in the database itself */
	if (!OidIsValid(database) ||
		(database == MyDatabaseId && !IsA(command, CreatedbStmt)) ||
		!database_ownercheck_compat(database, GetUserId()))
		return InvalidOid;
	return database;
}

static const char *
template_of(CreatedbStmt *command)
{
	ListCell   *lc;

	foreach(lc, command->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			return defGetString(option);
	}
	return NULL;
}

static bool
ends_prepared_transaction(Node *command)
{
	TransactionStmt *transaction = (TransactionStmt *) command;

	return IsA(command, TransactionStmt) &&
		(transaction->kind == TRANS_STMT_COMMIT_PREPARED ||
		 transaction->kind == TRANS_STMT_ROLLBACK_PREPARED);
}

static void
note_command(Node *command)
{
	if (IsA(command, CreatedbStmt))
		RescanDatabasesAtCommit();
	else if (IsA(command, DropStmt) &&
			 ((DropStmt *) command)->removeType == OBJECT_EXTENSION)
		SuperviseAtCommit();
}

/*
 * A prepared transaction has ended.  What its commit was to bring about was
 * forgotten when it was prepared, perhaps by another session or before a
 * restart: so the command's own commit brings about all that it may have been.
 */
static void
note_prepared_transaction(void)
{
	AcceptInvalidationMessages();
	if (OidIsValid(get_extension_oid(DAYBOOK_EXTENSION, true)))
		StartDatabaseWorkerAtCommit();
	SuperviseAtCommit();
	ConsumersWakeAtCommit();
}

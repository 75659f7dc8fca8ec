/*-------------------------------------------------------------------------
 *
 * event_table_ddl.c
 *	  Creates and drops event tables.
 *
 * An event table is ordinary DDL, owned by who creates it and dumped as it
 * is.  Only its entry in the registry and in the publication are the
 * extension's, and are made as the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "event_table/event_table.h"
#include "event_table/registry.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "relation_text.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/varlena.h"
#include "worker/worker_state.h"

PG_FUNCTION_INFO_V1(daybook_create_event_table);
PG_FUNCTION_INFO_V1(daybook_event_table_name);
PG_FUNCTION_INFO_V1(daybook_register_event_table);
PG_FUNCTION_INFO_V1(daybook_drop_event_table);

static void refuse_extension_script(void);
static void refuse_generated_columns(Relation rel);
static void require_free_ids(Relation rel);
static void take_ids(Relation rel);
static void run(const char *command);
static void require_empty(Oid relid);
static void drop_table(Oid relid);
static void hint_at_dependents(void *arg);

/* daybook.create_event_table(name text) RETURNS regclass */
Datum
daybook_create_event_table(PG_FUNCTION_ARGS)
{
	List	   *names = textToQualifiedNameList(PG_GETARG_TEXT_PP(0));
	RangeVar   *range = makeRangeVarFromNameList(names);
	char	   *schema;
	char	   *qualified;
	char	   *name = range->relname;
	Oid			namespace_id;
	Oid			existing;
	Oid			relid;

	PreventCommandIfReadOnly("daybook.create_event_table()");
	refuse_extension_script();
	if (range->catalogname && strcmp(range->catalogname, get_database_name(MyDatabaseId)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot create an event table in another database"),
				 errdetail("The database named is \"%s\".", range->catalogname)));
	range->relpersistence = RELPERSISTENCE_PERMANENT;
	/* what users get wrong is better said without the statements below */
	namespace_id = RangeVarGetAndCheckCreationNamespace(range, NoLock, &existing);
	if (isAnyTempNamespace(namespace_id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("event table \"%s\" cannot be temporary", name),
				 errdetail("Its events would be gone with the session."),
				 errhint("Name a schema, as in daybook.create_event_table('public.%s').",
						 quote_identifier(name))));
	if (OidIsValid(existing))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", name)));
	schema = get_namespace_name(namespace_id);
	qualified = quote_qualified_identifier(schema, name);

	SPI_connect();
	run(psprintf("CREATE TABLE %s OF daybook.event ("
				 "id WITH OPTIONS NOT NULL PRIMARY KEY, "
				 "version WITH OPTIONS NOT NULL, "
				 "recorded_at WITH OPTIONS NOT NULL, "
				 "schema_version WITH OPTIONS NOT NULL DEFAULT 1, "
				 "event_id WITH OPTIONS NOT NULL, "
				 "recorded_by WITH OPTIONS NOT NULL, "
				 "stream_id WITH OPTIONS NOT NULL, "
				 "type WITH OPTIONS NOT NULL, "
				 "data WITH OPTIONS NOT NULL DEFAULT '{}', "
				 "UNIQUE (stream_id, version)) USING daybook", qualified));
	run(psprintf("CREATE UNIQUE INDEX ON %s (event_id, stream_id) "
				 "WHERE daybook.event_id_given(event_id)", qualified));
	run(psprintf("CREATE TRIGGER " EVENT_TRIGGER_NAME " BEFORE INSERT ON %s "
				 "FOR EACH ROW EXECUTE FUNCTION daybook.event_before_insert()", qualified));
	run(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER " EVENT_TRIGGER_NAME, qualified));
	SPI_finish();

	relid = get_relname_relid(name, namespace_id);
	RegisterEventTable(relid, qualified);
	PG_RETURN_OID(relid);
}

/*
 * The rows of an extension's tables are not dumped, and the script would make
 * the table once more before its dump is restored.
 */
static void
refuse_extension_script(void)
{
	if (!creating_extension)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot create an event table in the script of an extension"),
			 errdetail("A table that belongs to an extension is dumped without its events."),
			 errhint("Let the extension bring a function that creates it, to be called once the extension is there.")));
}

static void
run(const char *command)
{
	int			result = SPI_execute(command, false, 0);

	if (result != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\": %s", command, SPI_result_code_string(result));
}

/*
 * daybook.event_table_name(event_table regclass), for a statement that is put
 * together.  Rights are looked at when that runs: it takes no stronger lock
 * before than this does.
 */
Datum
daybook_event_table_name(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel = OpenTable(relid, AccessShareLock);

	(void) RequireEventTable(rel);
	table_close(rel, NoLock);
	PG_RETURN_TEXT_P(cstring_to_text(RelationText(relid)));
}

/*
 * daybook.register_event_table(event_table regclass)
 *
 * For a table that came out of a dump by itself.  Its events are published as
 * if they had been appended now.
 */
Datum
daybook_register_event_table(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;

	PreventCommandIfReadOnly("daybook.register_event_table()");
	/* what has been committed meanwhile has to be seen, in this table and in others */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register an event table at this isolation level"),
				 errdetail("The transaction is %s.",
						   IsolationIsSerializable() ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errhint("Use READ COMMITTED.")));
	rel = OpenTableIfAllowed(relid, ShareRowExclusiveLock, RequireOwner);
	RequireVersionTrigger(rel);
	refuse_generated_columns(rel);
	if (EventTableIsRegistered(relid))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("event table \"%s\" is registered already", get_rel_name(relid))));
	require_free_ids(rel);
	RegisterEventTable(relid, RelationText(relid));
	take_ids(rel);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* They are made after the version trigger has said what the event is. */
static void
refuse_generated_columns(Relation rel)
{
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(rel), i);

		if (column->attgenerated != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("column \"%s\" of event table \"%s\" is generated",
							NameStr(column->attname), RelationGetRelationName(rel)),
					 errdetail("An event is stored as it is appended."),
					 errhint("ALTER COLUMN ... DROP EXPRESSION keeps what is stored and makes an ordinary column of it."),
					 errtablecol(rel, column->attnum)));
	}
}

/*
 * Ids are unique in a database, and the locks see to it that no id is about
 * to be committed.
 */
static void
require_free_ids(Relation rel)
{
	ListCell   *lc;

	foreach(lc, RegisteredEventTables())
	{
		Relation	other = try_table_open(((RegisteredTable *) lfirst(lc))->relid, ShareLock);

		if (other == NULL)
			continue;
		if (InsertionIdsMeet(rel, other))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("ids of event table \"%s\" are in use in this database",
							RelationGetRelationName(rel)),
					 errdetail("Event table \"%s\" has some of them.",
							   RelationGetRelationName(other)),
					 errhint("Append its events anew to a table made with daybook.create_event_table(), in the order of their ids.")));
		table_close(other, NoLock);
	}
}

/* The table's ids will not be given out, and the sequencer looks for its events. */
static void
take_ids(Relation rel)
{
	int64		lowest = FirstInsertionId(rel, ForwardScanDirection);
	int64		highest = FirstInsertionId(rel, BackwardScanDirection);

	if (lowest == 0 && highest == 0)
		return;
	(void) GetCurrentTransactionId();
	RestoredIdTaken(highest);
	RestoredIdTaken(lowest);
	WakeDatabaseWorkerAtCommit();
}

/* daybook.drop_event_table(event_table regclass, force boolean DEFAULT false) */
Datum
daybook_drop_event_table(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	bool		force = PG_GETARG_BOOL(1);
	Oid			allowed;

	PreventCommandIfReadOnly("daybook.drop_event_table()");
	table_close(OpenTableIfAllowed(relid, AccessExclusiveLock, RequireOwner), NoLock);
	if (!TableIsProtected(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not an event table", get_rel_name(relid)),
				 errdetail("It does not use access method daybook, or is temporary."),
				 errhint("Use DROP TABLE.")));
	if (!force)
		require_empty(relid);

	UnregisterEventTable(relid);
	/* an event trigger might drop another one meanwhile */
	allowed = GuardAllowDrop(relid);
	PG_TRY();
	{
		drop_table(relid);
	}
	PG_FINALLY();
	{
		(void) GuardAllowDrop(allowed);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/* By the command, which event triggers hear of. */
static void
drop_table(Oid relid)
{
	ErrorContextCallback callback = {0};

	callback.callback = hint_at_dependents;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	SPI_connect();
	run(psprintf("DROP TABLE %s", RelationText(relid)));
	SPI_finish();
	error_context_stack = callback.previous;
}

/* The command's own hint is CASCADE, which the caller has no way to say. */
static void
hint_at_dependents(void *arg)
{
	if (geterrcode() == ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST)
		errhint("Drop the dependent objects first.");
}

/* Counts what is committed now, whatever the transaction's snapshot sees. */
static void
require_empty(Oid relid)
{
	if (EventTableIsEmpty(relid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("append-only table \"%s\" is not empty", get_rel_name(relid)),
			 errdetail("Its rows would be lost."),
			 errhint("Say daybook.drop_event_table('%s', force => true) to drop it with its rows.",
					 RelationText(relid))));
}

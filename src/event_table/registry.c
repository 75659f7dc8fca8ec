/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  The event tables of a database and their numbers: daybook.event_table,
 *	  and the publication by which their inserts are decoded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "daybook.h"
#include "event_table/registry.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "run_now.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(daybook_create_publication);

#define REGISTRY_TABLE_NO	1
#define REGISTRY_RELATION	2

/*
 * Enters a new event table.  It joins the publication in the transaction that
 * makes it, so that no insert can come before.
 */
void
RegisterEventTable(Oid relid, const char *created_name)
{
	Oid			types[] = {REGCLASSOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(relid), CStringGetTextDatum(created_name)};

	RunAsOwner("INSERT INTO daybook.event_table (relation, created_name) VALUES ($1, $2)",
			   2, types, values, SPI_OK_INSERT);
	RunAsOwner("INSERT INTO daybook.sequencer_state DEFAULT VALUES ON CONFLICT DO NOTHING",
			   0, NULL, NULL, SPI_OK_INSERT);
	RunAsOwner(psprintf("ALTER PUBLICATION " DAYBOOK_PUBLICATION " ADD TABLE ONLY %s (id)",
						created_name),
			   0, NULL, NULL, SPI_OK_UTILITY);
}

/* Log positions keep the number of a table that is gone. */
void
UnregisterEventTable(Oid relid)
{
	Oid			types[] = {REGCLASSOID};
	Datum		values[] = {ObjectIdGetDatum(relid)};

	RunAsOwner("UPDATE daybook.event_table SET relation = NULL, dropped_at = pg_catalog.clock_timestamp() "
			   "WHERE relation = $1",
			   1, types, values, SPI_OK_UPDATE);
}

/*
 * The caller's search_path must not choose what runs with the owner's rights:
 * an operator of its own would be taken for an exact match.
 */
void
RunAsOwner(const char *command, int nargs, Oid *types, Datum *values, int expected)
{
	int			level = NewGUCNestLevel();
	Oid			user;
	int			context;
	int			result;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	result = RunNow(command, nargs, types, values, NULL);
	if (result != expected)
		elog(ERROR, "could not run \"%s\": %s", command, SPI_result_code_string(result));
	SPI_finish();
	SetUserIdAndSecContext(user, context);
	AtEOXact_GUC(true, level);
}

/*
 * The tables that stand in the registry now, as RegisteredTable.  Whether one
 * is there still can be said when it is locked: news of a table that has just
 * been made or dropped can come later than its row here.
 */
List *
RegisteredEventTables(void)
{
	Relation	rel = table_open(GetDaybookOids()->event_table, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	List	   *tables = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		RegisteredTable *table;
		bool		is_null;
		Datum		relation = heap_getattr(tuple, REGISTRY_RELATION,
											RelationGetDescr(rel), &is_null);

		if (is_null)
			continue;
		table = palloc(sizeof(RegisteredTable));
		table->relid = DatumGetObjectId(relation);
		table->table_no = DatumGetInt32(heap_getattr(tuple, REGISTRY_TABLE_NO,
													 RelationGetDescr(rel), &is_null));
		tables = lappend(tables, table);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return tables;
}

/* Does the table stand in the registry, as this transaction sees it? */
bool
EventTableIsRegistered(Oid relid)
{
	List	   *tables = RegisteredEventTables();
	ListCell   *lc;

	foreach(lc, tables)
		if (((RegisteredTable *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

/* Called by the install script: makes the publication a member of the extension. */
Datum
daybook_create_publication(PG_FUNCTION_ARGS)
{
	int			level;

	if (!creating_extension)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("daybook.create_publication is for CREATE EXTENSION only")));

	/* Without wal_level = logical it is of no use yet, which is no cause for concern. */
	level = NewGUCNestLevel();
	(void) set_config_option("client_min_messages", "error", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	SPI_execute("CREATE PUBLICATION " DAYBOOK_PUBLICATION " WITH (publish = 'insert')", false, 0);
	SPI_finish();
	AtEOXact_GUC(true, level);

	PublicationJoinExtension(get_publication_oid(DAYBOOK_PUBLICATION, false),
							 CurrentExtensionObject);
	PG_RETURN_VOID();
}

/* No command can say this of a publication, not even pg_upgrade's. */
void
PublicationJoinExtension(Oid publication, Oid extension)
{
	ObjectAddress member;
	ObjectAddress owner;

	ObjectAddressSet(member, PublicationRelationId, publication);
	ObjectAddressSet(owner, ExtensionRelationId, extension);
	recordDependencyOn(&member, &owner, DEPENDENCY_EXTENSION);
}

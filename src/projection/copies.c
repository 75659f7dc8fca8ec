/*-------------------------------------------------------------------------
 *
 * copies.c
 *	  Copies of a projection's tables, to be filled beside them.
 *
 * A copy has the columns, defaults, constraints, indexes and triggers of its
 * table.  When it is full the two exchange their files, with those of their
 * indexes, TOAST tables and sequences, while everything that the catalogs say
 * of the table stays: its OID, privileges, comments, statistics, and what
 * views and foreign keys refer to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "projection/projection.h"
#include "relation_text.h"
#include "run_now.h"
#include "storage/lmgr.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* How long readers may be kept waiting for the exchange of the files. */
#define EXCHANGE_LOCK_TIMEOUT	"1s"

static void set_for_now(const char *setting, const char *value);
static void make_schema(const Projection *projection, const char *schema);
static void grant_schema(const char *schema, Oid role, const char *privileges);
static void run_command(const char *command);
static SPITupleTable *run_query(const char *query, Oid type1, Datum value1,
								Oid type2, Datum value2, bool flag);
static void run_as_owner(Oid owner, const char *command);
static ArrayType *relation_array(Oid *relations, int n);
static List *referenced_tables(Oid table);
static void refuse_altered(const Projection *projection, ArrayType *copies);
pg_noreturn static void report_altered(const Projection *projection, const char *detail);
static void exchange_pair(const Projection *projection, Oid live, Oid copy);
static void exchange_files(Oid live, Oid copy);
static void exchange_toast(Form_pg_class live, Form_pg_class copy);
static void own_toast(Oid toast, Oid table);
static void name_toast(Oid table);

/*
 * Why the projection cannot be rebuilt beside its tables, NULL if it can.  They
 * are locked, so that it stays so while copies are made of them.
 */
char *
CopiesObstacle(const Projection *projection)
{
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);
	RunAs		superuser;
	SPITupleTable *result;
	MemoryContext caller = CurrentMemoryContext;
	char	   *obstacle;

	for (int i = 0; i < n; i++)
	{
		LockRelationOid(tables[i], AccessShareLock);
		if (get_rel_name(tables[i]) == NULL)
			return psprintf("The table with OID %u does not exist any more.", tables[i]);
		if (!relation_ownercheck_compat(tables[i], projection->owner))
			return psprintf("Table %s is not owned by the projection's owner.", RelationText(tables[i]));
	}
	SPI_connect();
	RunAsSuperuser(&superuser);
	result = run_query("SELECT daybook.rebuild_obstacle($1)",
					   REGCLASSARRAYOID, PointerGetDatum(projection->tables), InvalidOid, (Datum) 0, false);
	obstacle = SPI_getvalue(result->vals[0], result->tupdesc, 1);
	if (obstacle != NULL)
		obstacle = MemoryContextStrdup(caller, obstacle);
	RunAsEnd(&superuser);
	SPI_finish();
	return obstacle;
}

/*
 * Makes empty copies of the projection's tables in a new schema.  Foreign keys
 * to other tables, which these are locked for, are copied if asked for.
 */
ArrayType *
CopiesCreate(const Projection *projection, const char *schema, bool foreign_keys)
{
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);
	Oid		   *copies = palloc(sizeof(Oid) * n);
	RunAs		superuser;
	SPITupleTable *commands;
	uint64		count;
	Oid			schema_oid;
	int			guc_level = NewGUCNestLevel();

	/* what the commands leave out is as the tables have it, not as the session would */
	set_for_now("default_tablespace", "");
	SPI_connect();
	RunAsSuperuser(&superuser);
	make_schema(projection, schema);
	commands = run_query("SELECT owner, command FROM daybook.copy_commands($1, $2, $3)",
						 REGCLASSARRAYOID, PointerGetDatum(projection->tables),
						 TEXTOID, CStringGetTextDatum(schema), foreign_keys);
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;

		run_as_owner(DatumGetObjectId(SPI_getbinval(commands->vals[i], commands->tupdesc, 1, &isnull)),
					 SPI_getvalue(commands->vals[i], commands->tupdesc, 2));
	}
	RunAsEnd(&superuser);
	SPI_finish();
	AtEOXact_GUC(false, guc_level);

	schema_oid = get_namespace_oid(schema, false);
	for (int i = 0; i < n; i++)
	{
		copies[i] = get_relname_relid(get_rel_name(tables[i]), schema_oid);
		if (!OidIsValid(copies[i]))
			elog(ERROR, "copy of %s was not made", RelationText(tables[i]));
	}
	return relation_array(copies, n);
}

void
CopiesDrop(const char *schema)
{
	ObjectAddress address;
	Oid			oid = get_namespace_oid(schema, true);

	if (!OidIsValid(oid))
		return;
	ObjectAddressSet(address, NamespaceRelationId, oid);
	/* not as an internal one: the guards have to see an event table that was moved there */
	performDeletion(&address, DROP_CASCADE, PERFORM_DELETION_QUIETLY);
}

/* To the end of the nest level that the caller has begun. */
static void
set_for_now(const char *setting, const char *value)
{
	(void) set_config_option(setting, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Gives each table, which is locked, what its copy holds. */
void
CopiesExchange(const Projection *projection, ArrayType *copies)
{
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);
	RunAs		superuser;
	SPITupleTable *pairs;
	uint64		count;

	SPI_connect();
	RunAsSuperuser(&superuser);
	refuse_altered(projection, copies);
	pairs = run_query("SELECT live, copy FROM daybook.copy_pairs($1, $2) WHERE $3",
					  REGCLASSARRAYOID, PointerGetDatum(projection->tables),
					  REGCLASSARRAYOID, PointerGetDatum(copies), true);
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		bool		live_isnull;
		bool		copy_isnull;
		Oid			live = DatumGetObjectId(SPI_getbinval(pairs->vals[i], pairs->tupdesc, 1, &live_isnull));
		Oid			copy = DatumGetObjectId(SPI_getbinval(pairs->vals[i], pairs->tupdesc, 2, &copy_isnull));

		exchange_pair(projection, live_isnull ? InvalidOid : live, copy_isnull ? InvalidOid : copy);
	}
	RunAsEnd(&superuser);
	SPI_finish();
	CommandCounterIncrement();
	CopiesDrop(get_namespace_name(get_rel_namespace(((Oid *) ARR_DATA_PTR(copies))[0])));
	CommandCounterIncrement();
	for (int i = 0; i < n; i++)
		name_toast(tables[i]);
}

/* Nobody but those who make and fill the copies can look into the schema. */
static void
make_schema(const Projection *projection, const char *schema)
{
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);

	run_command(psprintf("CREATE SCHEMA %s", quote_identifier(schema)));
	grant_schema(schema, projection->owner, "USAGE");
	for (int i = 0; i < n; i++)
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(tables[i]));
		Oid			owner;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for relation %u", tables[i]);
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
		grant_schema(schema, owner, "USAGE, CREATE");
	}
}

static void
grant_schema(const char *schema, Oid role, const char *privileges)
{
	run_command(psprintf("GRANT %s ON SCHEMA %s TO %s", privileges, quote_identifier(schema),
						 quote_identifier(GetUserNameFromId(role, false))));
}

static void
run_command(const char *command)
{
	if (SPI_execute(command, false, 0) < 0)
		elog(ERROR, "could not execute: %s", command);
}

static SPITupleTable *
run_query(const char *query, Oid type1, Datum value1, Oid type2, Datum value2, bool flag)
{
	Oid			types[3] = {type1, type2, BOOLOID};
	Datum		values[3] = {value1, value2, BoolGetDatum(flag)};

	if (RunNow(query, OidIsValid(type2) ? 3 : 1, types, values, NULL) != SPI_OK_SELECT)
		elog(ERROR, "could not execute: %s", query);
	return SPI_tuptable;
}

/* Defaults and conditions of the table are code of its owner. */
static void
run_as_owner(Oid owner, const char *command)
{
	RunAs		saved;

	RunAsRole(&saved, owner, "pg_catalog, pg_temp");
	run_command(command);
	RunAsEnd(&saved);
}

static ArrayType *
relation_array(Oid *relations, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		values[i] = ObjectIdGetDatum(relations[i]);
	return construct_array(values, n, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT);
}

/*
 * Gives up soon rather than have everybody wait behind a long query.  The
 * copies' foreign keys to other tables are dropped with them, which locks these
 * as well.
 */
void
CopiesLockForExchange(const Projection *projection, ArrayType *copies)
{
	Oid		   *oids;
	int			n = RelationArray(projection->tables, &oids);
	int			guc_level = NewGUCNestLevel();
	ListCell   *lc;

	set_for_now("lock_timeout", EXCHANGE_LOCK_TIMEOUT);
	for (int i = 0; i < n; i++)
		LockRelationOid(oids[i], AccessExclusiveLock);
	n = RelationArray(copies, &oids);
	for (int i = 0; i < n; i++)
		LockRelationOid(oids[i], AccessExclusiveLock);
	for (int i = 0; i < n; i++)
	{
		foreach(lc, referenced_tables(oids[i]))
		{
			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
			(void) find_all_inheritors(lfirst_oid(lc), AccessExclusiveLock, NULL);
		}
	}
	AtEOXact_GUC(false, guc_level);
}

/* Tables that foreign keys of a table refer to. */
static List *
referenced_tables(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, RelationGetFKeyList(rel))
		result = list_append_unique_oid(result, lfirst_node(ForeignKeyCacheInfo, lc)->confrelid);
	table_close(rel, NoLock);
	return result;
}

/*
 * What copies cannot be made for, or have been made without, may have come to
 * the tables since.  As superuser.
 */
static void
refuse_altered(const Projection *projection, ArrayType *copies)
{
	char	   *obstacle = CopiesObstacle(projection);
	SPITupleTable *result;

	if (obstacle != NULL)
		report_altered(projection, obstacle);
	result = run_query("SELECT daybook.copy_difference($1, $2) WHERE $3",
					   REGCLASSARRAYOID, PointerGetDatum(projection->tables),
					   REGCLASSARRAYOID, PointerGetDatum(copies), true);
	obstacle = SPI_getvalue(result->vals[0], result->tupdesc, 1);
	if (obstacle != NULL)
		report_altered(projection, obstacle);
}

static void
report_altered(const Projection *projection, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("tables of projection \"%s\" were altered while it was being rebuilt", projection->name),
			 errdetail_internal("%s", detail),
			 errhint("Call daybook.rebuild_projection() again.")));
}

static void
exchange_pair(const Projection *projection, Oid live, Oid copy)
{
	if (!OidIsValid(copy))
		report_altered(projection, psprintf("The copy has nothing that corresponds to %s.", RelationText(live)));
	if (!OidIsValid(live))
		report_altered(projection, psprintf("Nothing corresponds to the copy's %s any more.", RelationText(copy)));
	LockRelationOid(live, AccessExclusiveLock);
	LockRelationOid(copy, AccessExclusiveLock);
	exchange_files(live, copy);
}

#define EXCHANGE(type, field) \
	do { type t_ = live->field; live->field = copy->field; copy->field = t_; } while (0)

/* The rows of pg_class say which files are whose. */
static void
exchange_files(Oid live_oid, Oid copy_oid)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	live_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(live_oid));
	HeapTuple	copy_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(copy_oid));
	CatalogIndexState indexes = CatalogOpenIndexes(pg_class);
	Form_pg_class live;
	Form_pg_class copy;

	if (!HeapTupleIsValid(live_tuple) || !HeapTupleIsValid(copy_tuple))
		elog(ERROR, "relation %u or %u does not exist", live_oid, copy_oid);
	live = (Form_pg_class) GETSTRUCT(live_tuple);
	copy = (Form_pg_class) GETSTRUCT(copy_tuple);
	EXCHANGE(Oid, relfilenode);
	EXCHANGE(Oid, reltablespace);
	EXCHANGE(TransactionId, relfrozenxid);
	EXCHANGE(MultiXactId, relminmxid);
	EXCHANGE(int32, relpages);
	EXCHANGE(float4, reltuples);
	EXCHANGE(int32, relallvisible);
#if PG_VERSION_NUM >= 180000
	EXCHANGE(int32, relallfrozen);
#endif
	if (OidIsValid(live->reltoastrelid) || OidIsValid(copy->reltoastrelid))
		exchange_toast(live, copy);
	CatalogTupleUpdateWithInfo(pg_class, &live_tuple->t_self, live_tuple, indexes);
	CatalogTupleUpdateWithInfo(pg_class, &copy_tuple->t_self, copy_tuple, indexes);
	CacheInvalidateRelcacheByTuple(live_tuple);
	CacheInvalidateRelcacheByTuple(copy_tuple);
	CatalogCloseIndexes(indexes);
	table_close(pg_class, RowExclusiveLock);
	CommandCounterIncrement();
}

/*
 * Rows name the TOAST table by its OID, so the table itself changes hands.  One
 * of both can be without: ALTER TABLE leaves a TOAST table that has become
 * useless where it is.
 */
static void
exchange_toast(Form_pg_class live, Form_pg_class copy)
{
	EXCHANGE(Oid, reltoastrelid);
	own_toast(live->reltoastrelid, live->oid);
	own_toast(copy->reltoastrelid, copy->oid);
}

static void
own_toast(Oid toast, Oid table)
{
	ObjectAddress toast_address;
	ObjectAddress table_address;

	if (!OidIsValid(toast))
		return;
	LockRelationOid(toast, AccessExclusiveLock);
	if (deleteDependencyRecordsFor(RelationRelationId, toast, false) != 1)
		elog(ERROR, "unexpected dependencies of TOAST table %u", toast);
	ObjectAddressSet(toast_address, RelationRelationId, toast);
	ObjectAddressSet(table_address, RelationRelationId, table);
	recordDependencyOn(&toast_address, &table_address, DEPENDENCY_INTERNAL);
}

/* A TOAST table and its index are named after the table's OID. */
static void
name_toast(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	Oid			toast = rel->rd_rel->reltoastrelid;
	char		name[NAMEDATALEN];

	table_close(rel, NoLock);
	if (!OidIsValid(toast))
		return;
	snprintf(name, sizeof(name), "pg_toast_%u", table);
	if (strcmp(get_rel_name(toast), name) == 0)
		return;
	RenameRelationInternal(toast, name, true, false);
	snprintf(name, sizeof(name), "pg_toast_%u_index", table);
	RenameRelationInternal(toast_get_valid_index(toast, AccessExclusiveLock), name, true, true);
	CommandCounterIncrement();
}

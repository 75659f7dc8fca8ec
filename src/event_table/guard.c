/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Refuses DDL that would drop, empty, rewrite or unprotect events.
 *
 * The hook sees every change of the catalogs whatever the role, the command
 * that caused it (DROP SCHEMA CASCADE, DROP OWNED, ALTER TYPE ... CASCADE) or
 * session_replication_role.  Drops are looked at here, what is created and
 * altered in guard_alter.c; TRUNCATE is met by the access method.  A superuser
 * who writes catalogs by hand is not stopped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_database.h"
#include "catalog/pg_trigger.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static object_access_hook_type prev_object_access_hook = NULL;

/* The table that drop_event_table() is dropping now. */
static Oid	drop_allowed = InvalidOid;

static void guard_object_access(ObjectAccessType access, Oid class_id,
								Oid object_id, int sub_id, void *arg);
static void guard_drop(Oid class_id, Oid object_id, int sub_id, int flags);
static void guard_drop_relation(Oid relid, int sub_id);
static void guard_drop_index(Oid index, Oid table);
static bool key_has_other_index(Oid table, EventKey key, Oid index);
static void guard_drop_constraint(Oid constraint_id);
static void guard_drop_trigger(Oid trigger_id);

void
GuardInit(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = guard_object_access;
	GuardUtilityInit();
}

/* Lets one table be dropped; returns which one was before, to be given when that ends. */
Oid
GuardAllowDrop(Oid relid)
{
	Oid			before = drop_allowed;

	drop_allowed = relid;
	return before;
}

/* Permanent tables that use our access method, as the catalogs stood before this command. */
bool
TableIsProtected(Oid relid)
{
	Oid			access_method = GetDaybookOids()->access_method;
	HeapTuple	tuple;
	bool		result = false;

	if (!OidIsValid(access_method))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);

		result = class->relam == access_method &&
			class->relkind == RELKIND_RELATION &&
			class->relpersistence != RELPERSISTENCE_TEMP;
		ReleaseSysCache(tuple);
	}
	return result;
}

static void
guard_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
					int sub_id, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class_id, object_id, sub_id, arg);

	switch (access)
	{
		case OAT_DROP:
			guard_drop(class_id, object_id, sub_id,
					   ((ObjectAccessDrop *) arg)->dropflags);
			break;
		case OAT_POST_CREATE:
			if (class_id == DatabaseRelationId)
				VersionCacheForgetAll(object_id, InvalidOid);
			GuardCreate(class_id, object_id, sub_id);
			break;
		case OAT_POST_ALTER:
			GuardAlter(class_id, object_id, sub_id,
					   ((ObjectAccessPostAlter *) arg)->auxiliary_id);
			break;
		default:
			break;
	}
}

/* Looks at what is committed now, whatever the transaction's snapshot sees. */
bool
EventTableIsEmpty(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	bool		empty = !table_scan_getnextslot(scan, ForwardScanDirection, slot);

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return empty;
}

/* Internal drops are those of tables made in passing, as by VACUUM FULL. */
static void
guard_drop(Oid class_id, Oid object_id, int sub_id, int flags)
{
	if (flags & PERFORM_DELETION_INTERNAL)
		return;
	if (class_id == RelationRelationId)
		guard_drop_relation(object_id, sub_id);
	else if (class_id == ConstraintRelationId)
		guard_drop_constraint(object_id);
	else if (class_id == TriggerRelationId)
		guard_drop_trigger(object_id);
}

static void
guard_drop_relation(Oid relid, int sub_id)
{
	Oid			table = IndexGetRelation(relid, true);

	if (OidIsValid(table))
	{
		guard_drop_index(relid, table);
		return;
	}
	if (relid == drop_allowed)
	{
		VersionCacheForgetAll(MyDatabaseId, relid);
		return;
	}
	if (sub_id != 0)
	{
		if (TableIsProtected(relid))
			RefuseDdl(relid, "drop a column of",
					  "Leave the column; a view can leave it out.");
		GuardMemberRelation(relid);
		GuardDropAttribute(relid);
	}
	else if (TableIsProtected(relid))
		RefuseDdl(relid, "drop", HINT_DROP);
}

/* What a command has dropped before is not there any more, so that one index is left. */
static void
guard_drop_index(Oid index, Oid table)
{
	EventKey	key;

	if (table == drop_allowed || !EventTableIs(table))
		return;
	key = EventKeyOfIndex(index);
	if (key != EVENT_KEY_NONE && !key_has_other_index(table, key, index))
		RefuseDdl(table, "drop a key of",
				  "The keys hold the streams' versions and make appends idempotent; REINDEX makes one anew.");
}

/* One that is built now, or was not built to its end, is of no use yet. */
static bool
key_has_other_index(Oid table, EventKey key, Oid index)
{
	Relation	rel = table_open(table, AccessShareLock);
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
		found |= lfirst_oid(lc) != index && EventKeyOfIndex(lfirst_oid(lc)) == key;
	list_free(indexes);
	table_close(rel, AccessShareLock);
	return found;
}

static void
guard_drop_constraint(Oid constraint_id)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint_id));
	Form_pg_constraint constraint;

	if (!HeapTupleIsValid(tuple))
		return;
	constraint = (Form_pg_constraint) GETSTRUCT(tuple);
	if (OidIsValid(constraint->conindid) && constraint->contype != CONSTRAINT_FOREIGN)
		guard_drop_index(constraint->conindid, constraint->conrelid);
#if PG_VERSION_NUM >= 180000
	if (constraint->contype == CONSTRAINT_NOTNULL && constraint->conrelid != drop_allowed &&
		EventTableIs(constraint->conrelid) &&
		EventColumnIsRequired(extractNotNullColumn(tuple)))
		RefuseDdl(constraint->conrelid, "drop NOT NULL from a column of", HINT_NOT_NULL);
#endif
	ReleaseSysCache(tuple);
}

static void
guard_drop_trigger(Oid trigger_id)
{
	Form_pg_trigger trigger = FetchCatalogRow(TriggerRelationId, trigger_id, SnapshotSelf);

	if (trigger && trigger->tgfoid == GetDaybookOids()->event_trigger_function &&
		trigger->tgrelid != drop_allowed && EventTableIs(trigger->tgrelid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop append-only table \"%s\" or its version trigger",
						get_rel_name(trigger->tgrelid)),
				 errdetail("Its rows are history and are kept as they were recorded."),
				 errhint(HINT_DROP)));
}

bool
EventTableIs(Oid relid)
{
	HeapTuple	tuple;
	bool		result;

	if (!TableIsProtected(relid))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	result = ((Form_pg_class) GETSTRUCT(tuple))->reloftype == GetDaybookOids()->event_type;
	ReleaseSysCache(tuple);
	return result;
}

void
RefuseDdl(Oid relid, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s append-only table \"%s\"", what, get_rel_name(relid)),
			 errdetail("Its rows are history and are kept as they were recorded."),
			 errhint("%s", hint)));
}

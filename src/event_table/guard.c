/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Refuses DDL that would drop, empty, rewrite or unprotect events.
 *
 * The hook sees every change of the catalogs whatever the role, the command
 * that caused it (DROP SCHEMA CASCADE, DROP OWNED, ALTER TYPE ... CASCADE) or
 * session_replication_role.  What a changed row of pg_class said before is
 * still to be seen by a catalog snapshot, since the command counter has not
 * moved yet.  A superuser who writes catalogs by hand is not stopped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static object_access_hook_type prev_object_access_hook = NULL;

/* The table that drop_event_table() is dropping now. */
static Oid	drop_allowed = InvalidOid;

static void guard_object_access(ObjectAccessType access, Oid class_id,
								Oid object_id, int sub_id, void *arg);
static void guard_truncate(Oid relid);
static void guard_drop(Oid class_id, Oid object_id, int sub_id, int flags);
static void guard_drop_relation(Oid relid, int sub_id);
static void guard_drop_constraint(Oid constraint_id);
static void guard_drop_trigger(Oid trigger_id);
static void guard_create_rule(Oid rule_id);
static void guard_alter_relation(Oid relid);
static void guard_alter_column(Oid relid, int attnum);
static void guard_alter_trigger(Oid trigger_id);
static void guard_alter_inheritance(Oid child, Oid parent);
static HeapTuple fetch_new_version(Oid catalog, Oid index, AttrNumber oid_column,
								   Oid object_id);
static bool is_event_table(Oid relid);
pg_noreturn static void refuse(Oid relid, const char *what, const char *hint);

#define HINT_DROP		"Use daybook.drop_event_table(name, force => true) to drop an event table with its events."
#define HINT_APPEND		"Append events that correct earlier ones; what was recorded stays."
#define HINT_TRIGGER	"The trigger " EVENT_TRIGGER_NAME " keeps the streams' versions; to load a dump, set daybook.restore."

void
GuardInit(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = guard_object_access;
}

/* Lets one table be dropped; InvalidOid ends that. */
void
GuardAllowDrop(Oid relid)
{
	drop_allowed = relid;
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
		case OAT_TRUNCATE:
			guard_truncate(object_id);
			break;
		case OAT_DROP:
			guard_drop(class_id, object_id, sub_id,
					   ((ObjectAccessDrop *) arg)->dropflags);
			break;
		case OAT_POST_CREATE:
			if (class_id == RewriteRelationId)
				guard_create_rule(object_id);
			break;
		case OAT_POST_ALTER:
			if (class_id == RelationRelationId && sub_id == 0)
				guard_alter_relation(object_id);
			else if (class_id == RelationRelationId)
				guard_alter_column(object_id, sub_id);
			else if (class_id == TriggerRelationId)
				guard_alter_trigger(object_id);
			else if (class_id == InheritsRelationId)
				guard_alter_inheritance(object_id,
										((ObjectAccessPostAlter *) arg)->auxiliary_id);
			break;
		default:
			break;
	}
}

/* pg_restore -j truncates tables that it has just made: an empty one may be. */
static void
guard_truncate(Oid relid)
{
	if (TableIsProtected(relid) && !EventTableIsEmpty(relid))
		refuse(relid, "truncate", HINT_DROP);
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
		/* An index: only the one that finds events by the caller's id is ours. */
		HeapTuple	tuple;
		Form_pg_index index;

		if (table == drop_allowed || !is_event_table(table))
			return;
		tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(relid));
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisunique && index->indnkeyatts == 2 &&
			index->indkey.values[0] == EVENT_EVENT_ID)
			refuse(table, "drop an index of", "The index makes appends idempotent.");
		ReleaseSysCache(tuple);
		return;
	}
	if (relid == drop_allowed || !TableIsProtected(relid))
		return;
	if (sub_id != 0)
		refuse(relid, "drop a column of", HINT_APPEND);
	refuse(relid, "drop", HINT_DROP);
}

static void
guard_drop_constraint(Oid constraint_id)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint_id));
	Form_pg_constraint constraint;
	Oid			relid;
	char		type;

	if (!HeapTupleIsValid(tuple))
		return;
	constraint = (Form_pg_constraint) GETSTRUCT(tuple);
	relid = constraint->conrelid;
	type = constraint->contype;
	ReleaseSysCache(tuple);
	if (relid != drop_allowed && is_event_table(relid) &&
		(type == CONSTRAINT_PRIMARY || type == CONSTRAINT_UNIQUE || type == 'n'))
		refuse(relid, "drop a constraint of",
			   "The keys of an event table keep its streams' versions.");
}

static void
guard_drop_trigger(Oid trigger_id)
{
	HeapTuple	tuple = fetch_new_version(TriggerRelationId, TriggerOidIndexId,
										  Anum_pg_trigger_oid, trigger_id);
	Form_pg_trigger trigger;

	if (!HeapTupleIsValid(tuple))
		return;
	trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	if (trigger->tgfoid == GetDaybookOids()->event_trigger_function &&
		trigger->tgrelid != drop_allowed && TableIsProtected(trigger->tgrelid))
		refuse(trigger->tgrelid, "drop the version trigger, or the whole, of", HINT_DROP);
}

static void
guard_create_rule(Oid rule_id)
{
	HeapTuple	tuple = fetch_new_version(RewriteRelationId, RewriteOidIndexId,
										  Anum_pg_rewrite_oid, rule_id);
	Form_pg_rewrite rule;

	if (!HeapTupleIsValid(tuple))
		return;
	rule = (Form_pg_rewrite) GETSTRUCT(tuple);
	if (TableIsProtected(rule->ev_class))
		refuse(rule->ev_class, "create a rule on",
			   "A rule could turn appends away. Use a trigger.");
}

/* Compares what pg_class says after the command with what it said before. */
static void
guard_alter_relation(Oid relid)
{
	Oid			access_method = GetDaybookOids()->access_method;
	HeapTuple	old_tuple;
	HeapTuple	new_tuple;
	Form_pg_class old_class;
	Form_pg_class new_class;
	Relation	catalog;
	SysScanDesc scan;
	ScanKeyData key;

	if (!OidIsValid(access_method))
		return;
	new_tuple = fetch_new_version(RelationRelationId, ClassOidIndexId,
								  Anum_pg_class_oid, relid);
	if (!HeapTupleIsValid(new_tuple))
		return;

	/* not from the syscache, which may have been refreshed already */
	catalog = table_open(RelationRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, ClassOidIndexId, true, NULL, 1, &key);
	old_tuple = systable_getnext(scan);
	if (HeapTupleIsValid(old_tuple))
	{
		old_class = (Form_pg_class) GETSTRUCT(old_tuple);
		new_class = (Form_pg_class) GETSTRUCT(new_tuple);
		if (old_class->relam == access_method &&
			old_class->relkind == RELKIND_RELATION &&
			old_class->relpersistence != RELPERSISTENCE_TEMP)
		{
			if (new_class->relam != access_method)
				refuse(relid, "change the access method of", HINT_APPEND);
			if (new_class->relpersistence != RELPERSISTENCE_PERMANENT)
				refuse(relid, "make unlogged", "An unlogged table is emptied by a crash.");
			if (new_class->relrowsecurity || new_class->relforcerowsecurity)
				refuse(relid, "enable row-level security on",
					   "Grant access through a view with the conditions instead.");
		}
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

static void
guard_alter_column(Oid relid, int attnum)
{
	Relation	catalog;
	HeapTuple	old_tuple;
	HeapTuple	new_tuple;
	SysScanDesc old_scan;
	SysScanDesc new_scan;
	ScanKeyData keys[2];
	ScanKeyData new_keys[2];

	if (!TableIsProtected(relid))
		return;
	ScanKeyInit(&keys[0], Anum_pg_attribute_attrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_attribute_attnum, BTEqualStrategyNumber,
				F_INT2EQ, Int16GetDatum(attnum));
	memcpy(new_keys, keys, sizeof(keys));	/* a scan changes its keys */
	catalog = table_open(AttributeRelationId, AccessShareLock);
	old_scan = systable_beginscan(catalog, AttributeRelidNumIndexId, true, NULL, 2, keys);
	new_scan = systable_beginscan(catalog, AttributeRelidNumIndexId, true, SnapshotSelf, 2, new_keys);
	old_tuple = systable_getnext(old_scan);
	new_tuple = systable_getnext(new_scan);
	if (HeapTupleIsValid(old_tuple) && HeapTupleIsValid(new_tuple))
	{
		Form_pg_attribute old_att = (Form_pg_attribute) GETSTRUCT(old_tuple);
		Form_pg_attribute new_att = (Form_pg_attribute) GETSTRUCT(new_tuple);

		if (old_att->atttypid != new_att->atttypid ||
			old_att->atttypmod != new_att->atttypmod)
			refuse(relid, "change the type of a column of", HINT_APPEND);
		if (old_att->attnotnull && !new_att->attnotnull && is_event_table(relid))
			refuse(relid, "drop NOT NULL from a column of",
				   "Every event has an id, a stream, a version and a type.");
	}
	systable_endscan(new_scan);
	systable_endscan(old_scan);
	table_close(catalog, AccessShareLock);
}

/* The trigger must fire in every session: ENABLE ALWAYS and nothing else. */
static void
guard_alter_trigger(Oid trigger_id)
{
	HeapTuple	tuple = fetch_new_version(TriggerRelationId, TriggerOidIndexId,
										  Anum_pg_trigger_oid, trigger_id);
	Form_pg_trigger trigger;

	if (!HeapTupleIsValid(tuple))
		return;
	trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	if (trigger->tgfoid == GetDaybookOids()->event_trigger_function &&
		trigger->tgenabled != TRIGGER_FIRES_ALWAYS &&
		TableIsProtected(trigger->tgrelid))
		refuse(trigger->tgrelid, "disable the version trigger of", HINT_TRIGGER);
}

/* A child's rows would show up as the parent's events; a partition must stay. */
static void
guard_alter_inheritance(Oid child, Oid parent)
{
	if (TableIsProtected(parent))
		refuse(parent, "inherit from", "Rows of the child would pass for events of the table.");
	if (TableIsProtected(child))
	{
		Relation	catalog = table_open(InheritsRelationId, AccessShareLock);
		SysScanDesc scan;
		ScanKeyData key;
		bool		attached;

		ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(child));
		scan = systable_beginscan(catalog, InheritsRelidSeqnoIndexId, true,
								  SnapshotSelf, 1, &key);
		attached = HeapTupleIsValid(systable_getnext(scan));
		systable_endscan(scan);
		table_close(catalog, AccessShareLock);
		if (!attached)
			refuse(child, "detach", HINT_APPEND);
	}
}

/* The version of a catalog row that the present command has made. */
static HeapTuple
fetch_new_version(Oid catalog_id, Oid index, AttrNumber oid_column, Oid object_id)
{
	Relation	catalog = table_open(catalog_id, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, oid_column, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(object_id));
	scan = systable_beginscan(catalog, index, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return tuple;
}

static bool
is_event_table(Oid relid)
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

static void
refuse(Oid relid, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s append-only table \"%s\"", what, get_rel_name(relid)),
			 errdetail("Its rows are history and are kept as they were recorded."),
			 errhint("%s", hint)));
}

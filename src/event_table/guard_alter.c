/*-------------------------------------------------------------------------
 *
 * guard_alter.c
 *	  Refuses to create or alter what would unprotect events.
 *
 * What a row of a catalog said before the command is still to be seen by a
 * catalog snapshot, since the command counter has not moved yet; what it says
 * now, by SnapshotSelf.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#define HINT_APPEND		"Append events that correct earlier ones; what was recorded stays."
#define HINT_VERSION	"Append events of a new schema_version; a view can show older ones in the new shape."
#define HINT_TRIGGER	"The trigger " EVENT_TRIGGER_NAME " keeps the streams' versions; to load a dump, set daybook.restore."

#define HINT_IDENTITY	"The trigger " EVENT_TRIGGER_NAME " gives id and version."

static void guard_add_column(Oid relid);
static void guard_create_rule(Oid rule_id);
static void guard_create_trigger(Oid trigger_id);
static int	count_version_triggers(Oid relid);
static void guard_alter_relation(Oid relid);
static void guard_new_protection(Form_pg_class class);
static bool gave_rows_away(Form_pg_class copy);
static void guard_alter_column(Oid relid, int attnum);
static void guard_alter_trigger(Oid trigger_id);
static void guard_alter_inheritance(Oid child, Oid parent);
static bool fetch_attribute(Oid relid, int attnum, Snapshot snapshot,
							FormData_pg_attribute *attribute);

/* Something has been created, or replaced. */
void
GuardCreate(Oid class_id, Oid object_id, int sub_id)
{
	if (class_id == RelationRelationId && sub_id != 0)
		guard_add_column(object_id);
	else if (class_id == RewriteRelationId)
		guard_create_rule(object_id);
	else if (class_id == TriggerRelationId)
		guard_create_trigger(object_id);
	else if (class_id == ProcedureRelationId)
		GuardMember(class_id, object_id, true);
}

void
GuardAlter(Oid class_id, Oid object_id, int sub_id, Oid auxiliary_id)
{
	if (class_id == RelationRelationId && sub_id == 0)
		guard_alter_relation(object_id);
	else if (class_id == RelationRelationId)
		guard_alter_column(object_id, sub_id);
	else if (class_id == TriggerRelationId)
		guard_alter_trigger(object_id);
	else if (class_id == InheritsRelationId)
		guard_alter_inheritance(object_id, auxiliary_id);
	else
		GuardMember(class_id, object_id, false);
}

/* An event table has the columns of its type; an upgrade of ours may add some. */
static void
guard_add_column(Oid relid)
{
	GuardMemberRelation(relid);
	if (!OwnScriptRuns() && EventTableIs(relid))
		RefuseDdl(relid, "add a column to", "Put it into data or metadata.");
}

static void
guard_create_rule(Oid rule_id)
{
	Form_pg_rewrite rule = FetchCatalogRow(RewriteRelationId, rule_id, SnapshotSelf);

	if (rule)
		GuardMemberRelation(rule->ev_class);	/* a view's query is a rule, too */
	if (rule && TableIsProtected(rule->ev_class))
		RefuseDdl(rule->ev_class, "create a rule on",
				  "A rule could turn appends away. Use a trigger.");
}

/*
 * CREATE OR REPLACE TRIGGER, with another function or another condition, does
 * not keep ENABLE ALWAYS, by which it is told from a creation.  A second
 * version trigger would refuse every row, and could not be dropped.  On other
 * tables the function is of no use, and its trigger as any other.
 */
static void
guard_create_trigger(Oid trigger_id)
{
	Oid			function = GetDaybookOids()->event_trigger_function;
	Form_pg_trigger before = FetchCatalogRow(TriggerRelationId, trigger_id, NULL);
	Form_pg_trigger after = FetchCatalogRow(TriggerRelationId, trigger_id, SnapshotSelf);

	if (after == NULL || !EventTableIs(after->tgrelid))
		return;
	if (before && before->tgfoid == function &&
		(after->tgfoid != function || after->tgenabled != before->tgenabled))
		RefuseDdl(after->tgrelid, "replace the version trigger of",
				  "Give your trigger another name.");
	if (after->tgfoid == function && count_version_triggers(after->tgrelid) > 1)
		RefuseDdl(after->tgrelid, "create a second version trigger on",
				  "The table has one already.");
}

static int
count_version_triggers(Oid relid)
{
	Oid			function = GetDaybookOids()->event_trigger_function;
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	int			count = 0;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, SnapshotSelf, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == function)
			count++;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return count;
}

/* Compares what pg_class says after the command with what it said before. */
static void
guard_alter_relation(Oid relid)
{
	const DaybookOids *oids = GetDaybookOids();
	Form_pg_class before;
	Form_pg_class after;

	if (!OidIsValid(oids->access_method))
		return;
	before = FetchCatalogRow(RelationRelationId, relid, NULL);
	after = FetchCatalogRow(RelationRelationId, relid, SnapshotSelf);
	if (before == NULL || after == NULL)
		return;
	if (before->relnamespace != after->relnamespace ||
		namestrcmp(&before->relname, NameStr(after->relname)) != 0)
		GuardMemberRelation(relid);
	if (before->relkind != RELKIND_RELATION || before->relpersistence == RELPERSISTENCE_TEMP)
		return;
	if (before->relam != oids->access_method)
	{
		if (after->relam == oids->access_method)
			guard_new_protection(after);
		return;
	}

	if (after->relam != oids->access_method && !gave_rows_away(before))
		RefuseDdl(relid, "change the access method of", HINT_APPEND);
	if (after->relpersistence != RELPERSISTENCE_PERMANENT)
		RefuseDdl(relid, "make unlogged", "An unlogged table is emptied by a crash.");
	if (before->reloftype == oids->event_type && after->reloftype != oids->event_type)
		RefuseDdl(relid, "take the type from", HINT_VERSION);
	if ((after->relrowsecurity && !before->relrowsecurity) ||
		(after->relforcerowsecurity && !before->relforcerowsecurity))
		RefuseRowSecurity(relid);
}

/* What a protected table would not be given, it must not bring along. */
static void
guard_new_protection(Form_pg_class class)
{
	Relation	rel = table_open(class->oid, NoLock);
	const char *has = NULL;

	if (class->relrowsecurity || class->relforcerowsecurity)
		has = "row-level security";
	else if (rel->rd_rules != NULL)
		has = "rules";
	else if (find_inheritance_children(class->oid, NoLock) != NIL)
		has = "child tables";
	table_close(rel, NoLock);
	if (has)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("append-only table \"%s\" cannot have %s", NameStr(class->relname), has),
				 errdetail("Rows could be hidden, or others pass for them."),
				 errhint("Remove that before the table gets access method daybook.")));
}

/*
 * A table that gets our access method is copied into a new table, called
 * pg_temp_ and its OID, with which it then changes storage and access method.
 */
static bool
gave_rows_away(Form_pg_class copy)
{
	Form_pg_class table;
	Oid			relid;

	if (sscanf(NameStr(copy->relname), "pg_temp_%u", &relid) != 1)
		return false;
	table = FetchCatalogRow(RelationRelationId, relid, SnapshotSelf);
	return table && table->relam == copy->relam && table->relfilenode == copy->relfilenode;
}

void
RefuseRowSecurity(Oid relid)
{
	RefuseDdl(relid, "enable row-level security on",
			  "Grant access to a view with the conditions instead.");
}

static void
guard_alter_column(Oid relid, int attnum)
{
	FormData_pg_attribute before;
	FormData_pg_attribute after;
	bool		retyped;
	bool		renamed;

	if (!fetch_attribute(relid, attnum, NULL, &before) ||
		!fetch_attribute(relid, attnum, SnapshotSelf, &after))
		return;
	retyped = before.atttypid != after.atttypid || before.atttypmod != after.atttypmod;
	renamed = namestrcmp(&before.attname, NameStr(after.attname)) != 0;
	if (retyped || renamed || before.attcollation != after.attcollation)
		GuardMemberRelation(relid);
	if (retyped && TableIsProtected(relid))
		RefuseDdl(relid, "change the type of a column of", HINT_VERSION);
	if (!EventTableIs(relid))
		return;
	if (before.attnotnull && !after.attnotnull && EventColumnIsRequired(attnum))
		RefuseDdl(relid, "drop NOT NULL from a column of", HINT_NOT_NULL);
	if (before.attidentity == '\0' && after.attidentity != '\0')
		RefuseDdl(relid, "add an identity to a column of", HINT_IDENTITY);
	if (renamed && !OwnScriptRuns())
		RefuseDdl(relid, "rename a column of", "A view can give columns other names.");
}

static bool
fetch_attribute(Oid relid, int attnum, Snapshot snapshot,
				FormData_pg_attribute *attribute)
{
	Relation	catalog = table_open(AttributeRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData keys[2];
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_attribute_attrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_attribute_attnum, BTEqualStrategyNumber,
				F_INT2EQ, Int16GetDatum(attnum));
	scan = systable_beginscan(catalog, AttributeRelidNumIndexId, true, snapshot, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		memcpy(attribute, GETSTRUCT(tuple), ATTRIBUTE_FIXED_PART_SIZE);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/* The trigger must fire in every session: ENABLE ALWAYS and nothing else. */
static void
guard_alter_trigger(Oid trigger_id)
{
	Form_pg_trigger trigger = FetchCatalogRow(TriggerRelationId, trigger_id, SnapshotSelf);

	if (trigger && trigger->tgfoid == GetDaybookOids()->event_trigger_function &&
		trigger->tgenabled != TRIGGER_FIRES_ALWAYS &&
		EventTableIs(trigger->tgrelid))
		RefuseDdl(trigger->tgrelid, "disable the version trigger of", HINT_TRIGGER);
}

/* A child's rows would show up as the parent's events; a partition must stay. */
static void
guard_alter_inheritance(Oid child, Oid parent)
{
	Relation	catalog;
	SysScanDesc scan;
	ScanKeyData key;
	Oid			protected;
	bool		attached;

	if (TableIsProtected(parent))
		RefuseDdl(parent, "inherit from", "Rows of the child would pass for rows of the table.");
	protected = ProtectedTableUnder(child);
	if (!OidIsValid(protected))
		return;
	catalog = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(child));
	scan = systable_beginscan(catalog, InheritsRelidSeqnoIndexId, true,
							  SnapshotSelf, 1, &key);
	attached = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	if (!attached)
		RefuseDetach(protected);
}

/* A protected table whose rows show up in this one: itself, a child, or one further down. */
Oid
ProtectedTableUnder(Oid relid)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		if (TableIsProtected(lfirst_oid(lc)))
			return lfirst_oid(lc);
	return InvalidOid;
}

void
RefuseDetach(Oid relid)
{
	RefuseDdl(relid, "detach", "Its rows are part of the partitioned table's history.");
}

/* A copy of a catalog's row; with NULL for snapshot, as it was before this command. */
void *
FetchCatalogRow(Oid catalog_id, Oid object_id, Snapshot snapshot)
{
	Relation	catalog = table_open(catalog_id, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	void	   *row;

	ScanKeyInit(&key, get_object_attnum_oid(catalog_id), BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(object_id));
	scan = systable_beginscan(catalog, get_object_oid_index(catalog_id), true,
							  snapshot, 1, &key);
	tuple = systable_getnext(scan);
	row = HeapTupleIsValid(tuple) ? GETSTRUCT(heap_copytuple(tuple)) : NULL;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return row;
}

/*-------------------------------------------------------------------------
 *
 * guard_type.c
 *	  Refuses to drop attributes of row types that append-only tables store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_type.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

static void refuse_if_stored(Oid type);
static void refuse_if_stored_by(Form_pg_depend dependency);

/* An attribute of a relation's row type goes, and with it what was recorded there. */
void
GuardDropAttribute(Oid relid)
{
	Oid			type = get_rel_type_id(relid);

	if (OidIsValid(type))
		refuse_if_stored(type);
}

static void
refuse_if_stored(Oid type)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData keys[2];
	HeapTuple	tuple;

	check_stack_depth();
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(type));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		refuse_if_stored_by((Form_pg_depend) GETSTRUCT(tuple));
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}

/* Columns, of tables or of other row types, and arrays, domains and ranges of the type. */
static void
refuse_if_stored_by(Form_pg_depend dependency)
{
	if (dependency->classid == TypeRelationId)
		refuse_if_stored(dependency->objid);
	else if (dependency->classid == RelationRelationId && dependency->objsubid != 0)
	{
		if (TableIsProtected(dependency->objid))
			RefuseDdl(dependency->objid, "drop an attribute from the type of a column of",
					  "Leave the attribute; a view can leave it out.");
		GuardDropAttribute(dependency->objid);
	}
}

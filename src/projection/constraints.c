/*-------------------------------------------------------------------------
 *
 * constraints.c
 *	  Having the deferrable constraints of a projection's tables checked in the
 *	  batch that violates them, where an event can be blamed.
 *
 * In a transaction that is not the worker's own, all other constraints are the
 * caller's business and stay as they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "commands/trigger.h"
#include "compat.h"
#include "nodes/makefuncs.h"
#include "projection/projection.h"
#include "relation_text.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static List *deferrable_constraints(const Projection *projection);
static List *add_constraints(List *constraints, Relation table);
static void refuse_pending(const Projection *projection, Oid table);

/*
 * Refuses if the caller has yet to have such a constraint checked: that would
 * be done with the batch, and an event be blamed for what it finds.
 */
void
RefusePendingConstraints(const Projection *projection)
{
	ListCell   *lc;

	foreach(lc, deferrable_constraints(projection))
	{
		Form_pg_constraint constraint = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));

		refuse_pending(projection, constraint->conrelid);
		if (OidIsValid(constraint->confrelid))
			refuse_pending(projection, constraint->confrelid);
	}
}

/*
 * To the end of the transaction, or of the subtransaction if that is rolled
 * back.  SET CONSTRAINTS knows names alone: a constraint of another table that
 * has the same name in the same schema is set, too.
 */
void
SetConstraintsImmediate(const Projection *projection)
{
	ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);
	OwnerContext owner;
	ListCell   *lc;

	OwnerContextEnter(&owner, projection);
	foreach(lc, deferrable_constraints(projection))
	{
		Form_pg_constraint constraint = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));

		if (schema_aclcheck_compat(constraint->connamespace, projection->owner, ACL_USAGE) == ACLCHECK_OK)
			immediate->constraints = lappend(immediate->constraints,
											 makeRangeVar(get_namespace_name(constraint->connamespace),
														  NameStr(constraint->conname), -1));
	}
	/* an empty list stands for all constraints */
	if (immediate->constraints != NIL)
		AfterTriggerSetState(immediate);
	OwnerContextLeave(&owner);
}

/* Rows of pg_constraint, foreign keys that refer to the tables among them. */
static List *
deferrable_constraints(const Projection *projection)
{
	List	   *constraints = NIL;
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);

	for (int i = 0; i < n; i++)
	{
		Relation	table = try_table_open(tables[i], AccessShareLock);

		if (table == NULL)
			continue;
		constraints = add_constraints(constraints, table);
		table_close(table, NoLock);
	}
	return constraints;
}

/* Whatever can be deferred is checked by a trigger. */
static List *
add_constraints(List *constraints, Relation table)
{
	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &table->trigdesc->triggers[i];
		HeapTuple	tuple;

		if (!trigger->tgdeferrable || !OidIsValid(trigger->tgconstraint))
			continue;
		tuple = SearchSysCacheCopy1(CONSTROID, ObjectIdGetDatum(trigger->tgconstraint));
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for constraint %u", trigger->tgconstraint);
		constraints = lappend(constraints, tuple);
	}
	return constraints;
}

/* Of a partitioned table the partitions have the events. */
static void
refuse_pending(const Projection *projection, Oid table)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(table, NoLock, NULL))
		if (AfterTriggerPendingOnRel(lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot apply events of projection \"%s\" because table %s has pending trigger events",
							projection->name, RelationText(lfirst_oid(lc))),
					 errdetail("Deferred constraints of the projection's tables would be checked with the events."),
					 errhint("Commit, or use SET CONSTRAINTS ALL IMMEDIATE first.")));
}

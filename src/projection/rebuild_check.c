/*-------------------------------------------------------------------------
 *
 * rebuild_check.c
 *	  What stands in the way of giving a projection's tables other rows: rows
 *	  of others in them, or that refer to them.
 *
 * Both can come while a rebuild goes on, so it looks once more when it has
 * locked the tables to exchange them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/heap.h"
#include "projection/projection.h"
#include "relation_text.h"

static Oid	first_among(ArrayType *tables, const List *parts);
static bool array_has_relation(ArrayType *array, Oid relation);

/* Rows that another projection put there, or into a partition, would not come back. */
void
CheckTablesNotShared(const Projection *projection)
{
	List	   *parts = RelationParts(projection->tables);
	ListCell   *lc;

	foreach(lc, ProjectionLoadAll())
	{
		Projection *other = lfirst(lc);
		Oid			shared;

		if (strcmp(other->name, projection->name) == 0 || other->rebuild_of != NULL)
			continue;
		shared = first_among(other->tables, parts);
		if (OidIsValid(shared))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot rebuild projection \"%s\"", projection->name),
					 errdetail("Projection \"%s\" keeps rows in %s too; they would be lost.",
							   other->name, RelationText(shared)),
					 errhint("Give each projection tables of its own.")));
	}
}

/* One of the tables' parts that is among these, InvalidOid if there is none. */
static Oid
first_among(ArrayType *tables, const List *parts)
{
	ListCell   *lc;

	foreach(lc, RelationParts(tables))
	{
		if (list_member_oid(parts, lfirst_oid(lc)))
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* The new rows may lack what rows of other tables refer to. */
void
CheckTablesNotReferenced(const Projection *projection)
{
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);

	for (int i = 0; i < n; i++)
	{
		Relation	rel = table_open(tables[i], AccessShareLock);
		List	   *referring = heap_truncate_find_FKs(list_make1_oid(tables[i]));
		ListCell   *lc;

		foreach(lc, referring)
		{
			if (!array_has_relation(projection->tables, lfirst_oid(lc)))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot rebuild projection \"%s\"", projection->name),
						 errdetail("Table %s has a foreign key to %s.",
								   RelationText(lfirst_oid(lc)), RelationText(tables[i])),
						 errhint("Drop the foreign key and add it again after the rebuild.")));
		}
		table_close(rel, NoLock);
	}
}

static bool
array_has_relation(ArrayType *array, Oid relation)
{
	Oid		   *oids;
	int			n = RelationArray(array, &oids);

	for (int i = 0; i < n; i++)
	{
		if (oids[i] == relation)
			return true;
	}
	return false;
}

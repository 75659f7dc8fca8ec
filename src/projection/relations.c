/*-------------------------------------------------------------------------
 *
 * relations.c
 *	  What projections ask of the relations that they name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "projection/projection.h"
#include "utils/syscache.h"

/* The elements of a regclass[]; returns their number. */
int
RelationArray(ArrayType *array, Oid **relations)
{
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	/* Oid elements without nulls lie there as a C array */
	Assert(ARR_ELEMTYPE(array) == REGCLASSOID && !array_contains_nulls(array));
	*relations = (Oid *) ARR_DATA_PTR(array);
	return n;
}

/* The relations, and all that inherit from them, down to the last partition. */
List *
RelationParts(ArrayType *array)
{
	List	   *parts = NIL;
	Oid		   *relations;
	int			n = RelationArray(array, &relations);

	for (int i = 0; i < n; i++)
	{
		/* of another projection some may have been dropped */
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relations[i])))
			parts = list_concat_unique_oid(parts, find_all_inheritors(relations[i], NoLock, NULL));
	}
	return parts;
}

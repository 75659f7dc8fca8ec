/*-------------------------------------------------------------------------
 *
 * open_table.c
 *	  Opens tables that a caller names by OID.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "storage/sinval.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

/* The table may be gone, or go while its lock is waited for. */
Relation
OpenTable(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = try_table_open(relid, lockmode);

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return rel;
}

/*
 * OpenTable() for those whom the check lets pass.  It comes before the lock,
 * since others queue behind one that is waited for, and again if anything has
 * changed meanwhile.
 */
Relation
OpenTableIfAllowed(Oid relid, LOCKMODE lockmode, void (*check) (Oid relid))
{
	uint64		changes = SharedInvalidMessageCounter;
	Relation	rel;

	check(relid);
	rel = OpenTable(relid, lockmode);
	if (changes != SharedInvalidMessageCounter)
		check(relid);
	return rel;
}

void
RequireOwner(Oid relid)
{
	if (!relation_ownercheck_compat(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
}

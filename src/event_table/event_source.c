/*-------------------------------------------------------------------------
 *
 * event_source.c
 *	  Opens event tables to read events on behalf of a user.
 *
 * Events are read by index scans of our own, so what the executor would check
 * for a SELECT is checked here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/objectaddress.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

void
CheckEventTableReadable(Oid relid)
{
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot replay \"%s\" under row-level security",
						get_rel_name(relid)),
				 errdetail("Its policies would hide some of the events from role \"%s\".",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("Read the table itself with SELECT.")));
}

Relation
OpenReadableEventTable(Oid relid)
{
	Relation	table = OpenTableIfAllowed(relid, AccessShareLock, CheckEventTableReadable);

	(void) RequireEventTable(table);
	return table;
}

/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  The event tables of a database and their numbers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_REGISTRY_H
#define DAYBOOK_REGISTRY_H

#include "nodes/pg_list.h"

/* One registered table, dropped tables left out. */
typedef struct RegisteredTable
{
	int32		table_no;
	Oid			relid;
} RegisteredTable;

extern void RegisterEventTable(Oid relid, const char *created_name);
extern void UnregisterEventTable(Oid relid);
extern List *RegisteredEventTables(void);
extern bool EventTableIsRegistered(Oid relid);
extern void PublicationJoinExtension(Oid publication, Oid extension);
extern void RunAsOwner(const char *command, int nargs, Oid *types, Datum *values,
					   int expected);

#endif							/* DAYBOOK_REGISTRY_H */

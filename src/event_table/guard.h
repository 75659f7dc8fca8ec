/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  What the guards of append-only tables share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_GUARD_H
#define DAYBOOK_GUARD_H

#include "compat.h"
#include "nodes/parsenodes.h"
#include "utils/snapshot.h"

/* Which columns of an event must have a value. */
#define EventColumnIsRequired(attnum)	((attnum) <= EVENT_DATA)

#define HINT_DROP		"Use daybook.drop_event_table(name, force => true) to drop the table with its rows."
#define HINT_NOT_NULL	"Every event has a value there; only metadata and tags may be null."

/* guard.c */
extern bool EventTableIs(Oid relid);
pg_noreturn extern void RefuseDdl(Oid relid, const char *what, const char *hint);

/* guard_alter.c */
extern void GuardCreate(Oid class_id, Oid object_id, int sub_id);
extern void GuardAlter(Oid class_id, Oid object_id, int sub_id, Oid auxiliary_id);
pg_noreturn extern void RefuseRowSecurity(Oid relid);
extern Oid	ProtectedTableUnder(Oid relid);
pg_noreturn extern void RefuseDetach(Oid relid);
extern void *FetchCatalogRow(Oid catalog_id, Oid object_id, Snapshot snapshot);

/* guard_extension.c */
extern bool OwnScriptRuns(void);
extern void GuardMember(Oid class_id, Oid object_id, bool replaced);
extern void GuardMemberRelation(Oid relid);
extern void GuardMembership(AlterExtensionContentsStmt *command);

/* guard_type.c */
extern void GuardDropAttribute(Oid relid);

/* guard_utility.c */
extern void GuardUtilityInit(void);

#endif							/* DAYBOOK_GUARD_H */

/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between PostgreSQL 15 and 18 that more than one file meets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_COMPAT_H
#define DAYBOOK_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"

#if PG_VERSION_NUM >= 180000
#define index_beginscan_compat(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define index_beginscan_compat(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* goes before a declaration since 18 */
#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/* the last argument of a table access method's tuple_update */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes UpdateIndexes;
#else
typedef bool UpdateIndexes;
#endif

/* relation file numbers were renamed in 16 */
#if PG_VERSION_NUM < 160000
#define RelFileLocator RelFileNode
#define relation_set_new_filelocator relation_set_new_filenode
#endif

/* ownership checks became one function in 16 */
#if PG_VERSION_NUM >= 160000
#define relation_ownercheck_compat(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#define database_ownercheck_compat(database, role) \
	object_ownercheck(DatabaseRelationId, database, role)
#else
#define relation_ownercheck_compat(relid, role) \
	pg_class_ownercheck(relid, role)
#define database_ownercheck_compat(database, role) \
	pg_database_ownercheck(database, role)
#endif

/* as did checks of other rights than those to relations */
#if PG_VERSION_NUM >= 160000
#define schema_aclcheck_compat(schema, role, mode) \
	object_aclcheck(NamespaceRelationId, schema, role, mode)
#define function_aclcheck_compat(function, role, mode) \
	object_aclcheck(ProcedureRelationId, function, role, mode)
#else
#define schema_aclcheck_compat(schema, role, mode) \
	pg_namespace_aclcheck(schema, role, mode)
#define function_aclcheck_compat(function, role, mode) \
	pg_proc_aclcheck(function, role, mode)
#endif

/* search paths as the plan cache keeps them were renamed in 17 */
#if PG_VERSION_NUM < 170000
#define SearchPathMatcher OverrideSearchPath
#define GetSearchPathMatcher GetOverrideSearchPath
#define SearchPathMatchesCurrentEnvironment OverrideSearchPathMatchesCurrent
#endif

/* locks of other modes can be asked for since 17 */
#if PG_VERSION_NUM >= 170000
#define lock_held_by_me_compat(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define lock_held_by_me_compat(tag, mode) LockHeldByMe(tag, mode)
#endif

/* of syncrep.c alone in all of them */
#define SyncStandbysDefined() \
	(SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0')

#endif							/* DAYBOOK_COMPAT_H */

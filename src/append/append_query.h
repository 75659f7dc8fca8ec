/*-------------------------------------------------------------------------
 *
 * append_query.h
 *	  Queries by type and tags, for conditional appends.
 *
 * The marker of a read is the number of events that matched, with a hash of
 * the query above it.  Events are never taken away, so the same number later
 * means the same events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_APPEND_QUERY_H
#define DAYBOOK_APPEND_QUERY_H

#include "access/xact.h"
#include "event_table/tag_locks.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#define MARKER_COUNT_BITS	40
#define MARKER_COUNT_MASK	((INT64CONST(1) << MARKER_COUNT_BITS) - 1)
#define MARKER_HASH_MASK	0x7FFFFF	/* 23 bits: the marker stays positive */

#define MARKER(query, count) \
	((int64) (query)->hash << MARKER_COUNT_BITS | (count))

typedef struct AppendQuery
{
	StringInfoData condition;	/* SQL, over the columns of an event table */
	List	   *tags;			/* TagUse, of all objects */
	bool		untagged;		/* some object has no tags */
	uint32		hash;
} AppendQuery;

extern AppendQuery *ParseQuery(Jsonb *json);
extern int64 CountMatching(Oid relid, const AppendQuery *query);

#endif							/* DAYBOOK_APPEND_QUERY_H */

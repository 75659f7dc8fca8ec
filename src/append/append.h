/*-------------------------------------------------------------------------
 *
 * append.h
 *	  Events on their way into a stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_APPEND_H
#define DAYBOOK_APPEND_H

#include "event_table/event_table.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* expected_version: what the caller knows of the stream */
#define EXPECT_ANY		PG_INT64_MIN
#define EXPECT_EXISTS	(-1)

/* An event as a caller describes it; NULL pointers for what was not given. */
typedef struct AppendEvent
{
	text	   *stream_id;
	text	   *type;
	Jsonb	   *data;
	Jsonb	   *metadata;
	pg_uuid_t  *event_id;
	int32		schema_version; /* 0: not given */
	ArrayType  *tags;
} AppendEvent;

/* daybook.append_result */
typedef struct AppendResult
{
	int64		first_version;
	int64		last_version;
	int64		first_id;
	int64		last_id;
	bool		duplicate;
} AppendResult;

/* append_parse.c */
extern AppendEvent *ParseEvents(Jsonb *events, text *stream_id, int *count);

/* append_duplicate.c */
extern bool FindDuplicate(Relation rel, const EventTable *table,
						  const AppendEvent *events, int count, AppendResult *result);

/* append_write.c */
extern void WriteEvents(Relation rel, const AppendEvent *events, int count,
						AppendResult *result);

/* append.c */
extern Relation OpenForAppend(Oid relid, LOCKMODE lockmode);
extern int	CompareStreams(const text *a, const text *b);
extern Datum AppendResultDatum(FunctionCallInfo fcinfo, const AppendResult *result);

#endif							/* DAYBOOK_APPEND_H */

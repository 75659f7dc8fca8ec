/*-------------------------------------------------------------------------
 *
 * append_if.c
 *	  daybook.append_if(): appends unless events that matter have come since
 *	  the caller looked, whatever streams they are in.
 *
 * In this order: tags are locked, so that nobody else can append what the
 * query asks about; streams are locked; then the matching events are counted
 * with a snapshot taken after the locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "append/append.h"
#include "append/append_query.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(daybook_append_if);
PG_FUNCTION_INFO_V1(daybook_matching_condition);
PG_FUNCTION_INFO_V1(daybook_matching_marker);

/* Streams of one call; each is kept locked until all events are in. */
#define MAX_STREAMS_PER_CALL	32

static int64 marker_argument(FunctionCallInfo fcinfo, const AppendQuery *query);
static void lock_tags(Oid relid, const AppendQuery *query, const AppendEvent *events,
					  int count);
static int	pin_streams(Relation rel,
						const AppendEvent *events, int count, StreamPin *pins);
static int	compare_streams(const void *a, const void *b);
static void check_condition(Relation rel, const AppendQuery *query, int64 expected);

/* daybook.append_if(event_table, events, query, after) */
Datum
daybook_append_if(PG_FUNCTION_ARGS)
{
	AppendResult result = {0};
	StreamPin	pins[MAX_STREAMS_PER_CALL];
	AppendEvent *events;
	AppendQuery *query;
	Relation	rel;
	int64		expected;
	int			count;
	int			npins;

	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("event_table, events and query of daybook.append_if must not be null")));
	PreventCommandIfReadOnly("daybook.append_if()");
	events = ParseEvents(PG_GETARG_JSONB_P(1), NULL, &count);
	query = ParseQuery(PG_GETARG_JSONB_P(2));
	expected = marker_argument(fcinfo, query);

	/* without tags to lock, the table has to be */
	rel = OpenForAppend(PG_GETARG_OID(0),
						query->untagged ? ShareRowExclusiveLock : RowExclusiveLock);
	RequireEventTable(rel);
	lock_tags(RelationGetRelid(rel), query, events, count);
	npins = pin_streams(rel, events, count, pins);
	if (!FindDuplicate(rel, RequireEventTable(rel), events, count, &result))
	{
		check_condition(rel, query, expected);
		WriteEvents(rel, events, count, &result);
	}
	for (int i = 0; i < npins; i++)
		StreamTailUnpin(&pins[i]);
	table_close(rel, NoLock);
	return AppendResultDatum(fcinfo, &result);
}

/* The number of matching events that the caller knows of. */
static int64
marker_argument(FunctionCallInfo fcinfo, const AppendQuery *query)
{
	int64		marker = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3);
	int64		expected = marker & MARKER_COUNT_MASK;

	/* no marker, or zero: there must be no matching event at all */
	if (marker != 0 && marker != MARKER(query, expected))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("marker " INT64_FORMAT " is not one of this query", marker),
				 errhint("Give the marker that daybook.read_matching() returned for the same query.")));
	return expected;
}

static void
lock_tags(Oid relid, const AppendQuery *query, const AppendEvent *events, int count)
{
	List	   *uses = list_copy(query->tags);
	TagUse	   *array;
	int			n = 0;
	ListCell   *lc;

	for (int i = 0; i < count; i++)
	{
		Datum	   *tags;
		int			ntags;

		if (events[i].tags == NULL)
			continue;
		deconstruct_array(events[i].tags, TEXTOID, -1, false, TYPALIGN_INT, &tags, NULL, &ntags);
		for (int j = 0; j < ntags; j++)
		{
			TagUse	   *use = palloc(sizeof(TagUse));

			use->tag = VARDATA_ANY(DatumGetTextPP(tags[j]));
			use->length = VARSIZE_ANY_EXHDR(DatumGetTextPP(tags[j]));
			use->uses = TAG_WRITE;
			uses = lappend(uses, use);
		}
	}
	array = palloc(list_length(uses) * sizeof(TagUse) + 1);
	foreach(lc, uses)
		array[n++] = *(TagUse *) lfirst(lc);
	LockTags(relid, array, n);
}

/* Locks each stream once, in a fixed order. */
static int
pin_streams(Relation rel, const AppendEvent *events,
			int count, StreamPin *pins)
{
	text	  **streams = palloc(count * sizeof(text *));
	int			npins = 0;

	for (int i = 0; i < count; i++)
		streams[i] = events[i].stream_id;
	qsort(streams, count, sizeof(text *), compare_streams);
	for (int i = 0; i < count; i++)
	{
		if (i > 0 && compare_streams(&streams[i - 1], &streams[i]) == 0)
			continue;
		if (npins == MAX_STREAMS_PER_CALL)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("a conditional append cannot write to more than %d streams",
							MAX_STREAMS_PER_CALL)));
		(void) StreamTailPin(rel, RequireEventTable(rel), streams[i], &pins[npins++]);
	}
	return npins;
}

static int
compare_streams(const void *a, const void *b)
{
	return CompareStreams(*(text *const *) a, *(text *const *) b);
}

static void
check_condition(Relation rel, const AppendQuery *query, int64 expected)
{
	int64		actual = CountMatching(RelationGetRelid(rel), query);

	if (actual == expected)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("events of table \"%s\" that match the query have come after the marker",
					RelationGetRelationName(rel)),
			 errdetail(INT64_FORMAT " events match, " INT64_FORMAT " were expected.",
					   actual, expected),
			 errhint("Read the matching events again, decide anew, and append with their marker."),
			 errtable(rel)));
}

/* daybook.matching_condition(query): the query as SQL over an event table */
Datum
daybook_matching_condition(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ParseQuery(PG_GETARG_JSONB_P(0))->condition.data));
}

/* daybook.matching_marker(query, count) */
Datum
daybook_matching_marker(PG_FUNCTION_ARGS)
{
	AppendQuery *query = ParseQuery(PG_GETARG_JSONB_P(0));

	PG_RETURN_INT64(MARKER(query, PG_GETARG_INT64(1)));
}

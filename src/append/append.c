/*-------------------------------------------------------------------------
 *
 * append.c
 *	  daybook.append(): events into a stream, once, at the expected version.
 *
 * The stream is locked before it is looked at, so duplicates and the version
 * are judged by what is committed then, whatever the isolation level.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "append/append.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"

PG_FUNCTION_INFO_V1(daybook_append_events);
PG_FUNCTION_INFO_V1(daybook_append_event);
PG_FUNCTION_INFO_V1(daybook_append_literals);

#define APPEND_RESULT_NATTS	5

static Jsonb *metadata_argument(Jsonb *metadata);
static text *stream_argument(FunctionCallInfo fcinfo);
static Jsonb *jsonb_from_cstring(const char *value);
static int64 expected_argument(FunctionCallInfo fcinfo, int n);
static int64 check_range(int64 expected);
static void require_argument(FunctionCallInfo fcinfo, int n, const char *name);
static Datum append(FunctionCallInfo fcinfo, const AppendEvent *events, int count,
					int64 expected);
static void require_append(Oid relid);
static void check_expected(Relation rel, text *stream_id, int64 expected, int64 actual);

/* daybook.append(event_table, stream_id, events, expected_version) */
Datum
daybook_append_events(PG_FUNCTION_ARGS)
{
	AppendEvent *events;
	int			count;

	require_argument(fcinfo, 2, "events");
	events = ParseEvents(PG_GETARG_JSONB_P(2), stream_argument(fcinfo), &count);
	return append(fcinfo, events, count, expected_argument(fcinfo, 3));
}

/* daybook.append(event_table, stream_id, type, data, metadata, expected_version) */
Datum
daybook_append_event(PG_FUNCTION_ARGS)
{
	AppendEvent event = {.stream_id = stream_argument(fcinfo)};

	require_argument(fcinfo, 2, "type");
	event.type = PG_GETARG_TEXT_PP(2);
	event.data = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	event.metadata = PG_ARGISNULL(4) ? NULL : metadata_argument(PG_GETARG_JSONB_P(4));
	return append(fcinfo, &event, 1, expected_argument(fcinfo, 5));
}

/* As among the events of an array, a JSON null, which drivers make of none, is none. */
static Jsonb *
metadata_argument(Jsonb *metadata)
{
	JsonbValue	scalar;

	if (JB_ROOT_IS_OBJECT(metadata))
		return metadata;
	if (JsonbExtractScalar(&metadata->root, &scalar) && scalar.type == jbvNull)
		return NULL;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("metadata of an event must be a JSON object")));
}

/*
 * daybook.append(event_table, stream_id, type_or_events, data_or_version):
 * which of the others is meant shows in the third argument.
 */
Datum
daybook_append_literals(PG_FUNCTION_ARGS)
{
	AppendEvent event = {.stream_id = stream_argument(fcinfo)};
	char	   *third;
	char	   *fourth = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));

	require_argument(fcinfo, 2, "type");
	third = text_to_cstring(PG_GETARG_TEXT_PP(2));
	third += strspn(third, " \t\r\n");
	if (*third == '{' || *third == '[')
	{
		int			count;
		AppendEvent *events = ParseEvents(jsonb_from_cstring(third), event.stream_id, &count);

		return append(fcinfo, events, count,
					  fourth ? check_range(pg_strtoint64(fourth)) : EXPECT_ANY);
	}
	event.type = PG_GETARG_TEXT_PP(2);
	event.data = fourth ? jsonb_from_cstring(fourth) : NULL;
	return append(fcinfo, &event, 1, EXPECT_ANY);
}

static text *
stream_argument(FunctionCallInfo fcinfo)
{
	text	   *stream_id;

	require_argument(fcinfo, 1, "stream_id");
	stream_id = PG_GETARG_TEXT_PP(1);
	if (VARSIZE_ANY_EXHDR(stream_id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream_id of an event must not be empty")));
	return stream_id;
}

static Jsonb *
jsonb_from_cstring(const char *value)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));
}

static int64
expected_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? EXPECT_ANY : check_range(PG_GETARG_INT64(n));
}

static int64
check_range(int64 expected)
{
	if (expected < EXPECT_EXISTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected_version " INT64_FORMAT " is out of range", expected),
				 errhint("Use NULL for any version, 0 for a new stream, a version, or -1 for a stream that exists.")));
	return expected;
}

static void
require_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" of daybook.append must not be null", name)));
}

/* Appends events that all go to one stream. */
static Datum
append(FunctionCallInfo fcinfo, const AppendEvent *events, int count, int64 expected)
{
	AppendResult result = {0};
	const EventTable *table;
	Relation	rel;
	StreamPin	pin;
	int64		last_version;

	require_argument(fcinfo, 0, "event_table");
	PreventCommandIfReadOnly("daybook.append()");
	rel = OpenForAppend(PG_GETARG_OID(0), RowExclusiveLock);
	table = RequireEventTable(rel);
	last_version = StreamTailPin(rel, table, events->stream_id, &pin);
	if (!FindDuplicate(rel, table, events, count, &result))
	{
		check_expected(rel, events->stream_id, expected, last_version);
		WriteEvents(rel, events, count, &result);
	}
	StreamTailUnpin(&pin);
	table_close(rel, NoLock);
	return AppendResultDatum(fcinfo, &result);
}

Relation
OpenForAppend(Oid relid, LOCKMODE lockmode)
{
	return OpenTableIfAllowed(relid, lockmode, require_append);
}

/* What INSERT would check of the table. */
static void
require_append(Oid relid)
{
	AclResult	allowed = pg_class_aclcheck(relid, GetUserId(), ACL_INSERT);

	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_TABLE, get_rel_name(relid));
	if (check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot append to \"%s\" under row-level security",
						get_rel_name(relid)),
				 errhint("Grant INSERT on the table, or EXECUTE on a function that appends.")));
}

static void
check_expected(Relation rel, text *stream_id, int64 expected, int64 actual)
{
	if (expected == EXPECT_ANY || expected == actual ||
		(expected == EXPECT_EXISTS && actual > 0))
		return;
	ReportVersionConflict(rel, stream_id, expected, actual);
}

/* Some order of streams, the same for all. */
int
CompareStreams(const text *a, const text *b)
{
	int			order = memcmp(VARDATA_ANY(a), VARDATA_ANY(b),
							   Min(VARSIZE_ANY_EXHDR(a), VARSIZE_ANY_EXHDR(b)));

	return order != 0 ? order : (int) VARSIZE_ANY_EXHDR(a) - (int) VARSIZE_ANY_EXHDR(b);
}

Datum
AppendResultDatum(FunctionCallInfo fcinfo, const AppendResult *result)
{
	Datum		values[APPEND_RESULT_NATTS];
	bool		nulls[APPEND_RESULT_NATTS] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(result->first_version);
	values[1] = Int64GetDatum(result->last_version);
	values[2] = Int64GetDatum(result->first_id);
	values[3] = Int64GetDatum(result->last_id);
	values[4] = BoolGetDatum(result->duplicate);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

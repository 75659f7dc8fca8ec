/*-------------------------------------------------------------------------
 *
 * upcast_call.c
 *	  Upcasting events that SQL has read from an event table itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "schema/upcast.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(daybook_upcast);
PG_FUNCTION_INFO_V1(daybook_payload_as);
PG_FUNCTION_INFO_V1(daybook_payload_record);

/* What calls of one statement have in common. */
typedef struct UpcastCalls
{
	MemoryContext context;		/* of the upcasting, which is made anew when it changes */
	Oid			event_table;
	Upcasting  *upcasting;		/* NULL: nothing to be done */
} UpcastCalls;

static void describe_payload(void *arg);
static UpcastCalls *prepare_calls(FunctionCallInfo fcinfo, Oid event_table);
static bool upcast_row(FunctionCallInfo fcinfo, TupleDesc *desc, Datum *values, bool *nulls);

/* daybook.upcast(event_table, event) */
Datum
daybook_upcast(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[EVENT_NATTS];
	bool		nulls[EVENT_NATTS];
	Datum		result;

	if (!upcast_row(fcinfo, &desc, values, nulls))
	{
		ReleaseTupleDesc(desc);
		PG_RETURN_NULL();
	}
	result = heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc);
	ReleaseTupleDesc(desc);
	return result;
}

/* daybook.payload_as(event_table, event, type) */
Datum
daybook_payload_as(PG_FUNCTION_ARGS)
{
	text	   *type = PG_GETARG_TEXT_PP(2);
	TupleDesc	desc;
	Datum		values[EVENT_NATTS];
	bool		nulls[EVENT_NATTS];
	bool		found = upcast_row(fcinfo, &desc, values, nulls);

	ReleaseTupleDesc(desc);
	if (!found || CompareTypes(DatumGetTextPP(values[EVENT_TYPE - 1]), type) != 0)
		PG_RETURN_NULL();
	return values[EVENT_DATA - 1];
}

/* daybook.payload_record(base, payload, stream_id, version) */
Datum
daybook_payload_record(PG_FUNCTION_ARGS)
{
	ErrorContextCallback callback;
	Datum		result;

	callback.callback = describe_payload;
	callback.arg = fcinfo;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	/* it takes the first two arguments */
	result = jsonb_populate_record(fcinfo);
	error_context_stack = callback.previous;
	return result;
}

static void
describe_payload(void *arg)
{
	FunctionCallInfo fcinfo = arg;

	if (!PG_ARGISNULL(2) && !PG_ARGISNULL(3))
		errcontext("payload of stream \"%s\", version " INT64_FORMAT,
				   text_to_cstring(PG_GETARG_TEXT_PP(2)), PG_GETARG_INT64(3));
}

/* Columns of the upcast event; false: it is dropped. */
static bool
upcast_row(FunctionCallInfo fcinfo, TupleDesc *desc, Datum *values, bool *nulls)
{
	UpcastCalls *calls = prepare_calls(fcinfo, PG_GETARG_OID(0));
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(1);
	HeapTupleData tuple = {0};
	bool		kept = true;

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	tuple.t_data = row;
	*desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
	heap_deform_tuple(&tuple, *desc, values, nulls);
	if (nulls[EVENT_TYPE - 1] || nulls[EVENT_SCHEMA_VERSION - 1] || nulls[EVENT_DATA - 1])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an event must have a type, a schema version and data")));
	if (calls->upcasting &&
		UpcastApplies(calls->upcasting, DatumGetTextPP(values[EVENT_TYPE - 1]),
					  DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1])))
	{
		kept = Upcast(calls->upcasting, values, nulls);
		UpcastRest(calls->upcasting);
	}
	return kept;
}

static UpcastCalls *
prepare_calls(FunctionCallInfo fcinfo, Oid event_table)
{
	UpcastCalls *calls = fcinfo->flinfo->fn_extra;
	MemoryContext caller;
	Relation	table;

	if (calls == NULL)
	{
		calls = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(UpcastCalls));
		calls->context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "upcast calls",
											   ALLOCSET_SMALL_SIZES);
		fcinfo->flinfo->fn_extra = calls;
	}
	else if (calls->event_table == event_table &&
			 UpcastingIsCurrent(calls->upcasting, event_table))
		return calls;

	MemoryContextReset(calls->context);
	caller = MemoryContextSwitchTo(calls->context);
	table = table_open(event_table, AccessShareLock);
	(void) RequireEventTable(table);
	calls->upcasting = UpcastingBegin(table);
	calls->event_table = event_table;
	table_close(table, NoLock);
	MemoryContextSwitchTo(caller);
	return calls;
}

/*-------------------------------------------------------------------------
 *
 * upcast_call.c
 *	  Upcasting events that SQL has read from an event table itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "schema/upcast.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(daybook_upcast);
PG_FUNCTION_INFO_V1(daybook_payload_as);
PG_FUNCTION_INFO_V1(daybook_payload_record);

/*
 * What calls of one statement have in common.
 *
 * Upcasters run as the owner of the event table.  Whoever may read the table
 * may see what they make of any event; for readers of an event view, who may
 * read nothing else, they run on events that are stored.
 */
typedef struct UpcastCalls
{
	MemoryContext context;		/* of the upcasting, which is made anew when it changes */
	Oid			event_table;
	Oid			user;
	bool		may_read;		/* the whole event table */
	Upcasting  *upcasting;		/* NULL: nothing to be done */
} UpcastCalls;

static void describe_payload(void *arg);
static UpcastCalls *prepare_calls(FunctionCallInfo fcinfo, Oid event_table);
static void read_row(HeapTupleHeader row, TupleDesc *desc, Datum *values, bool *nulls);
static bool is_type(const text *type, void *wanted);
static bool upcast_row(UpcastCalls *calls, Datum *values, bool *nulls);
static void require_stored(Oid event_table, Datum *values, bool *nulls);
static bool find_event(Relation event_table, Datum id, TupleTableSlot *slot);
static bool same_event(TupleTableSlot *slot, const Datum *values, const bool *nulls);

/* daybook.upcast(event_table, event) */
Datum
daybook_upcast(PG_FUNCTION_ARGS)
{
	Oid			event_table = PG_GETARG_OID(0);
	UpcastCalls *calls = prepare_calls(fcinfo, event_table);
	TupleDesc	desc;
	Datum		values[EVENT_NATTS];
	bool		nulls[EVENT_NATTS];
	Datum		result;

	if (!calls->may_read)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(event_table));
	read_row(PG_GETARG_HEAPTUPLEHEADER(1), &desc, values, nulls);
	if (!upcast_row(calls, values, nulls))
	{
		ReleaseTupleDesc(desc);
		PG_RETURN_NULL();
	}
	result = heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc);
	ReleaseTupleDesc(desc);
	return result;
}

/* daybook.payload_as(event_table, event, type): views call it, whose readers may not read the table. */
Datum
daybook_payload_as(PG_FUNCTION_ARGS)
{
	UpcastCalls *calls = prepare_calls(fcinfo, PG_GETARG_OID(0));
	text	   *type = PG_GETARG_TEXT_PP(2);
	TupleDesc	desc;
	Datum		values[EVENT_NATTS];
	bool		nulls[EVENT_NATTS];

	read_row(PG_GETARG_HEAPTUPLEHEADER(1), &desc, values, nulls);
	ReleaseTupleDesc(desc);
	/* most events that a view passes over are of other types, whose upcasters are none of its business */
	if (calls->upcasting &&
		!UpcastMayReach(calls->upcasting, DatumGetTextPP(values[EVENT_TYPE - 1]),
						DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]), is_type, type))
		PG_RETURN_NULL();
	if (!upcast_row(calls, values, nulls) ||
		CompareTypes(DatumGetTextPP(values[EVENT_TYPE - 1]), type) != 0)
		PG_RETURN_NULL();
	return values[EVENT_DATA - 1];
}

static bool
is_type(const text *type, void *wanted)
{
	return CompareTypes(type, wanted) == 0;
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

/* The columns of an event. */
static void
read_row(HeapTupleHeader row, TupleDesc *desc, Datum *values, bool *nulls)
{
	HeapTupleData tuple = {0};

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	tuple.t_data = row;
	*desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
	heap_deform_tuple(&tuple, *desc, values, nulls);
	if (nulls[EVENT_TYPE - 1] || nulls[EVENT_SCHEMA_VERSION - 1] || nulls[EVENT_DATA - 1])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an event must have a type, a schema version and data")));
}

/* False: the event is dropped. */
static bool
upcast_row(UpcastCalls *calls, Datum *values, bool *nulls)
{
	bool		kept;

	if (calls->upcasting == NULL ||
		!UpcastApplies(calls->upcasting, DatumGetTextPP(values[EVENT_TYPE - 1]),
					   DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1])))
		return true;
	if (!calls->may_read)
		require_stored(calls->event_table, values, nulls);
	kept = Upcast(calls->upcasting, values, nulls);
	UpcastRest(calls->upcasting);
	return kept;
}

static void
require_stored(Oid event_table, Datum *values, bool *nulls)
{
	Relation	table = table_open(event_table, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(table, NULL);

	if (nulls[EVENT_ID - 1] || !find_event(table, values[EVENT_ID - 1], slot) ||
		!same_event(slot, values, nulls))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to upcast events that are not in event table \"%s\"",
						RelationGetRelationName(table)),
				 errdetail("Role \"%s\" may not read the table itself.",
						   GetUserNameFromId(GetUserId(), false))));
	ExecDropSingleTupleTableSlot(slot);
	table_close(table, NoLock);
}

static bool
find_event(Relation event_table, Datum id, TupleTableSlot *slot)
{
	Relation	index = index_open(RequireEventTable(event_table)->id_index, AccessShareLock);
	IndexScanDesc scan = index_beginscan_compat(event_table, index, GetActiveSnapshot(), 1);
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, id);
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	index_close(index, NoLock);
	return found;
}

static bool
same_event(TupleTableSlot *slot, const Datum *values, const bool *nulls)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;

	slot_getallattrs(slot);
	for (int i = 0; i < EVENT_NATTS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (slot->tts_isnull[i] != nulls[i])
			return false;
		if (!nulls[i] && !datum_image_eq(slot->tts_values[i], values[i],
										 column->attbyval, column->attlen))
			return false;
	}
	return true;
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
	else if (calls->event_table == event_table && calls->user == GetUserId() &&
			 UpcastingIsCurrent(calls->upcasting, event_table))
		return calls;

	MemoryContextReset(calls->context);
	caller = MemoryContextSwitchTo(calls->context);
	table = OpenTable(event_table, AccessShareLock);
	(void) RequireEventTable(table);
	calls->upcasting = UpcastingBegin(table);
	calls->event_table = event_table;
	calls->user = GetUserId();
	calls->may_read = pg_class_aclcheck(event_table, calls->user, ACL_SELECT) == ACLCHECK_OK;
	table_close(table, NoLock);
	MemoryContextSwitchTo(caller);
	return calls;
}

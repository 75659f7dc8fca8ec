/*-------------------------------------------------------------------------
 *
 * check_upcasters.c
 *	  Runs the upcasters of an event table over what is stored there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "schema/distinct_names.h"
#include "schema/event_check.h"
#include "schema/upcast.h"
#include "subtransaction.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(daybook_check_upcasters);

#define CHECK_UPCASTERS_NATTS	7

/* What was found out about a stored type and version. */
typedef struct CheckedType
{
	text	   *type;
	int32		version;
	int64		checked;
	int64		dropped;
	int64		failed;
	List	   *becomes;		/* char *, what events turned into that were kept, as in "Shipped 2" */
	char	   *failure;		/* of the first that failed */
} CheckedType;

/* A call in progress. */
typedef struct UpcasterCheck
{
	Relation	table;
	EventSchema *schema;		/* NULL: nothing is registered */
	Upcasting  *upcasting;		/* NULL: there are no upcasters */
	MemoryContext context;		/* of the results */
	List	   *types;			/* CheckedType */
} UpcasterCheck;

/* An event to be looked at, and what was found. */
typedef struct EventCheckCall
{
	UpcasterCheck *check;
	CheckedType *type;
	TupleTableSlot *slot;
	bool		dropped;
	char	   *failure;
} EventCheckCall;

static void check_table(UpcasterCheck *check, bool all_events);
static CheckedType *find_type(UpcasterCheck *check, TupleTableSlot *slot);
static void check_event(UpcasterCheck *check, CheckedType *type, TupleTableSlot *slot);
static bool check_call(void *arg);
static char *upcast_and_check(UpcasterCheck *check, CheckedType *type, TupleTableSlot *slot,
							  bool *dropped);
static void note_becoming(UpcasterCheck *check, CheckedType *type, Datum *values);
static void return_types(UpcasterCheck *check, ReturnSetInfo *rsinfo);

/* daybook.check_upcasters(event_table, all_events) */
Datum
daybook_check_upcasters(PG_FUNCTION_ARGS)
{
	UpcasterCheck check = {0};

	check.table = OpenReadableEventTable(PG_GETARG_OID(0));
	check.schema = HoldEventSchema(check.table);
	check.upcasting = UpcastingBegin(check.table);
	check.context = CurrentMemoryContext;
	InitMaterializedSRF(fcinfo, 0);
	check_table(&check, PG_GETARG_BOOL(1));
	return_types(&check, (ReturnSetInfo *) fcinfo->resultinfo);
	if (check.upcasting)
		UpcastingEnd(check.upcasting);
	table_close(check.table, NoLock);
	return (Datum) 0;
}

static void
check_table(UpcasterCheck *check, bool all_events)
{
	TupleTableSlot *slot = table_slot_create(check->table, NULL);
	TableScanDesc scan = table_beginscan(check->table, GetActiveSnapshot(), 0, NULL);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "stored event",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(row_context);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CheckedType *type;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		type = find_type(check, slot);
		if (type->checked == 0 || all_events)
			check_event(check, type, slot);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row_context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

static CheckedType *
find_type(UpcasterCheck *check, TupleTableSlot *slot)
{
	text	   *name = DatumGetTextPP(slot->tts_values[EVENT_TYPE - 1]);
	int32		version = DatumGetInt32(slot->tts_values[EVENT_SCHEMA_VERSION - 1]);
	CheckedType *type;
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, check->types)
	{
		type = lfirst(lc);
		if (type->version == version && CompareTypes(type->type, name) == 0)
			return type;
	}
	caller = MemoryContextSwitchTo(check->context);
	type = palloc0(sizeof(CheckedType));
	type->type = DatumGetTextPCopy(PointerGetDatum(name));
	type->version = version;
	check->types = lappend(check->types, type);
	MemoryContextSwitchTo(caller);
	return type;
}

/* In a subtransaction, since the next event is looked at after a failure. */
static void
check_event(UpcasterCheck *check, CheckedType *type, TupleTableSlot *slot)
{
	EventCheckCall call = {check, type, slot};
	ErrorData  *error = RunInSubtransaction(check_call, &call);
	char	   *failure = call.failure;
	bool		dropped = call.dropped;

	if (error != NULL)
	{
		if (check->upcasting)
			UpcastAborted(check->upcasting);
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		failure = error->message;
		dropped = false;
	}

	type->checked++;
	type->dropped += dropped;
	if (failure == NULL)
		return;
	if (type->failed++ == 0)
		type->failure = MemoryContextStrdup(check->context,
											psprintf("stream \"%s\", version " INT64_FORMAT ": %s",
													 TextDatumGetCString(slot->tts_values[EVENT_STREAM_ID - 1]),
													 DatumGetInt64(slot->tts_values[EVENT_VERSION - 1]),
													 failure));
}

static bool
check_call(void *arg)
{
	EventCheckCall *call = arg;

	call->failure = upcast_and_check(call->check, call->type, call->slot, &call->dropped);
	return call->failure == NULL;
}

/* What is wrong with an upcast event, NULL if it is right. */
static char *
upcast_and_check(UpcasterCheck *check, CheckedType *type, TupleTableSlot *slot, bool *dropped)
{
	Datum		values[EVENT_NATTS];
	EventType  *result;
	char	   *failure;

	memcpy(values, slot->tts_values, sizeof(values));
	if (check->upcasting && UpcastApplies(check->upcasting, type->type, type->version))
	{
		*dropped = !Upcast(check->upcasting, values, slot->tts_isnull);
		UpcastRest(check->upcasting);
		if (*dropped)
			return NULL;
	}
	note_becoming(check, type, values);
	if (check->schema == NULL)
		return NULL;
	failure = UpcastDeadEnd(check->schema, DatumGetTextPP(values[EVENT_TYPE - 1]),
							DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]));
	result = EventTypeOf(check->schema, DatumGetTextPP(values[EVENT_TYPE - 1]),
						 DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]));
	if (failure || result == NULL)
		return failure;
	return EventMisfit(check->schema, result, check->table, values, slot->tts_isnull);
}

static void
note_becoming(UpcasterCheck *check, CheckedType *type, Datum *values)
{
	char	   *becomes = psprintf("%s %d", TextDatumGetCString(values[EVENT_TYPE - 1]),
								   DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]));

	type->becomes = AddDistinctName(type->becomes, becomes, check->context);
}

static void
return_types(UpcasterCheck *check, ReturnSetInfo *rsinfo)
{
	ListCell   *lc;

	foreach(lc, check->types)
	{
		CheckedType *type = lfirst(lc);
		Datum		values[CHECK_UPCASTERS_NATTS];
		bool		nulls[CHECK_UPCASTERS_NATTS] = {false};

		values[0] = PointerGetDatum(type->type);
		values[1] = Int32GetDatum(type->version);
		nulls[2] = type->becomes == NIL;
		values[2] = nulls[2] ? (Datum) 0 : JoinNames(type->becomes, ", ");
		values[3] = Int64GetDatum(type->checked);
		values[4] = Int64GetDatum(type->dropped);
		values[5] = Int64GetDatum(type->failed);
		nulls[6] = type->failure == NULL;
		values[6] = nulls[6] ? (Datum) 0 : CStringGetTextDatum(type->failure);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

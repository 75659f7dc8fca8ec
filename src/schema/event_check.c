/*-------------------------------------------------------------------------
 *
 * event_check.c
 *	  Whether an event is as its registered type says.
 *
 * Events are checked as the access method is about to store them, when no
 * other trigger can change them any more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "error_class.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "schema/event_check.h"
#include "schema/payload_check.h"
#include "subtransaction.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* A registered type made ready to check events. */
typedef struct EventCheck
{
	MemoryContext context;		/* of all that is prepared */
	MemoryContext row_context;	/* of what one event takes */
	PayloadCheck *payload;		/* NULL: none */
	bool		has_function;
	bool		takes_event;	/* the function wants the event, not the payload */
	FmgrInfo	function;
	const char *search_path;	/* NULL: no code of users runs */
} EventCheck;

/* Arguments and result of EventMisfit(). */
typedef struct MisfitCall
{
	EventSchema *schema;
	EventType  *type;
	Relation	event_table;
	Datum	   *values;
	bool	   *nulls;
	char	   *misfit;
} MisfitCall;

static void check_new_event(Relation rel, TupleTableSlot *slot);
static void check_by_schema(EventSchema *schema, Relation rel, TupleTableSlot *slot);
static void judge_event(EventSchema *schema, EventType *type, Relation rel,
						TupleTableSlot *slot);
static void warn_of_misfit(EventSchema *schema, EventType *type, Relation rel,
						   TupleTableSlot *slot);
static void report_misfit(int level, Relation rel, const EventType *type, const char *misfit);
static bool misfit_call(void *arg);
static EventCheck *take_check(EventSchema *schema, EventType *type);
static void give_back_check(EventType *type, EventCheck *check);
static EventCheck *prepare_check(EventSchema *schema, EventType *type);
static void prepare_function(EventSchema *schema, EventType *type, EventCheck *check);
static void refuse_function(const EventSchema *schema, const EventType *type,
							int sqlstate, const char *problem);
static void run_check(EventCheck *check, EventType *type, Relation event_table,
					  Datum *values, bool *nulls);
static void call_check_function(EventCheck *check, EventType *type, Datum *values,
								bool *nulls);
static Datum event_datum(Datum *values, bool *nulls);
static bool is_misfit(int sqlstate, bool in_field);
static char *describe_misfit(const ErrorData *error, const char *field);

void
EventCheckInit(void)
{
	event_row_hook = check_new_event;
}

/* Called by the access method for each row of a typed table. */
static void
check_new_event(Relation rel, TupleTableSlot *slot)
{
	EventSchema *schema = PinEventSchema(rel);

	if (schema == NULL)
		return;
	PG_TRY();
	{
		check_by_schema(schema, rel, slot);
	}
	PG_FINALLY();
	{
		UnpinEventSchema(schema);
	}
	PG_END_TRY();
}

static void
check_by_schema(EventSchema *schema, Relation rel, TupleTableSlot *slot)
{
	EventType  *type;

	slot_getallattrs(slot);
	type = EventTypeOf(schema, DatumGetTextPP(slot->tts_values[EVENT_TYPE - 1]),
					   DatumGetInt32(slot->tts_values[EVENT_SCHEMA_VERSION - 1]));

	/* what is restored from a dump was right when it was recorded */
	if (type != NULL && type->mode != CHECK_OFF && !daybook_restore &&
		SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA &&
		LookUpEventTable(rel)->has_trigger)
		judge_event(schema, type, rel, slot);
}

static void
judge_event(EventSchema *schema, EventType *type, Relation rel, TupleTableSlot *slot)
{
	char	   *misfit;

	if (type->mode == CHECK_WARN)
	{
		warn_of_misfit(schema, type, rel, slot);
		return;
	}
	misfit = EventMisfit(schema, type, rel, slot->tts_values, slot->tts_isnull);
	if (misfit)
		report_misfit(ERROR, rel, type, misfit);
}

/* The event is stored all the same, so a failure must leave nothing behind. */
static void
warn_of_misfit(EventSchema *schema, EventType *type, Relation rel, TupleTableSlot *slot)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event misfit",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		was_running = event_row_check_running;
	char	   *misfit;

	event_row_check_running = true;
	PG_TRY();
	{
		misfit = EventMisfitUndone(schema, type, rel, slot->tts_values, slot->tts_isnull);
	}
	PG_FINALLY();
	{
		event_row_check_running = was_running;
	}
	PG_END_TRY();
	if (misfit)
		report_misfit(WARNING, rel, type, misfit);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

static void
report_misfit(int level, Relation rel, const EventType *type, const char *misfit)
{
	ereport(level,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("event of type \"%s\", schema version %d, does not fit in event table \"%s\"",
					text_to_cstring(type->type), type->schema_version,
					RelationGetRelationName(rel)),
			 errdetail("%s", misfit),
			 errhint("daybook.event_type shows how the type is registered."),
			 errtable(rel)));
}

bool
IsCheckFunction(Oid function)
{
	return FunctionReturns(function, JSONBOID, BOOLOID) ||
		FunctionReturns(function, GetDaybookOids()->event_type, BOOLOID);
}

EventType *
EventTypeOf(EventSchema *schema, const text *type, int32 version)
{
	int			i = FindEventType(schema, type, version);

	if (i < schema->type_count && schema->types[i].schema_version == version &&
		CompareTypes(schema->types[i].type, type) == 0)
		return &schema->types[i];
	return NULL;
}

char *
EventMisfit(EventSchema *schema, EventType *type, Relation event_table,
			Datum *values, bool *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	bool		was_running = event_row_check_running;
	EventCheck *check = take_check(schema, type);
	char	   *misfit = NULL;

	MemoryContextSwitchTo(check->row_context);
	PG_TRY();
	{
		run_check(check, type, event_table, values, nulls);
		MemoryContextSwitchTo(context);
		MemoryContextReset(check->row_context);
		give_back_check(type, check);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		char	   *field;

		event_row_check_running = was_running;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		field = check->payload ? PayloadCheckField(check->payload) : NULL;
		if (is_misfit(error->sqlerrcode, field != NULL))
			misfit = describe_misfit(error, field);
		/* the end of the subtransaction may still look at what was left there */
		MemoryContextSetParent(check->context, CurTransactionContext);
		if (misfit == NULL)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return misfit;
}

/*
 * The check is nobody else's while it runs, and one that fails is not given
 * back: an SQL function cannot be called again then.
 */
static EventCheck *
take_check(EventSchema *schema, EventType *type)
{
	EventCheck *check = type->check;

	type->check = NULL;
	return check ? check : prepare_check(schema, type);
}

static void
give_back_check(EventType *type, EventCheck *check)
{
	if (type->check == NULL)
		type->check = check;
	else
		MemoryContextDelete(check->context);
}

static bool
misfit_call(void *arg)
{
	MisfitCall *call = arg;

	call->misfit = EventMisfit(call->schema, call->type, call->event_table, call->values, call->nulls);
	return call->misfit == NULL;
}

char *
EventMisfitUndone(EventSchema *schema, EventType *type, Relation event_table,
				  Datum *values, bool *nulls)
{
	MisfitCall	call = {schema, type, event_table, values, nulls};
	ErrorData  *error = RunInSubtransaction(misfit_call, &call);

	if (error != NULL)
		ReThrowError(error);
	return call.misfit;
}

static EventCheck *
prepare_check(EventSchema *schema, EventType *type)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "daybook event check",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EventCheck *check = palloc0(sizeof(EventCheck));

	check->context = context;
	check->row_context = AllocSetContextCreate(context, "daybook event check of a row",
											   ALLOCSET_START_SMALL_SIZES);
	if (OidIsValid(type->payload_type))
	{
		if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type->payload_type)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("payload type of event type \"%s\", schema version %d, does not exist",
							text_to_cstring(type->type), type->schema_version),
					 errdetail("The type had OID %u.", type->payload_type),
					 errhint("Register the event type again with daybook.register_event_type().")));
		check->payload = MakePayloadCheck(type->payload_type, schema);
		if (PayloadCheckRunsUserCode(check->payload))
			check->search_path = "pg_catalog, pg_temp";
	}
	if (type->check_function)
		prepare_function(schema, type, check);
	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, schema->context);
	return check;
}

static void
prepare_function(EventSchema *schema, EventType *type, EventCheck *check)
{
	Oid			function = FunctionByText(type->check_function, schema->owner);
	Oid		   *arguments;
	int			count;

	if (!OidIsValid(function))
		refuse_function(schema, type, ERRCODE_UNDEFINED_FUNCTION, "does not exist");
	if (!IsCheckFunction(function))
		refuse_function(schema, type, ERRCODE_INVALID_FUNCTION_DEFINITION,
						"is not a function that returns boolean");
	EventSchemaDependsOn(schema, PROCOID, function);
	/* who may create objects there decides on the search path */
	EventSchemaDependsOn(schema, NAMESPACEOID, get_func_namespace(function));
	(void) get_func_signature(function, &arguments, &count);
	check->takes_event = arguments[0] == GetDaybookOids()->event_type;
	check->has_function = true;
	check->search_path = FunctionSearchPath(function, schema->owner);
	fmgr_info(function, &check->function);
}

static void
refuse_function(const EventSchema *schema, const EventType *type, int sqlstate,
				const char *problem)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("check function %s %s", type->check_function, problem),
			 errdetail("It checks events of type \"%s\", schema version %d, in event table \"%s\".",
					   text_to_cstring(type->type), type->schema_version,
					   get_rel_name(schema->relid)),
			 errhint("Create the function again, or register the event type without it.")));
}

/* As the owner of the event table, if code of users is to run. */
static void
run_check(EventCheck *check, EventType *type, Relation event_table,
		  Datum *values, bool *nulls)
{
	Jsonb	   *payload = DatumGetJsonbP(values[EVENT_DATA - 1]);
	bool		was_running = event_row_check_running;
	RunAs		caller;

	if (check->search_path)
	{
		RunAsRole(&caller, event_table->rd_rel->relowner, check->search_path);
		event_row_check_running = true;
	}
	if (check->payload)
		RunPayloadCheck(check->payload, payload);
	if (check->has_function)
		call_check_function(check, type, values, nulls);
	if (check->search_path)
	{
		event_row_check_running = was_running;
		RunAsEnd(&caller);
	}
}

/* Null is as good as true, as in a CHECK constraint. */
static void
call_check_function(EventCheck *check, EventType *type, Datum *values, bool *nulls)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;

	CheckMayRun(check->function.fn_oid, GetUserId());
	InitFunctionCallInfoData(*fcinfo, &check->function, 1, DEFAULT_COLLATION_OID, NULL, NULL);
	fcinfo->args[0].value = check->takes_event ? event_datum(values, nulls) :
		values[EVENT_DATA - 1];
	fcinfo->args[0].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (!fcinfo->isnull && !DatumGetBool(result))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("check function %s says no", type->check_function)));
}

static Datum
event_datum(Datum *values, bool *nulls)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(GetDaybookOids()->event_type, -1);
	Datum		datum = heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc);

	ReleaseTupleDesc(desc);
	return datum;
}

/*
 * Whatever a check raises, unless it may pass by itself, or would befall every
 * event.  The value of a field can be a name that stands for nothing.
 */
static bool
is_misfit(int sqlstate, bool in_field)
{
	if (ErrorIsTransient(sqlstate))
		return false;
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_INVALID_SCHEMA_NAME:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
			return in_field || sqlstate == ERRCODE_DATATYPE_MISMATCH;
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
			return false;		/* a check that appends, above all */
		default:
			return !ErrorIsForeign(sqlstate);
	}
}

static char *
describe_misfit(const ErrorData *error, const char *field)
{
	int			len = strlen(error->message);
	const char *stop = len > 0 && strchr(".!?", error->message[len - 1]) ? "" : ".";

	if (field)
		return psprintf("Field \"%s\": %s%s", field, error->message, stop);
	return psprintf("%c%s%s", pg_toupper((unsigned char) error->message[0]),
					error->message + 1, stop);
}

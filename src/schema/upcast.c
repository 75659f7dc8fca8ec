/*-------------------------------------------------------------------------
 *
 * upcast.c
 *	  Bringing events that are read up to the newest version of their type.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "schema/upcast.h"
#include "user_function.h"
#include "utils/builtins.h"

/* A step's function, looked up by the first event that takes it. */
typedef struct StepFunction
{
	FmgrInfo	info;
	char	   *search_path;
} StepFunction;

struct Upcasting
{
	EventSchema *schema;		/* pinned, until the end or that of the memory context */
	MemoryContext context;
	MemoryContextCallback at_end;
	char	   *event_table;
	Oid			owner;
	StepFunction *functions;	/* of the schema's steps */
	FunctionCallInfo fcinfo;
	RunAs		caller;
	const char *search_path;	/* that is set now, NULL: not running as the owner */

	/* of UpcastMayReach(): its calls, and the last that came by each step */
	uint64		search;
	uint64	   *searched;

	/* for the error context */
	const Datum *event;
	const bool *nulls;
	const UpcastStep *step;
};

static void unpin(void *arg);
static bool may_reach(Upcasting *upcasting, const text *type, int32 version,
					  TypeTest test, void *arg);
static int	find_step(const Upcasting *upcasting, const text *type, int32 version);
static bool same_start(const UpcastStep *a, const UpcastStep *b);
static bool call_step(Upcasting *upcasting, int i, Datum data, Datum *result);
static void prepare_step(Upcasting *upcasting, int i);
static void refuse_function(const Upcasting *upcasting, const UpcastStep *step,
							int sqlstate, const char *problem);
static void become_owner(Upcasting *upcasting, const char *search_path);
static void describe_event(void *arg);

bool
IsUpcasterFunction(Oid function)
{
	return FunctionReturns(function, JSONBOID, JSONBOID);
}

Upcasting *
UpcastingBegin(Relation event_table)
{
	EventSchema *schema = PinEventSchema(event_table);
	Upcasting  *upcasting;

	if (schema == NULL)
		return NULL;
	if (schema->step_count == 0)
	{
		UnpinEventSchema(schema);
		return NULL;
	}
	upcasting = palloc0(sizeof(Upcasting));
	upcasting->schema = schema;
	upcasting->at_end.func = unpin;
	upcasting->at_end.arg = upcasting;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &upcasting->at_end);
	upcasting->context = CurrentMemoryContext;
	upcasting->event_table = pstrdup(RelationGetRelationName(event_table));
	upcasting->owner = event_table->rd_rel->relowner;
	upcasting->functions = palloc0(schema->step_count * sizeof(StepFunction));
	upcasting->searched = palloc0(schema->step_count * sizeof(uint64));
	upcasting->fcinfo = palloc0(SizeForFunctionCallInfo(1));
	return upcasting;
}

void
UpcastingEnd(Upcasting *upcasting)
{
	UpcastRest(upcasting);
	unpin(upcasting);
}

/* Also after an error. */
static void
unpin(void *arg)
{
	Upcasting  *upcasting = arg;

	if (upcasting->schema)
		UnpinEventSchema(upcasting->schema);
	upcasting->schema = NULL;
}

bool
UpcastingIsCurrent(const Upcasting *upcasting, Oid event_table)
{
	EventSchema *schema;

	if (!EventSchemaKnown(event_table, &schema))
		return false;
	if (upcasting == NULL)
		return schema == NULL || schema->step_count == 0;
	return upcasting->schema == schema;
}

/*
 * An event below the last step of its type applies even where no step begins,
 * so that the gap is found.
 */
bool
UpcastApplies(const Upcasting *upcasting, const text *type, int32 version)
{
	const EventSchema *schema = upcasting->schema;
	int			i = FindUpcastStep(schema, type, version);

	return i < schema->step_count && CompareTypes(schema->steps[i].type, type) == 0;
}

bool
UpcastTupleApplies(const Upcasting *upcasting, HeapTuple tuple, TupleDesc desc)
{
	bool		is_null;
	Datum		type = heap_getattr(tuple, EVENT_TYPE, desc, &is_null);
	Datum		version = heap_getattr(tuple, EVENT_SCHEMA_VERSION, desc, &is_null);

	return UpcastApplies(upcasting, DatumGetTextPP(type), DatumGetInt32(version));
}

bool
UpcastMayReach(Upcasting *upcasting, const text *type, int32 version, TypeTest test, void *arg)
{
	upcasting->search++;
	return may_reach(upcasting, type, version, test, arg);
}

/* Ways can meet again: what follows is looked at by the first that gets there. */
static bool
may_reach(Upcasting *upcasting, const text *type, int32 version, TypeTest test, void *arg)
{
	const EventSchema *schema = upcasting->schema;
	int			first = find_step(upcasting, type, version);

	check_stack_depth();
	if (first < 0)
		return test(type, arg);
	if (upcasting->searched[first] == upcasting->search)
		return false;
	upcasting->searched[first] = upcasting->search;
	for (int i = first; i < schema->step_count &&
		 same_start(&schema->steps[first], &schema->steps[i]); i++)
		if (may_reach(upcasting, schema->steps[i].to_type, version + 1, test, arg))
			return true;
	return false;
}

/* First of the steps from (type, version), -1 if there is none. */
static int
find_step(const Upcasting *upcasting, const text *type, int32 version)
{
	const EventSchema *schema = upcasting->schema;
	int			i = FindUpcastStep(schema, type, version);

	if (i < schema->step_count && CompareTypes(schema->steps[i].type, type) == 0 &&
		schema->steps[i].from_version == version)
		return i;
	return -1;
}

static bool
same_start(const UpcastStep *a, const UpcastStep *b)
{
	return a->from_version == b->from_version && CompareTypes(a->type, b->type) == 0;
}

bool
Upcast(Upcasting *upcasting, Datum *values, bool *nulls)
{
	const EventSchema *schema = upcasting->schema;
	text	   *type = DatumGetTextPP(values[EVENT_TYPE - 1]);
	int32		version = DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]);
	Datum		data = values[EVENT_DATA - 1];
	ErrorContextCallback callback;
	int			first;

	callback.callback = describe_event;
	callback.arg = upcasting;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	upcasting->event = values;
	upcasting->nulls = nulls;
	upcasting->step = NULL;

	while ((first = find_step(upcasting, type, version)) >= 0)
	{
		const UpcastStep *taken = NULL;

		for (int i = first; i < schema->step_count && taken == NULL &&
			 same_start(&schema->steps[first], &schema->steps[i]); i++)
			if (call_step(upcasting, i, data, &data))
				taken = &schema->steps[i];
		if (taken == NULL)
		{
			error_context_stack = callback.previous;
			return false;
		}
		type = taken->to_type;
		version++;
	}
	upcasting->step = NULL;
	if (UpcastApplies(upcasting, type, version))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no upcaster leads on from schema version %d of event type \"%s\" in event table \"%s\"",
						version, text_to_cstring(type), upcasting->event_table),
				 errdetail("There are upcasters from later versions of the type."),
				 errhint("Fill the gap with daybook.create_upcaster().")));
	error_context_stack = callback.previous;

	values[EVENT_TYPE - 1] = PointerGetDatum(type);
	values[EVENT_SCHEMA_VERSION - 1] = Int32GetDatum(version);
	values[EVENT_DATA - 1] = data;
	return true;
}

HeapTuple
UpcastTuple(Upcasting *upcasting, HeapTuple tuple, TupleDesc desc)
{
	Datum		values[EVENT_NATTS];
	bool		nulls[EVENT_NATTS];
	HeapTuple	result;

	heap_deform_tuple(tuple, desc, values, nulls);
	if (!Upcast(upcasting, values, nulls))
		return NULL;
	result = heap_form_tuple(desc, values, nulls);
	result->t_self = tuple->t_self;
	result->t_tableOid = tuple->t_tableOid;
	return result;
}

/*
 * Below a step, or below a registered version, there is a gap; above all
 * registered versions, one that nobody has registered.
 */
char *
UpcastDeadEnd(const EventSchema *schema, const text *type, int32 version)
{
	char	   *name = text_to_cstring(type);
	int			step = FindUpcastStep(schema, type, version);
	int			newest = -1;

	for (int i = FindEventType(schema, type, 1); i < schema->type_count &&
		 CompareTypes(schema->types[i].type, type) == 0; i++)
		newest = schema->types[i].schema_version;
	if (step < schema->step_count && CompareTypes(schema->steps[step].type, type) == 0)
		return psprintf("no upcaster leads on from version %d of %s; the next begins at version %d",
						version, name, schema->steps[step].from_version);
	if (version < newest)
		return psprintf("no upcaster leads from version %d of %s to the newest registered version %d",
						version, name, newest);
	if (newest >= 0 && version > newest)
		return psprintf("version %d of %s is newer than the newest registered version %d",
						version, name, newest);
	return NULL;
}

/* False if the function returns null. */
static bool
call_step(Upcasting *upcasting, int i, Datum data, Datum *result)
{
	StepFunction *function = &upcasting->functions[i];
	FunctionCallInfo fcinfo = upcasting->fcinfo;
	Datum		value;

	upcasting->step = &upcasting->schema->steps[i];
	if (function->search_path == NULL)
		prepare_step(upcasting, i);
	become_owner(upcasting, function->search_path);
	InitFunctionCallInfoData(*fcinfo, &function->info, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = data;
	fcinfo->args[0].isnull = false;
	value = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		return false;
	*result = value;
	return true;
}

static void
prepare_step(Upcasting *upcasting, int i)
{
	const UpcastStep *step = &upcasting->schema->steps[i];
	Oid			function = FunctionByText(step->function, upcasting->owner);
	MemoryContext caller;

	if (!OidIsValid(function))
		refuse_function(upcasting, step, ERRCODE_UNDEFINED_FUNCTION, "does not exist");
	if (!IsUpcasterFunction(function))
		refuse_function(upcasting, step, ERRCODE_INVALID_FUNCTION_DEFINITION,
						"is not a function that returns jsonb");
	CheckMayRun(function, upcasting->owner);
	caller = MemoryContextSwitchTo(upcasting->context);
	fmgr_info(function, &upcasting->functions[i].info);
	upcasting->functions[i].search_path = FunctionSearchPath(function, upcasting->owner);
	MemoryContextSwitchTo(caller);
}

static void
refuse_function(const Upcasting *upcasting, const UpcastStep *step, int sqlstate,
				const char *problem)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("upcaster function %s %s", step->function, problem),
			 errdetail("It brings event type \"%s\" of event table \"%s\" from schema version %d to %d.",
					   text_to_cstring(step->type), upcasting->event_table,
					   step->from_version, step->from_version + 1),
			 errhint("Create the function again, or use daybook.drop_upcaster().")));
}

/* Setting the search path costs more than most functions: not for each event. */
static void
become_owner(Upcasting *upcasting, const char *search_path)
{
	if (upcasting->search_path != NULL)
	{
		if (strcmp(upcasting->search_path, search_path) == 0)
			return;
		UpcastRest(upcasting);
	}
	RunAsRole(&upcasting->caller, upcasting->owner, search_path);
	upcasting->search_path = search_path;
}

void
UpcastRest(Upcasting *upcasting)
{
	if (upcasting->search_path == NULL)
		return;
	RunAsEnd(&upcasting->caller);
	upcasting->search_path = NULL;
}

void
UpcastAborted(Upcasting *upcasting)
{
	upcasting->search_path = NULL;
}

/* An event that a caller of daybook.upcast() made up may have no place. */
static void
describe_event(void *arg)
{
	Upcasting  *upcasting = arg;
	const Datum *event = upcasting->event;

	if (upcasting->search_path)
		HintAtSearchPath("An upcaster", upcasting->search_path);
	if (upcasting->step)
		errcontext("upcaster %s of event type \"%s\", schema version %d",
				   upcasting->step->function, text_to_cstring(upcasting->step->type),
				   upcasting->step->from_version);
	if (upcasting->nulls[EVENT_STREAM_ID - 1] || upcasting->nulls[EVENT_VERSION - 1])
		errcontext("event table \"%s\"", upcasting->event_table);
	else
		errcontext("event table \"%s\", stream \"%s\", version " INT64_FORMAT,
				   upcasting->event_table,
				   TextDatumGetCString(event[EVENT_STREAM_ID - 1]),
				   DatumGetInt64(event[EVENT_VERSION - 1]));
}

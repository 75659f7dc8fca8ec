/*-------------------------------------------------------------------------
 *
 * fold_run.c
 *	  Computing the state of a fold, event by event.
 *
 * All that does not depend on the event is done once: a prepared fold is kept
 * by the session until the catalogs change.  A transition in SQL becomes an
 * expression over the state and the columns of the event, where the planner
 * can inline it; any other function is called with the event as a row.
 *
 * The state lives in one of two memory contexts.  An event is taken in the
 * other one, which then holds the next state: nothing is copied, and what the
 * transition leaves behind is gone with the event after the next.  A state of
 * a type with an expanded form, such as an array, is handed on in that form.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "fold/fold.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/expandedrecord.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

struct FoldRun
{
	MemoryContext context;
	uint64		generation;		/* of the catalogs that it was made with */
	FoldDefinition *definition;
	Oid			transition;
	bool		strict;
	StateType	type;
	char	   *search_path;
	Datum		initial;
	bool		initial_null;
	bool		has_fingerprint;
	bool		looks_at_settings;
	uint8		fingerprint[FINGERPRINT_LENGTH];	/* apart from settings */

	/* the transition, in one of two forms */
	ExprState  *expression;		/* NULL: the function is called */
	bool		shows_state;	/* the expression names the state more than once */
	ExprContext *econtext;
	TupleTableSlot *state_slot;
	FmgrInfo	function;
	FunctionCallInfo fcinfo;
	bool		takes_record;	/* the function takes over an expanded record */

	/* the state */
	MemoryContext contexts[2];
	int			current;		/* which of them the state is in, if in any */
	Datum		state;
	bool		state_null;

	/* between FoldEnter() and FoldLeave() */
	RunAs		caller;
	ErrorContextCallback callback;
	TupleDesc	event_desc;		/* of daybook.event */
	TupleTableSlot *event;		/* being taken, for the error context */
};

typedef struct CacheEntry
{
	char		name[NAMEDATALEN];	/* hash key */
	FoldRun    *run;			/* NULL: none, or in use */
	Oid			event_table;
	List	   *state_relations;	/* Oid, of the composite types in the state's type */
} CacheEntry;

static HTAB *cache = NULL;

/* Counts changes of the catalogs that may matter to any prepared fold. */
static uint64 generation = 1;
static Oid	definitions = InvalidOid;

static void prepare_transition(FoldRun *run);
static void read_initial(FoldRun *run);
static void describe_initial(void *arg);
static bool inline_transition(FoldRun *run, FuncExpr *call);
static bool names_state_again(Expr *expression);
static FuncExpr *make_call(FoldRun *run);
static Oid	get_func_lang(Oid function);
static FoldRun *make_entered(const char *name);
static void watch_relations(CacheEntry *entry, Oid state_type);
static List *relations_of_type(Oid type, List *relations);
static void make_cache(void);
static void forget_relation(Datum arg, Oid relid);
static void forget_object(Datum arg, int cache_id, uint32 hash);
static Datum call_transition(FoldRun *run, TupleTableSlot *event, bool *is_null);
static Datum event_datum(FoldRun *run, TupleTableSlot *event);
static Datum evaluate_transition(FoldRun *run, TupleTableSlot *event,
								 MemoryContext scratch, bool *is_null);
static void keep_state(FoldRun *run, Datum state, TupleTableSlot *event);
static bool points_into(const char *pointer, const char *start, Size size);
static void describe_event(void *arg);

FoldRun *
FoldRunMake(const FoldDefinition *definition, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "daybook fold",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	FoldRun    *run = palloc0(sizeof(FoldRun));
	RunAs		saved;

	run->context = context;
	run->definition = palloc(sizeof(FoldDefinition));
	*run->definition = *definition;
	run->definition->name = pstrdup(definition->name);
	run->definition->transition = pstrdup(definition->transition);
	if (definition->initial)
		run->definition->initial = pstrdup(definition->initial);
	run->contexts[0] = AllocSetContextCreate(context, "fold state", ALLOCSET_DEFAULT_SIZES);
	run->contexts[1] = AllocSetContextCreate(context, "fold state", ALLOCSET_DEFAULT_SIZES);

	run->transition = FunctionByText(definition->transition, definition->owner);
	if (!OidIsValid(run->transition))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("transition function %s of fold \"%s\" does not exist",
						definition->transition, definition->name),
				 errhint("Create the function again, or use daybook.drop_fold().")));
	if (!IsTransition(run->transition))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is no transition of fold \"%s\" any more",
						definition->transition, definition->name),
				 errdetail("A transition takes the state and a daybook.event, and returns a state of the same type."),
				 errhint("Create the function again, or use daybook.drop_fold().")));
	run->search_path = FunctionSearchPath(run->transition, definition->owner);
	run->strict = func_strict(run->transition);
	run->type.oid = get_func_rettype(run->transition);
	get_typlenbyvalalign(run->type.oid, &run->type.len, &run->type.by_value, &run->type.align);

	RunAsRole(&saved, definition->owner, run->search_path);
	CheckMayRun(run->transition, definition->owner);
	read_initial(run);
	prepare_transition(run);
	RunAsEnd(&saved);
	MemoryContextSwitchTo(caller);
	return run;
}

static void
read_initial(FoldRun *run)
{
	Oid			input;
	Oid			param;
	int			level = BeginPortableText();
	ErrorContextCallback callback;

	callback.callback = describe_initial;
	callback.arg = run->definition;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	getTypeInputInfo(run->type.oid, &input, &param);
	run->initial_null = run->definition->initial == NULL;
	run->initial = OidInputFunctionCall(input, run->definition->initial, param, -1);
	error_context_stack = callback.previous;
	AtEOXact_GUC(false, level);
	if (run->strict && run->initial_null)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("fold \"%s\" has a strict transition and a null initial state",
						run->definition->name),
				 errdetail("A strict function is never called with null, so the state would stay null for ever."),
				 errhint("Give an initial state, or make the function CALLED ON NULL INPUT.")));
}

/* It was read when the fold was created, so that its type must have changed. */
static void
describe_initial(void *arg)
{
	FoldDefinition *definition = arg;

	errcontext("initial state %s of fold \"%s\"",
			   definition->initial ? quote_literal_cstr(definition->initial) : "NULL", definition->name);
	errhint("If the state's type has changed since, use daybook.drop_fold() and create the fold anew.");
}

static void
prepare_transition(FoldRun *run)
{
	FuncExpr   *call = make_call(run);

	if (inline_transition(run, call))
		return;
	fmgr_info_cxt(run->transition, &run->function, run->context);
	fmgr_info_set_expr((Node *) call, &run->function);
	run->fcinfo = palloc0(SizeForFunctionCallInfo(2));
	run->takes_record = run->type.oid != GetDaybookOids()->event_type &&
		strcmp(get_language_name(get_func_lang(run->transition), false), "plpgsql") == 0;
	InitFunctionCallInfoData(*run->fcinfo, &run->function, 2, call->inputcollid, NULL, NULL);
}

static Oid
get_func_lang(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			language;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	return language;
}

/*
 * The transition as an expression over two tuples: the inner one has the
 * state, the outer one is the event.
 */
static FuncExpr *
make_call(FoldRun *run)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(GetDaybookOids()->event_type, -1);
	Oid			collation = get_typcollation(run->type.oid);
	RowExpr    *event = makeNode(RowExpr);
	Var		   *state = makeVar(INNER_VAR, 1, run->type.oid, -1, collation, 0);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		event->args = lappend(event->args,
							  makeVar(OUTER_VAR, i + 1, column->atttypid, column->atttypmod,
									  column->attcollation, 0));
	}
	event->row_typeid = desc->tdtypeid;
	event->row_format = COERCE_IMPLICIT_CAST;
	event->location = -1;
	ReleaseTupleDesc(desc);
	return makeFuncExpr(run->transition, run->type.oid, list_make2(state, event),
						collation, collation, COERCE_EXPLICIT_CALL);
}

/* False if the planner cannot put the function's body in place of the call. */
static bool
inline_transition(FoldRun *run, FuncExpr *call)
{
	Expr	   *expression = expression_planner((Expr *) copyObject(call));
	TupleDesc	desc;

	if (IsA(expression, FuncExpr) && ((FuncExpr *) expression)->funcid == run->transition)
		return false;
	desc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(desc, 1, "state", run->type.oid, -1, 0);
	run->state_slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(run->state_slot);
	run->econtext = makeNode(ExprContext);
	run->econtext->ecxt_per_query_memory = run->context;
	run->econtext->ecxt_innertuple = run->state_slot;
	run->expression = ExecInitExpr(expression, NULL);
	run->shows_state = names_state_again(expression);
	return true;
}

static bool
names_state_again(Expr *expression)
{
	int			count = 0;
	ListCell   *lc;

	foreach(lc, pull_var_clause((Node *) expression, 0))
		count += lfirst_node(Var, lc)->varno == INNER_VAR;
	return count > 1;
}

/*
 * Keeping prepared folds
 */

/*
 * The fold, ready and nobody else's until it is released.  Meanwhile it is in
 * the caller's memory context, so that an error takes it away.
 */
FoldRun *
FoldRunAcquire(const char *name)
{
	CacheEntry *entry;
	FoldRun    *run;
	uint64		before;

	if (cache == NULL)
		make_cache();
	entry = strlen(name) < NAMEDATALEN ? hash_search(cache, name, HASH_FIND, NULL) : NULL;
	if (entry && entry->run)
	{
		run = entry->run;
		entry->run = NULL;
		if (run->generation == generation)
		{
			MemoryContextSetParent(run->context, CurrentMemoryContext);
			return run;
		}
		MemoryContextDelete(run->context);
	}
	do
	{
		before = generation;
		run = make_entered(name);
		run->generation = before;
	} while (before != generation);
	return run;
}

/* Entered at once, so that a change is noticed from now on. */
static FoldRun *
make_entered(const char *name)
{
	FoldDefinition *definition = RequireFoldDefinition(name);
	CacheEntry *entry;
	FoldRun    *run;
	bool		found;

	entry = hash_search(cache, name, HASH_ENTER, &found);
	if (!found)
	{
		entry->run = NULL;
		entry->state_relations = NIL;
	}
	entry->event_table = definition->event_table;
	run = FoldRunMake(definition, CurrentMemoryContext);
	watch_relations(entry, run->type.oid);
	return run;
}

/* Called before the fingerprint is computed, which looks at the same types. */
static void
watch_relations(CacheEntry *entry, Oid state_type)
{
	List	   *relations = relations_of_type(state_type, NIL);
	List	   *before = entry->state_relations;
	MemoryContext caller = MemoryContextSwitchTo(CacheMemoryContext);

	entry->state_relations = list_copy(relations);
	MemoryContextSwitchTo(caller);
	list_free(before);
}

static List *
relations_of_type(Oid type, List *relations)
{
	Oid			base = getBaseType(type);
	Oid			element = StateElementType(base);
	TupleDesc	desc;

	check_stack_depth();
	if (OidIsValid(element))
		return relations_of_type(element, relations);
	if (get_typtype(base) != TYPTYPE_COMPOSITE)
		return relations;
	relations = lappend_oid(relations, get_typ_typrelid(base));
	desc = lookup_rowtype_tupdesc_copy(base, -1);
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			relations = relations_of_type(TupleDescAttr(desc, i)->atttypid, relations);
	return relations;
}

Oid
StateElementType(Oid type)
{
	Oid			element = get_element_type(type);

	if (!OidIsValid(element))
		element = get_range_subtype(type);
	if (!OidIsValid(element))
		element = get_multirange_range(type);
	return element;
}

void
FoldRunRelease(FoldRun *run)
{
	CacheEntry *entry = hash_search(cache, run->definition->name, HASH_FIND, NULL);

	if (entry->run != NULL || run->generation != generation)
	{
		MemoryContextDelete(run->context);
		return;
	}
	MemoryContextReset(run->contexts[0]);
	MemoryContextReset(run->contexts[1]);
	MemoryContextSetParent(run->context, CacheMemoryContext);
	entry->run = run;
}

static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = NAMEDATALEN;
	ctl.entrysize = sizeof(CacheEntry);
	ctl.hcxt = CacheMemoryContext;
	cache = hash_create("daybook folds", 16, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	definitions = DaybookRelation("fold_definition");
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_object, (Datum) 0);
}

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;
	bool		matters = !OidIsValid(relid) || relid == definitions;

	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		matters |= entry->event_table == relid || list_member_oid(entry->state_relations, relid);
	if (matters)
		generation++;
}

static void
forget_object(Datum arg, int cache_id, uint32 hash)
{
	generation++;
}

const FoldDefinition *
FoldRunDefinition(const FoldRun *run)
{
	return run->definition;
}

const StateType *
FoldRunStateType(const FoldRun *run)
{
	return &run->type;
}

Oid
FoldRunTransition(const FoldRun *run)
{
	return run->transition;
}

/* Computed when it is first needed; settings are looked at each time. */
void
FoldRunFingerprint(FoldRun *run, Relation event_table, uint8 *result)
{
	if (!run->has_fingerprint)
	{
		FoldFingerprint(run, event_table, run->search_path, run->fingerprint,
						&run->looks_at_settings);
		run->has_fingerprint = true;
	}
	if (run->looks_at_settings)
		FoldFingerprintWithSettings(run->fingerprint, result);
	else
		memcpy(result, run->fingerprint, FINGERPRINT_LENGTH);
}

bool
FoldRunIsCurrent(const FoldRun *run)
{
	AcceptInvalidationMessages();
	return run->generation == generation;
}

bool
FoldRunIsUnchanged(FoldRun *run, Relation event_table)
{
	uint8		before[FINGERPRINT_LENGTH];
	uint8		now[FINGERPRINT_LENGTH];
	FoldRun    *fresh;

	if (FoldRunIsCurrent(run))
		return true;
	FoldRunFingerprint(run, event_table, before);
	fresh = FoldRunMake(RequireFoldDefinition(run->definition->name), CurrentMemoryContext);
	FoldRunFingerprint(fresh, event_table, now);
	MemoryContextDelete(fresh->context);
	return memcmp(now, before, FINGERPRINT_LENGTH) == 0;
}

/*
 * Taking events
 */

void
FoldEnter(FoldRun *run)
{
	run->event = NULL;
	run->callback.callback = describe_event;
	run->callback.arg = run;
	run->callback.previous = error_context_stack;
	error_context_stack = &run->callback;
	run->event_desc = lookup_rowtype_tupdesc(GetDaybookOids()->event_type, -1);
	RunAsRole(&run->caller, run->definition->owner, run->search_path);
	CheckMayRun(run->transition, run->definition->owner);
}

void
FoldLeave(FoldRun *run)
{
	RunAsEnd(&run->caller);
	ReleaseTupleDesc(run->event_desc);
	error_context_stack = run->callback.previous;
}

void
FoldBegin(FoldRun *run)
{
	FoldBeginWith(run, run->initial, run->initial_null);
}

void
FoldBeginWith(FoldRun *run, Datum state, bool is_null)
{
	run->state = state;
	run->state_null = is_null;
}

Datum
FoldState(const FoldRun *run, bool *is_null)
{
	*is_null = run->state_null;
	return run->state;
}

/* A strict transition leaves a null state as it is, as an aggregate's does. */
void
FoldEvent(FoldRun *run, TupleTableSlot *event)
{
	MemoryContext scratch = run->contexts[1 - run->current];
	MemoryContext caller;
	Datum		state;
	bool		is_null;

	if (run->strict && run->state_null)
		return;
	MemoryContextReset(scratch);
	caller = MemoryContextSwitchTo(scratch);
	run->event = event;
	if (run->expression)
		state = evaluate_transition(run, event, scratch, &is_null);
	else
		state = call_transition(run, event, &is_null);
	run->event = NULL;

	if (is_null || run->type.by_value)
		run->state = state;
	else
		keep_state(run, state, event);
	run->state_null = is_null;
	MemoryContextSwitchTo(caller);
}

static Datum
call_transition(FoldRun *run, TupleTableSlot *event, bool *is_null)
{
	FunctionCallInfo fcinfo = run->fcinfo;
	Datum		result;

	fcinfo->args[0].value = run->state;
	fcinfo->args[0].isnull = run->state_null;
	fcinfo->args[1].value = event_datum(run, event);
	fcinfo->args[1].isnull = false;
	fcinfo->isnull = false;
	result = FunctionCallInvoke(fcinfo);
	*is_null = fcinfo->isnull;
	return result;
}

/* The event as a value of type daybook.event. */
static Datum
event_datum(FoldRun *run, TupleTableSlot *event)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(event, false, &should_free);
	ExpandedRecordHeader *record;

	if (!run->takes_record)
		return heap_copy_tuple_as_datum(tuple, run->event_desc);
	record = make_expanded_record_from_tupdesc(run->event_desc, CurrentMemoryContext);
	expanded_record_set_tuple(record, tuple, false, false);
	return ExpandedRecordGetDatum(record);
}

/*
 * A function may change an expanded state that is given to it in place, as
 * array_append() does; not where the state is looked at elsewhere, too.
 */
static Datum
evaluate_transition(FoldRun *run, TupleTableSlot *event, MemoryContext scratch,
					bool *is_null)
{
	run->state_slot->tts_values[0] = !run->shows_state ? run->state :
		MakeExpandedObjectReadOnly(run->state, run->state_null, run->type.len);
	run->state_slot->tts_isnull[0] = run->state_null;
	run->econtext->ecxt_outertuple = event;
	run->econtext->ecxt_per_tuple_memory = scratch;
	return ExecEvalExpr(run->expression, run->econtext, is_null);
}

/*
 * Sees to it that the new state outlives the event.  As a rule it was made in
 * the scratch context, which becomes the one of the state.
 */
static void
keep_state(FoldRun *run, Datum state, TupleTableSlot *event)
{
	char	   *pointer = DatumGetPointer(state);
	bool		is_varlena = run->type.len == -1;
	MemoryContext scratch = CurrentMemoryContext;
	bool		in_scratch = true;

	if (is_varlena && VARATT_IS_EXTERNAL_EXPANDED(pointer))
	{
		MemoryContext owner = MemoryContextGetParent(DatumGetEOHP(state)->eoh_context);

		if (owner == run->contexts[run->current])
			in_scratch = false;
		else if (owner != scratch)
			state = datumCopy(state, false, run->type.len);
	}
	else if (!run->state_null && pointer == DatumGetPointer(run->state))
		in_scratch = false;		/* unchanged */
	else if (is_varlena && VARATT_IS_EXTERNAL(pointer))
		state = PointerGetDatum(detoast_external_attr((struct varlena *) pointer));
	else
	{
		HeapTuple	tuple = ExecFetchSlotHeapTuple(event, false, NULL);
		bool		in_old_state = false;

		if (!run->state_null && !(is_varlena && VARATT_IS_EXTERNAL(DatumGetPointer(run->state))))
			in_old_state = points_into(pointer, DatumGetPointer(run->state),
									   datumGetSize(run->state, false, run->type.len));
		if (in_old_state || points_into(pointer, (char *) tuple->t_data, tuple->t_len))
			state = datumCopy(state, false, run->type.len);
	}
	if (in_scratch)
		run->current = 1 - run->current;
	run->state = state;
}

static bool
points_into(const char *pointer, const char *start, Size size)
{
	return pointer >= start && pointer < start + size;
}

/* Where an error was raised, and why names may not have been found. */
static void
describe_event(void *arg)
{
	FoldRun    *run = arg;
	TupleTableSlot *event = run->event;

	if (event)
	{
		slot_getsomeattrs(event, EVENT_TYPE);
		errcontext("fold \"%s\", stream \"%s\", version " INT64_FORMAT ", event type \"%s\"",
				   run->definition->name,
				   TextDatumGetCString(event->tts_values[EVENT_STREAM_ID - 1]),
				   DatumGetInt64(event->tts_values[EVENT_VERSION - 1]),
				   TextDatumGetCString(event->tts_values[EVENT_TYPE - 1]));
	}
	else
		errcontext("fold \"%s\"", run->definition->name);
	HintAtSearchPath("A transition", run->search_path);
}

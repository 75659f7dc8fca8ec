/*-------------------------------------------------------------------------
 *
 * handler.c
 *	  Handlers of projections: making them ready, and running them over a
 *	  batch of events as the projection's owner.
 *
 * A prepared handler is kept for the session, by the projection's name, until
 * the projection's definition changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "projection/handler_stream.h"
#include "projection/projection.h"
#include "replay/event_reader.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/queryenvironment.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/*
 * What the planner is told of the size of every batch.  The true size of the
 * first would stay in the plan, and a plan for a large batch is ruinous for
 * the small ones that follow.
 */
#define NEW_EVENTS_ROWS		100

typedef struct HandlerCacheEntry
{
	char		name[NAMEDATALEN];
	Handler    *handler;
} HandlerCacheEntry;

typedef void (*HandlerWork) (Handler *handler, EventBatch *batch);

/* Handlers may bring about that others run. */
typedef struct RunningHandler
{
	const Projection *projection;
	struct RunningHandler *outer;
} RunningHandler;

static HTAB *handler_cache = NULL;
static RunningHandler *running_handler = NULL;

/* Replaced in this transaction, further out in which somebody may still use them. */
static List *retired_handlers = NIL;

static HandlerCacheEntry *cache_entry(const char *name);
static void retire(Handler *handler);
static void free_retired(XactEvent event, void *arg);
static Projection *projection_copy(const Projection *projection);
static void check_owner_exists(const Projection *projection);
static void check_sql(const Projection *projection);
static void check_statements(SPIPlanPtr plan);
static void check_permissions(SPIPlanPtr plan, QueryEnvironment *environment);
static bool resolve_function(const Projection *projection, FmgrInfo *function);
static void hint_at_functions(void *handler);
static SPIPlanPtr prepare_sql(const Projection *projection);
static SPIPlanPtr keep_plan(SPIPlanPtr plan);
static void make_plan(Handler *handler);
static void forget_old_plan(Handler *handler);
static EphemeralNamedRelation new_events_relation(EventBatch *batch, double rows);
static void register_new_events(EventBatch *batch, double rows);
static void run_as_owner(Handler *handler, EventBatch *batch, HandlerWork work);
static void prepare_stream(Handler *handler, EventBatch *batch);
static void run_sql(Handler *handler, EventBatch *batch);
static double expected_rows(const Handler *handler);
static void wait_for_writers(const Projection *projection);
static void run_function(Handler *handler, EventBatch *batch);
static EventPlace event_place(TupleTableSlot *slot);
static Datum event_datum(TupleTableSlot *slot, TupleDesc event_desc);
static void handler_error_context(void *arg);

/* The handler of a projection as it stands, NULL if there is no projection. */
Handler *
HandlerGet(const char *name)
{
	HandlerCacheEntry *entry = cache_entry(name);
	Handler    *known = entry->handler;
	Projection *projection;

	projection = ProjectionLoadIfNewer(name, known ? known->projection : NULL);
	if (known != NULL && projection == known->projection)
		return known;

	entry->handler = NULL;
	if (known != NULL)
		retire(known);
	if (projection != NULL)
		entry->handler = HandlerMake(projection);
	return entry->handler;
}

/* Reports what is wrong with the handler of a projection that is to be made. */
void
HandlerCheck(const Projection *projection)
{
	const HandlerTrust *outer_trust;
	OwnerContext owner;
	FmgrInfo	function;
	ErrorContextCallback callback;

	callback.callback = hint_at_functions;
	callback.arg = projection->handler;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	OwnerContextEnter(&owner, projection);
	outer_trust = Trust(&owner.trust);
	PG_TRY();
	{
		TrustNoOldPlans();
		if (projection->has_function)
			(void) resolve_function(projection, &function);
		else
			check_sql(projection);
	}
	PG_FINALLY();
	{
		(void) Trust(outer_trust);
	}
	PG_END_TRY();
	OwnerContextLeave(&owner);

	error_context_stack = callback.previous;
}

/* A function in a bare literal, as other calls take it, is SQL here: of a single word. */
static void
hint_at_functions(void *handler)
{
	if (geterrcode() == ERRCODE_SYNTAX_ERROR && strpbrk(handler, " \t\r\n") == NULL)
		errhint("To give a function, cast it, as in 'apply(daybook.event)'::regprocedure.");
}

/* Hands a batch to the handler, as the projection's owner. */
void
HandlerRun(Handler *handler, EventBatch *batch)
{
	run_as_owner(handler, batch, handler->projection->has_function ? run_function : run_sql);
}

/*
 * Whether the handler can take a stream of events instead of a batch, of which
 * this is an empty one.
 */
bool
HandlerStreams(Handler *handler, EventBatch *batch)
{
	if (handler->projection->has_function)
		return false;
	if (!handler->stream_known)
		run_as_owner(handler, batch, prepare_stream);
	return handler->stream_plan != NULL;
}

static void
run_as_owner(Handler *handler, EventBatch *batch, HandlerWork work)
{
	const RowRelation *stream = batch->stream ? &batch->stream->relation : NULL;
	const RowRelation *outer_stream;
	Redirection redirection = {handler->projection->live_tables, handler->projection->tables};
	RunningHandler running = {handler->projection, running_handler};
	Redirection outer_redirection;
	const HandlerTrust *outer_trust;
	ErrorContextCallback callback;
	OwnerContext owner;

	callback.callback = handler_error_context;
	callback.arg = handler->projection->name;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	OwnerContextEnter(&owner, handler->projection);
	handler->running++;
	running_handler = &running;
	outer_redirection = Redirect(redirection);
	outer_stream = StreamRelation(stream);
	outer_trust = Trust(&owner.trust);
	PG_TRY();
	{
		TrustNoOldPlans();
		work(handler, batch);
	}
	PG_FINALLY();
	{
		running_handler = running.outer;
		handler->running--;
		(void) Redirect(outer_redirection);
		(void) StreamRelation(outer_stream);
		(void) Trust(outer_trust);
	}
	PG_END_TRY();
	OwnerContextLeave(&owner);
	TrustNoOldPlans();

	error_context_stack = callback.previous;
}

/* Is a handler of the projection at work in this process, or that of its rebuild? */
bool
HandlerIsRunning(const char *name)
{
	for (RunningHandler *running = running_handler; running != NULL; running = running->outer)
	{
		const Projection *projection = running->projection;

		if (strcmp(projection->name, name) == 0 ||
			(projection->rebuild_of != NULL && strcmp(projection->rebuild_of, name) == 0))
			return true;
	}
	return false;
}

/* Makes an empty batch in the current memory context. */
void
EventBatchInit(EventBatch *batch)
{
	memset(batch, 0, sizeof(EventBatch));
	batch->desc = lookup_rowtype_tupdesc_copy(DaybookTypeOid("log_event"), -1);
	batch->event_desc = lookup_rowtype_tupdesc_copy(DaybookTypeOid("event"), -1);
	/* "false" still lets the executor rewind, which is all it needs */
	batch->events = tuplestore_begin_heap(false, false, work_mem);
}

void
EventBatchEnd(EventBatch *batch)
{
	tuplestore_end(batch->events);
	FreeTupleDesc(batch->desc);
	FreeTupleDesc(batch->event_desc);
}

/* Adds an event that was read from the log. */
void
EventBatchAdd(EventBatch *batch, const LogEvent *event)
{
	Datum		values[LOG_EVENT_NATTS];
	bool		nulls[LOG_EVENT_NATTS];

	LogEventValues(event, batch->event_desc, values, nulls);
	tuplestore_putvalues(batch->events, batch->desc, values, nulls);
	batch->last_position = event->entry.position;
	batch->bytes += event->tuple->t_len;
	if (batch->count++ == 0)
	{
		batch->first.position = event->entry.position;
		batch->first.event_table = event->event_table;
		batch->first.event_id = event->entry.id;
	}
}

/*
 * Becomes the owner, with no way back to the caller's rights, and looks names
 * up where the projection's tables and its sources are, as far as that is safe.
 */
void
OwnerContextEnter(OwnerContext *saved, const Projection *projection)
{
	check_owner_exists(projection);
	GetUserIdAndSecContext(&saved->save_userid, &saved->save_sec_context);
	saved->guc_level = NewGUCNestLevel();
	TrustFor(&saved->trust, projection);
	(void) set_config_option("search_path", TrustedSearchPath(&saved->trust, projection),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(projection->owner,
						   saved->save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
}

/* Becomes the superuser, for work on the extension's own objects. */
void
SuperuserContextEnter(OwnerContext *saved)
{
	GetUserIdAndSecContext(&saved->save_userid, &saved->save_sec_context);
	saved->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   saved->save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
}

/* After an error the transaction's end does the same. */
void
OwnerContextLeave(const OwnerContext *saved)
{
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->save_userid, saved->save_sec_context);
}

static HandlerCacheEntry *
cache_entry(const char *name)
{
	HandlerCacheEntry *entry;
	bool		found;

	if (handler_cache == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(HandlerCacheEntry);
		handler_cache = hash_create("daybook projection handlers", 16, &ctl,
									HASH_ELEM | HASH_STRINGS);
	}
	entry = hash_search(handler_cache, name, HASH_ENTER, &found);
	if (!found)
		entry->handler = NULL;
	return entry;
}

/* A handler that is not kept for the session. */
Handler *
HandlerMake(const Projection *projection)
{
	MemoryContext context = AllocSetContextCreate(CacheMemoryContext,
												  "daybook projection handler",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext save = MemoryContextSwitchTo(context);
	Handler    *handler = palloc0(sizeof(Handler));

	handler->context = context;
	handler->projection = projection_copy(projection);
	MemoryContextSwitchTo(save);
	return handler;
}

/*
 * A handler that runs, or an upcaster that is to bring it its events, may
 * change the projection and then bring about that it is met again further in.
 */
static void
retire(Handler *handler)
{
	static bool registered = false;
	MemoryContext save = MemoryContextSwitchTo(TopMemoryContext);

	if (!registered)
		RegisterXactCallback(free_retired, NULL);
	registered = true;
	retired_handlers = lappend(retired_handlers, handler);
	MemoryContextSwitchTo(save);
}

static void
free_retired(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	foreach(lc, retired_handlers)
		HandlerFree(lfirst(lc));
	list_free(retired_handlers);
	retired_handlers = NIL;
}

void
HandlerFree(Handler *handler)
{
	if (handler->plan != NULL)
		SPI_freeplan(handler->plan);
	if (handler->stream_plan != NULL)
		SPI_freeplan(handler->stream_plan);
	MemoryContextDelete(handler->context);
}

static Projection *
projection_copy(const Projection *projection)
{
	Projection *copy = palloc(sizeof(Projection));

	memcpy(copy, projection, sizeof(Projection));
	copy->name = pstrdup(projection->name);
	copy->handler = pstrdup(projection->handler);
	copy->on_error = pstrdup(projection->on_error);
	copy->sources = DatumGetArrayTypePCopy(PointerGetDatum(projection->sources));
	copy->tables = DatumGetArrayTypePCopy(PointerGetDatum(projection->tables));
	if (projection->rebuild_of != NULL)
		copy->rebuild_of = pstrdup(projection->rebuild_of);
	if (projection->live_tables != NULL)
		copy->live_tables = DatumGetArrayTypePCopy(PointerGetDatum(projection->live_tables));
	if (projection->types != NULL)
		copy->types = DatumGetArrayTypePCopy(PointerGetDatum(projection->types));
	if (projection->categories != NULL)
		copy->categories = DatumGetArrayTypePCopy(PointerGetDatum(projection->categories));
	return copy;
}

/*
 * Finds the handler function and checks that the current user may call it so,
 * each time: the name may be another function's by now.  True if it takes a
 * daybook.log_event, false for a daybook.event.
 */
static bool
resolve_function(const Projection *projection, FmgrInfo *function)
{
	const char *signature = projection->handler;
	Oid			log_event = DaybookTypeOid("log_event");
	Oid			event = DaybookTypeOid("event");
	Oid			oid;
	Oid			argument;
	HeapTuple	tuple;
	Form_pg_proc proc;

	oid = DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(signature)));
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler function %s does not exist", signature)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	argument = proc->pronargs == 1 ? proc->proargtypes.values[0] : InvalidOid;
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset ||
		(argument != log_event && argument != event))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s cannot be the handler of a projection", signature),
				 errdetail("A handler takes one argument of type daybook.log_event or daybook.event and does not return a set.")));
	ReleaseSysCache(tuple);

	RefuseTemporaryFunction(oid);
	CheckMayRun(oid, GetUserId());
	TrustCheckFunction(oid);
	fmgr_info(oid, function);
	return argument == log_event;
}

static void
check_owner_exists(const Projection *projection)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(projection->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner of projection \"%s\" does not exist", projection->name),
				 errdetail("The role had OID %u.", projection->owner),
				 errhint("Drop the projection and create it as another role.")));
}

/* Parses the handler's text; new_events is registered with SPI. */
static SPIPlanPtr
prepare_sql(const Projection *projection)
{
	SPIPlanPtr	plan = SPI_prepare(projection->handler, 0, NULL);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/* Parses and plans the text over an empty batch, so that mistakes show now. */
static void
check_sql(const Projection *projection)
{
	EventBatch	batch;
	SPIPlanPtr	plan;
	QueryEnvironment *environment = create_queryEnv();

	EventBatchInit(&batch);
	register_ENR(environment, new_events_relation(&batch, NEW_EVENTS_ROWS));
	SPI_connect();
	register_new_events(&batch, NEW_EVENTS_ROWS);
	plan = prepare_sql(projection);
	check_statements(plan);
	check_permissions(plan, environment);
	SPI_finish();
	EventBatchEnd(&batch);
}

/*
 * A batch is one transaction, and a worker has no client to copy from or to.
 * A cursor would not see new_events.
 */
static void
check_statements(SPIPlanPtr plan)
{
	ListCell   *lc;

	if (SPI_plan_get_plan_sources(plan) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("handler of a projection has no statement")));
	foreach(lc, SPI_plan_get_plan_sources(plan))
	{
		CachedPlanSource *source = lfirst(lc);
		Node	   *statement = source->raw_parse_tree->stmt;

		if (IsA(statement, TransactionStmt) || IsA(statement, DeclareCursorStmt) ||
			(IsA(statement, CopyStmt) && castNode(CopyStmt, statement)->filename == NULL))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s is not allowed in the handler of a projection",
							GetCommandTagName(source->commandTag))));
	}
}

/* Raises the errors that the first run would for want of a privilege. */
static void
check_permissions(SPIPlanPtr plan, QueryEnvironment *environment)
{
	ListCell   *lc;

	foreach(lc, SPI_plan_get_plan_sources(plan))
	{
		CachedPlan *cached = GetCachedPlan(lfirst(lc), NULL, NULL, environment);
		ListCell   *lc2;

		foreach(lc2, cached->stmt_list)
		{
			PlannedStmt *statement = lfirst_node(PlannedStmt, lc2);

			if (statement->commandType == CMD_UTILITY)
				continue;
#if PG_VERSION_NUM >= 160000
			(void) ExecCheckPermissions(statement->rtable, statement->permInfos, true);
#else
			(void) ExecCheckRTPerms(statement->rtable, true);
#endif
		}
		ReleaseCachedPlan(cached, NULL);
	}
}

static EphemeralNamedRelation
new_events_relation(EventBatch *batch, double rows)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));

	enr->md.name = pstrdup(NEW_EVENTS);
	enr->md.tupdesc = batch->desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = rows;
	enr->reldata = batch->events;
	return enr;
}

/* Gives the connected SPI level the relation new_events. */
static void
register_new_events(EventBatch *batch, double rows)
{
	int			rc = SPI_register_relation(new_events_relation(batch, rows));

	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s", SPI_result_code_string(rc));
}

/* Makes the plan for streams, if the text allows for it. */
static void
prepare_stream(Handler *handler, EventBatch *batch)
{
	SPIPlanPtr	plan;

	SPI_connect();
	register_new_events(batch, expected_rows(handler));
	plan = prepare_sql(handler->projection);
	if (PlanMayStream(plan))
		handler->stream_plan = keep_plan(plan);
	handler->stream_known = true;
	SPI_finish();
}

static SPIPlanPtr
keep_plan(SPIPlanPtr plan)
{
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed");
	return plan;
}

static void
make_plan(Handler *handler)
{
	SPIPlanPtr	plan = prepare_sql(handler->projection);

	/* first, since a plan that is there is not looked into again */
	handler->may_read = HandlerMayRead(plan, handler->projection->tables);
	handler->plan = keep_plan(plan);
}

/*
 * With a view or a partition that has been replaced, say, the text may have
 * come to read other tables.  A plan that runs further out has to stay.
 */
static void
forget_old_plan(Handler *handler)
{
	if (handler->plan == NULL || SPI_plan_is_valid(handler->plan))
		return;
	if (handler->running > 1)
		handler->may_read = true;
	else
	{
		SPI_freeplan(handler->plan);
		handler->plan = NULL;
	}
}

static void
run_sql(Handler *handler, EventBatch *batch)
{
	SPIExecuteOptions options = {0};
	int			rc;

	SPI_connect();
	register_new_events(batch, expected_rows(handler));
	forget_old_plan(handler);
	if (batch->stream == NULL && handler->plan == NULL)
		make_plan(handler);
	if (handler->may_read)
		wait_for_writers(handler->projection);
	options.dest = None_Receiver;
	rc = SPI_execute_plan_extended(batch->stream ? handler->stream_plan : handler->plan, &options);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(rc));
	SPI_finish();
}

/*
 * A rebuild has large batches, but for the last, and where an event fails: a
 * plan for even more would make ready for them each time.
 */
static double
expected_rows(const Handler *handler)
{
	return handler->projection->live_tables != NULL ?
		Min(handler->projection->batch_size, PROJECTION_MAX_BATCH_SIZE) : NEW_EVENTS_ROWS;
}

/*
 * A handler that reads rows before it writes them must not miss what another
 * writer is doing to them.  Writers to one stream wait for each other anyway.
 */
static void
wait_for_writers(const Projection *projection)
{
	if (projection->is_inline && projection->live_tables == NULL && !projection->independent_streams)
		ProjectionLockWriters(projection->name);
}

/* Calls the function for each event in turn, each seeing the work of those before it. */
static void
run_function(Handler *handler, EventBatch *batch)
{
	FmgrInfo	function;
	bool		takes_log_event = resolve_function(handler->projection, &function);
	TupleDesc	event_desc = lookup_rowtype_tupdesc_copy(DaybookTypeOid("event"), -1);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	MemoryContext call_context = AllocSetContextCreate(CurrentMemoryContext,
													   "daybook handler call",
													   ALLOCSET_DEFAULT_SIZES);

	wait_for_writers(handler->projection);
	for (batch->done = 0; tuplestore_gettupleslot(batch->events, true, false, slot); batch->done++)
	{
		MemoryContext save = MemoryContextSwitchTo(call_context);
		LOCAL_FCINFO(call, 1);

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		batch->current = event_place(slot);
		InitFunctionCallInfoData(*call, &function, 1, InvalidOid, NULL, NULL);
		call->args[0].value = takes_log_event ?
			ExecFetchSlotHeapTupleDatum(slot) : event_datum(slot, event_desc);
		call->args[0].isnull = false;
		(void) FunctionCallInvoke(call);
		MemoryContextSwitchTo(save);
		MemoryContextReset(call_context);
		CommandCounterIncrement();
	}
	MemoryContextDelete(call_context);
	ExecDropSingleTupleTableSlot(slot);
}

static EventPlace
event_place(TupleTableSlot *slot)
{
	EventPlace	place;

	place.position = slot->tts_isnull[0] ? 0 : DatumGetInt64(slot->tts_values[0]);
	place.event_table = DatumGetObjectId(slot->tts_values[1]);
	place.event_id = DatumGetInt64(slot->tts_values[2]);
	return place;
}

/* The event within the daybook.log_event that is in the slot. */
static Datum
event_datum(TupleTableSlot *slot, TupleDesc event_desc)
{
	Datum	   *values = palloc(sizeof(Datum) * event_desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * event_desc->natts);
	int			from = 2;

	for (int i = 0; i < event_desc->natts; i++)
	{
		nulls[i] = TupleDescAttr(event_desc, i)->attisdropped;
		if (nulls[i])
			continue;
		while (TupleDescAttr(slot->tts_tupleDescriptor, from)->attisdropped)
			from++;
		values[i] = slot->tts_values[from];
		nulls[i] = slot->tts_isnull[from];
		from++;
	}
	return heap_copy_tuple_as_datum(heap_form_tuple(event_desc, values, nulls), event_desc);
}

static void
handler_error_context(void *arg)
{
	errcontext("projection \"%s\"", (const char *) arg);
}

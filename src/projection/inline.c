/*-------------------------------------------------------------------------
 *
 * inline.c
 *	  Projections that are kept in the appending statement itself.
 *
 * Each source has an AFTER INSERT statement trigger whose transition table
 * becomes new_events.  What the triggers cannot see, events that were there
 * before or that came while the projection was paused, is replayed from the
 * event tables in the order of ids, with writers locked out: under that lock
 * no event of these tables is still to be committed, and every later one has
 * a higher id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "arguments.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "projection/projection.h"
#include "relation_text.h"
#include "replay/event_reader.h"
#include "schema/upcast.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* An event table whose events are being applied. */
typedef struct InlineSource
{
	Relation	table;
	Upcasting  *upcasting;		/* NULL: it has no upcasters */
} InlineSource;

static char *inline_trigger_name(const char *projection);
static bool trigger_fires(Oid table, const char *name);
static void create_trigger(const Projection *projection, Oid source);
static Handler *handler_of_trigger(FunctionCallInfo fcinfo);
static void fill_from_transition(EventBatch *batch, const Projection *projection,
								 TriggerData *trigger);
static void add_event(EventBatch *batch, const Projection *projection, const InlineSource *source,
					  Datum *values, bool *nulls);
static bool category_is_wanted(const Projection *projection, Datum stream_id);
static bool type_is_wanted(const Projection *projection, Datum type);
static bool array_has(ArrayType *array, const char *value, int len);
static List *open_sources(const Projection *projection);
static void close_sources(List *sources);
static char *replay_query(List *sources);
static void replay_batch(Handler *handler, List *sources, const ParkedStreams *streams);
static void rest(InlineSource *source);
static void check_isolation(const Projection *projection);

/* Makes the triggers and applies the events that are there already. */
void
InlineAttach(Projection *projection)
{
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);

	InlineLockSources(projection);
	for (int i = 0; i < n; i++)
		create_trigger(projection, sources[i]);
	InlineReplay(projection, 0);
}

/* The owner of the projection need not own the event tables. */
void
InlineDetach(const Projection *projection)
{
	char	   *name = inline_trigger_name(projection->name);
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);

	for (int i = 0; i < n; i++)
	{
		ObjectAddress address;
		Oid			trigger;

		if (!OidIsValid(get_trigger_oid(sources[i], name, true)))
			continue;
		/* somebody else may be about to drop it, or the table */
		LockRelationOid(sources[i], AccessExclusiveLock);
		trigger = get_trigger_oid(sources[i], name, true);
		if (!OidIsValid(trigger))
			continue;
		ObjectAddressSet(address, TriggerRelationId, trigger);
		performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
}

/* Waits for those who are appending to the sources and keeps others out. */
void
InlineLockSources(const Projection *projection)
{
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);

	check_isolation(projection);
	for (int i = 0; i < n; i++)
		LockRelationOid(sources[i], ShareRowExclusiveLock);
}

/* The highest id in the sources, which are locked; 0 if there is no event. */
int64
InlineLastEventId(const Projection *projection)
{
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);
	int64		last = 0;

	for (int i = 0; i < n; i++)
	{
		Relation	source = try_table_open(sources[i], NoLock);

		if (source == NULL)
			continue;
		last = Max(last, FirstInsertionId(source, BackwardScanDirection));
		table_close(source, NoLock);
	}
	return last;
}

/* Applies the events with ids above after_id; the sources are locked. */
void
InlineReplay(Projection *projection, int64 after_id)
{
	InlineEvents events = {.after_id = after_id, .upto_id = PG_INT64_MAX};

	InlineLockSources(projection);
	InlineApply(HandlerGet(projection->name), &events);
}

/*
 * Hands events to a handler, in the order of their ids: those that a snapshot
 * sees, if there is one, and else all.
 */
void
InlineApply(Handler *handler, const InlineEvents *events)
{
	const Projection *projection = handler->projection;
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(events->after_id), Int64GetDatum(events->upto_id)};
	OwnerContext owner;
	MemoryContext batch_context;
	List	   *sources = open_sources(projection);
	Portal		portal;

	if (sources == NIL)
		return;

	OwnerContextEnter(&owner, projection);
	SPI_connect();
	if (events->snapshot != NULL)
		PushActiveSnapshot(events->snapshot);
	portal = SPI_cursor_open_with_args(NULL, replay_query(sources), 2, types, values, NULL,
									   events->snapshot != NULL, CURSOR_OPT_NO_SCROLL);
	if (events->snapshot != NULL)
		PopActiveSnapshot();
	batch_context = AllocSetContextCreate(CurrentMemoryContext, "daybook inline replay",
										  ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContext save;

		SPI_cursor_fetch(portal, true, projection->batch_size);
		if (SPI_processed == 0)
			break;
		save = MemoryContextSwitchTo(batch_context);
		replay_batch(handler, sources, events->streams);
		MemoryContextSwitchTo(save);
		MemoryContextReset(batch_context);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	OwnerContextLeave(&owner);
	close_sources(sources);
}

PG_FUNCTION_INFO_V1(daybook_project_inline);
Datum
daybook_project_inline(PG_FUNCTION_ARGS)
{
	Handler    *handler = handler_of_trigger(fcinfo);
	MemoryContext context;
	MemoryContext save;
	EventBatch	batch;

	if (handler != NULL && handler->projection->is_paused)
		return PointerGetDatum(NULL);
	if (daybook_restore)
	{
		/* the projection's tables come from the same dump */
		ereport(NOTICE,
				(errmsg("inline projection \"%s\" is not applied to restored events",
						((TriggerData *) fcinfo->context)->tg_trigger->tgargs[0]),
				 errhint("Unless its tables are restored too, call daybook.rebuild_projection().")));
		return PointerGetDatum(NULL);
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "daybook inline projection",
									ALLOCSET_DEFAULT_SIZES);
	save = MemoryContextSwitchTo(context);
	EventBatchInit(&batch);
	fill_from_transition(&batch, handler->projection, (TriggerData *) fcinfo->context);
	if (batch.count > 0)
		HandlerRun(handler, &batch);
	EventBatchEnd(&batch);
	MemoryContextSwitchTo(save);
	MemoryContextDelete(context);
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(daybook_inline_triggers_live);
Datum
daybook_inline_triggers_live(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(InlineTriggersLive(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									  ListArgument(fcinfo, 1, "sources",
												   "daybook.inline_triggers_live")));
}

/*
 * Whether all triggers of an inline projection are there and not disabled.
 * Looks into the catalogs alone: the status of projections is asked for while
 * somebody keeps a source locked, and by those who have no rights on it.
 */
bool
InlineTriggersLive(const char *name, ArrayType *sources)
{
	char	   *trigger = inline_trigger_name(name);
	Oid		   *relations;
	int			n = RelationArray(sources, &relations);

	for (int i = 0; i < n; i++)
	{
		/* a dropped table has no events to miss */
		if (get_rel_name(relations[i]) != NULL && !trigger_fires(relations[i], trigger))
			return false;
	}
	return true;
}

static bool
trigger_fires(Oid table, const char *name)
{
	Oid			oid = get_trigger_oid(table, name, true);
	Form_pg_trigger trigger = OidIsValid(oid) ?
		FetchCatalogRow(TriggerRelationId, oid, NULL) : NULL;

	return trigger != NULL && (trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
							   trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN);
}

/* A long name gives way to a hash at its end, as it has to stay unique. */
static char *
inline_trigger_name(const char *projection)
{
	const char *prefix = "daybook_inline_";
	int			room = NAMEDATALEN - 1 - strlen(prefix);
	int			len = strlen(projection);

	if (len <= room)
		return psprintf("%s%s", prefix, projection);
	return psprintf("%s%.*s_%08x", prefix, pg_mbcliplen(projection, len, room - 9), projection,
					hash_bytes((const unsigned char *) projection, len));
}

/* Made as the caller, whose TRIGGER privilege it takes; fires in every session. */
static void
create_trigger(const Projection *projection, Oid source)
{
	const char *name = quote_identifier(inline_trigger_name(projection->name));
	OwnerContext superuser;
	char	   *command;

	command = psprintf("CREATE TRIGGER %s AFTER INSERT ON %s REFERENCING NEW TABLE AS new_events "
					   "FOR EACH STATEMENT EXECUTE FUNCTION daybook.project_inline(%s)",
					   name, RelationText(source), quote_literal_cstr(projection->name));
	SPI_connect();
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", command);
	/* enabling takes the table's owner, which the caller need not be */
	SuperuserContextEnter(&superuser);
	command = psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", RelationText(source), name);
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", command);
	OwnerContextLeave(&superuser);
	SPI_finish();
}

/*
 * The handler that a trigger stands for.  Anyone may make triggers on tables
 * of their own: only those that create_projection made can feed a projection.
 * NULL while a dump is loaded into tables that have their triggers already, as
 * its events can come before the projection.
 */
static Handler *
handler_of_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Handler    *handler;
	const char *name;
	Oid		   *sources;
	int			n;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(data->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(data->tg_event) ||
		data->tg_newtable == NULL || data->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("daybook.project_inline was not called by the trigger of an inline projection")));
	name = data->tg_trigger->tgargs[0];
	handler = strlen(name) < NAMEDATALEN ? HandlerGet(name) : NULL;
	if (handler == NULL && daybook_restore)
		return NULL;
	if (handler == NULL || !handler->projection->is_inline)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("inline projection \"%s\" does not exist", name),
				 errdetail("Table %s has a trigger for it.",
						   RelationText(RelationGetRelid(data->tg_relation))),
				 errhint("Drop trigger %s.", quote_identifier(data->tg_trigger->tgname))));

	n = RelationArray(handler->projection->sources, &sources);
	for (int i = 0; i < n; i++)
	{
		if (sources[i] == RelationGetRelid(data->tg_relation) &&
			strcmp(data->tg_trigger->tgname, inline_trigger_name(name)) == 0)
			return handler;
	}
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger %s on table %s was not made for inline projection \"%s\"",
					quote_identifier(data->tg_trigger->tgname),
					RelationText(RelationGetRelid(data->tg_relation)), name),
			 errhint("Drop the trigger; daybook.create_projection() makes its own.")));
}

/* Takes the statement's new events that the projection wants. */
static void
fill_from_transition(EventBatch *batch, const Projection *projection, TriggerData *trigger)
{
	InlineSource source = {trigger->tg_relation, UpcastingBegin(trigger->tg_relation)};
	Tuplestorestate *rows = trigger->tg_newtable;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation),
													&TTSOpsMinimalTuple);
	int			pointer = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND);

	/* other triggers read the same rows, each through a pointer of its own */
	tuplestore_select_read_pointer(rows, pointer);
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		slot_getallattrs(slot);
		add_event(batch, projection, &source, slot->tts_values, slot->tts_isnull);
	}
	tuplestore_select_read_pointer(rows, 0);
	ExecDropSingleTupleTableSlot(slot);
	if (source.upcasting)
		UpcastingEnd(source.upcasting);
}

/*
 * Adds an event, given as the columns of daybook.event, if the projection
 * wants it: upcast, and without a position, which it does not have yet.
 */
static void
add_event(EventBatch *batch, const Projection *projection, const InlineSource *source,
		  Datum *event_values, bool *event_nulls)
{
	Datum		values[LOG_EVENT_NATTS];
	bool		nulls[LOG_EVENT_NATTS];
	Datum	   *event = values + 2;

	if (!category_is_wanted(projection, event_values[EVENT_STREAM_ID - 1]))
		return;
	values[0] = (Datum) 0;
	nulls[0] = true;
	values[1] = ObjectIdGetDatum(RelationGetRelid(source->table));
	nulls[1] = false;
	memcpy(event, event_values, sizeof(Datum) * EVENT_NATTS);
	memcpy(nulls + 2, event_nulls, sizeof(bool) * EVENT_NATTS);
	if (source->upcasting &&
		UpcastApplies(source->upcasting, DatumGetTextPP(event[EVENT_TYPE - 1]),
					  DatumGetInt32(event[EVENT_SCHEMA_VERSION - 1])) &&
		!Upcast(source->upcasting, event, nulls + 2))
		return;
	if (!type_is_wanted(projection, event[EVENT_TYPE - 1]))
		return;
	tuplestore_putvalues(batch->events, batch->desc, values, nulls);
	batch->count++;
}

static bool
category_is_wanted(const Projection *projection, Datum stream_id)
{
	text	   *stream;
	const char *dash;
	int			len;

	if (projection->categories == NULL)
		return true;
	stream = DatumGetTextPP(stream_id);
	len = VARSIZE_ANY_EXHDR(stream);
	dash = memchr(VARDATA_ANY(stream), '-', len);
	return array_has(projection->categories, VARDATA_ANY(stream),
					 dash ? dash - VARDATA_ANY(stream) : len);
}

static bool
type_is_wanted(const Projection *projection, Datum type)
{
	text	   *string;

	if (projection->types == NULL)
		return true;
	string = DatumGetTextPP(type);
	return array_has(projection->types, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

/* Whether a text[] without nulls has the value. */
static bool
array_has(ArrayType *array, const char *value, int len)
{
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	char	   *element = ARR_DATA_PTR(array);

	for (int i = 0; i < n; i++)
	{
		if (VARSIZE_ANY_EXHDR(element) == len && memcmp(VARDATA_ANY(element), value, len) == 0)
			return true;
		element = att_addlength_pointer(element, -1, element);
		element = (char *) att_align_nominal(element, TYPALIGN_INT);
	}
	return false;
}

/* The sources that are still there, which the caller has locked. */
static List *
open_sources(const Projection *projection)
{
	List	   *result = NIL;
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);

	for (int i = 0; i < n; i++)
	{
		Relation	table = try_table_open(sources[i], AccessShareLock);
		InlineSource *source;

		if (table == NULL)
			continue;
		source = palloc(sizeof(InlineSource));
		source->table = table;
		source->upcasting = UpcastingBegin(table);
		result = lappend(result, source);
	}
	return result;
}

static void
close_sources(List *sources)
{
	ListCell   *lc;

	foreach(lc, sources)
	{
		InlineSource *source = lfirst(lc);

		if (source->upcasting)
			UpcastingEnd(source->upcasting);
		table_close(source->table, NoLock);
	}
}

/* Events of all sources in the order of ids, from $1 exclusive to $2, with the number of their source. */
static char *
replay_query(List *sources)
{
	StringInfoData query;

	initStringInfo(&query);
	for (int i = 0; i < list_length(sources); i++)
	{
		InlineSource *source = list_nth(sources, i);

		appendStringInfo(&query, "%s SELECT e.*, %d AS source FROM ONLY %s e"
						 " WHERE e.id OPERATOR(pg_catalog.>) $1 AND e.id OPERATOR(pg_catalog.<=) $2",
						 i == 0 ? "SELECT * FROM (" : " UNION ALL", i,
						 RelationText(RelationGetRelid(source->table)));
	}
	appendStringInfoString(&query, ") s ORDER BY s.id");
	return query.data;
}

/* Hands what the cursor has just fetched to the handler, of some streams or of all. */
static void
replay_batch(Handler *handler, List *sources, const ParkedStreams *streams)
{
	SPITupleTable *fetched = SPI_tuptable;
	EventBatch	batch;
	InlineSource *source = NULL;

	EventBatchInit(&batch);
	for (uint64 i = 0; i < fetched->numvals; i++)
	{
		Datum		values[EVENT_NATTS + 1];
		bool		nulls[EVENT_NATTS + 1];
		InlineSource *previous = source;

		heap_deform_tuple(fetched->vals[i], fetched->tupdesc, values, nulls);
		if (streams != NULL &&
			!ParkedStreamsHave(streams, InvalidOid, TextDatumGetCString(values[EVENT_STREAM_ID - 1])))
			continue;
		source = list_nth(sources, DatumGetInt32(values[EVENT_NATTS]));
		/* the owner of one event table must not be left for that of another */
		if (previous != source)
			rest(previous);
		add_event(&batch, handler->projection, source, values, nulls);
	}
	rest(source);
	if (batch.count > 0)
		HandlerRun(handler, &batch);
	EventBatchEnd(&batch);
	SPI_freetuptable(fetched);
}

static void
rest(InlineSource *source)
{
	if (source && source->upcasting)
		UpcastRest(source->upcasting);
}

/* With an old snapshot, events committed since it was taken would be left out. */
static void
check_isolation(const Projection *projection)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("inline projection \"%s\" can be changed at isolation level READ COMMITTED only",
						projection->name),
				 errhint("Use BEGIN ISOLATION LEVEL READ COMMITTED.")));
}

/*-------------------------------------------------------------------------
 *
 * append_write.c
 *	  Writes the events of one append() call.
 *
 * Does what the executor does for INSERT, triggers and constraints included,
 * without planning a statement.  If no trigger but the version trigger sees
 * rows before they are stored, its work is done without calling it, and rows
 * of a stream are stored several at a time, as COPY does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "append/append.h"
#include "commands/trigger.h"
#include "event_table/insert_indexes.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

/* Rows that wait to be stored together, and when their size is enough. */
#define MAX_WAITING_ROWS	100
#define MAX_WAITING_BYTES	65536

typedef struct EventWriter
{
	EState	   *estate;
	ResultRelInfo *target;
	TransitionCaptureState *transition;
	Jsonb	   *no_data;		/* that of events which leave it out, once one has */
	bool		calls_triggers; /* before rows are stored */
	bool		has_defaults;	/* of the user's */
	int			room;			/* 1: each row is stored by itself */
	int			waiting;
	Size		waiting_bytes;
	TupleTableSlot *slots[MAX_WAITING_ROWS];
	ExprState  *defaults[EVENT_NATTS];	/* NULL: none, or not needed */
} EventWriter;

static void write_events(Relation rel, const AppendEvent *events, int count,
						 AppendResult *result);
static bool any_gives(const AppendEvent *events, int count, int column, bool given);
static bool gives(const AppendEvent *event, int column);
static ResultRelInfo *begin_insert(EState *estate, Relation rel, bool event_ids);
static void prepare_defaults(EventWriter *writer, Relation rel, uint16 columns,
							 const AppendEvent *events, int count);
static TupleTableSlot *prepare_row(EventWriter *writer, const AppendEvent *event);
static bool same_stream(const AppendEvent *a, const AppendEvent *b);
static void call_triggers(EventWriter *writer, TupleTableSlot *slot);
static void fill_slot(EventWriter *writer, TupleTableSlot *slot, const AppendEvent *event);
static void fill_in_defaults(EventWriter *writer, TupleTableSlot *slot,
							 const AppendEvent *event);
static void note_event(AppendResult *result, TupleTableSlot *slot, bool first);
static void store_rows(EventWriter *writer);
static void finish_row(EventWriter *writer, TupleTableSlot *slot);
static Jsonb *empty_object(EventWriter *writer);

/* Appends events to streams that the caller has pinned. */
void
WriteEvents(Relation rel, const AppendEvent *events, int count, AppendResult *result)
{
	bool		outer = event_append_running;

	event_append_running = true;
	PG_TRY();
	{
		write_events(rel, events, count, result);
	}
	PG_FINALLY();
	{
		event_append_running = outer;
	}
	PG_END_TRY();
}

static void
write_events(Relation rel, const AppendEvent *events, int count, AppendResult *result)
{
	EState	   *estate = CreateExecutorState();
	EventWriter writer = {.estate = estate};
	uint16		own_defaults = RequireVersionTrigger(rel)->own_defaults;

	writer.target = begin_insert(estate, rel, any_gives(events, count, EVENT_EVENT_ID, true) ||
								 (own_defaults & EVENT_COLUMN_BIT(EVENT_EVENT_ID)) != 0);
	AfterTriggerBeginQuery();
	writer.transition = MakeTransitionCaptureState(writer.target->ri_TrigDesc,
												   RelationGetRelid(rel), CMD_INSERT);
	writer.calls_triggers = !OnlyVersionTriggerSeesRows(writer.target->ri_TrigDesc);
	writer.room = writer.calls_triggers ? 1 : Min(count, MAX_WAITING_ROWS);
	if (own_defaults != 0)
		prepare_defaults(&writer, rel, own_defaults, events, count);
	ExecBSInsertTriggers(estate, writer.target);
	for (int i = 0; i < count; i++)
	{
		/* whoever looks for another stream's last version must find all that is ours */
		if (i > 0 && !same_stream(&events[i - 1], &events[i]))
			store_rows(&writer);
		note_event(result, prepare_row(&writer, &events[i]), i == 0);
		if (writer.waiting == writer.room || writer.waiting_bytes >= MAX_WAITING_BYTES)
			store_rows(&writer);
	}
	store_rows(&writer);
	ExecASInsertTriggers(estate, writer.target, writer.transition);
	AfterTriggerEndQuery(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);
	ExecCloseRangeTableRelations(estate);
	FreeExecutorState(estate);
}

/* Does any of the events give the column, or leave it out? */
static bool
any_gives(const AppendEvent *events, int count, int column, bool given)
{
	for (int i = 0; i < count; i++)
		if (gives(&events[i], column) == given)
			return true;
	return false;
}

/* Columns that are not the caller's to leave out count as given. */
static bool
gives(const AppendEvent *event, int column)
{
	switch (column)
	{
		case EVENT_SCHEMA_VERSION:
			return event->schema_version > 0;
		case EVENT_EVENT_ID:
			return event->event_id != NULL;
		case EVENT_DATA:
			return event->data != NULL;
		case EVENT_METADATA:
			return event->metadata != NULL;
		case EVENT_TAGS:
			return event->tags != NULL;
		default:
			return true;
	}
}

/* event_ids: some of the rows may have ids that the caller gave. */
static ResultRelInfo *
begin_insert(EState *estate, Relation rel, bool event_ids)
{
	ResultRelInfo *target = makeNode(ResultRelInfo);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
#if PG_VERSION_NUM >= 160000
	List	   *permissions = NIL;	/* read when a constraint's error shows the row */
#endif

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	addRTEPermissionInfo(&permissions, rte);
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), permissions, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(rte), permissions);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
	estate->es_output_cid = GetCurrentCommandId(true);
	InitResultRelInfo(target, rel, 1, NULL, 0);
	estate->es_opened_result_relations =
		lappend(estate->es_opened_result_relations, target);
	if (event_ids || !OpenIndexesWithoutEventId(target))
		ExecOpenIndices(target, false);
	return target;
}

/*
 * Makes those of the columns' defaults ready that some event needs.  Code of
 * the user's may want to see the rows before its own, as in INSERT.
 */
static void
prepare_defaults(EventWriter *writer, Relation rel, uint16 columns,
				 const AppendEvent *events, int count)
{
	for (int column = 1; column <= EVENT_NATTS; column++)
	{
		Node	   *expr;

		if ((columns & EVENT_COLUMN_BIT(column)) == 0 ||
			!any_gives(events, count, column, false))
			continue;
		expr = build_column_default(rel, column);
		if (contain_volatile_functions_not_nextval(expr))
			writer->room = 1;
		writer->defaults[column - 1] = ExecPrepareExpr((Expr *) expr, writer->estate);
		writer->has_defaults = true;
	}
}

/*
 * Sets the columns of an empty slot.  What is left out is filled by the
 * version trigger, or stays NULL.
 */
static void
fill_slot(EventWriter *writer, TupleTableSlot *slot, const AppendEvent *event)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	ExecClearTuple(slot);
	memset(nulls, true, EVENT_NATTS * sizeof(bool));

#define GIVE(column, datum) \
	(values[(column) - 1] = (datum), nulls[(column) - 1] = false)

	GIVE(EVENT_STREAM_ID, PointerGetDatum(event->stream_id));
	GIVE(EVENT_TYPE, PointerGetDatum(event->type));
	GIVE(EVENT_DATA, JsonbPGetDatum(event->data ? event->data : empty_object(writer)));
	GIVE(EVENT_SCHEMA_VERSION, Int32GetDatum(event->schema_version > 0 ? event->schema_version : 1));
	if (event->metadata)
		GIVE(EVENT_METADATA, JsonbPGetDatum(event->metadata));
	if (event->event_id)
		GIVE(EVENT_EVENT_ID, UUIDPGetDatum(event->event_id));
	if (event->tags)
		GIVE(EVENT_TAGS, PointerGetDatum(event->tags));
#undef GIVE
}

/* In place of what the event leaves out, where the table has defaults of the user's. */
static void
fill_in_defaults(EventWriter *writer, TupleTableSlot *slot, const AppendEvent *event)
{
	ExprContext *context = GetPerTupleExprContext(writer->estate);

	for (int i = 0; i < EVENT_NATTS; i++)
		if (writer->defaults[i] && !gives(event, i + 1))
			slot->tts_values[i] = ExecEvalExprSwitchContext(writer->defaults[i], context,
															&slot->tts_isnull[i]);
}

/* Makes the event's row, up to where INSERT would store it. */
static TupleTableSlot *
prepare_row(EventWriter *writer, const AppendEvent *event)
{
	Relation	rel = writer->target->ri_RelationDesc;
	TupleTableSlot *slot = writer->slots[writer->waiting];

	if (slot == NULL)
		slot = writer->slots[writer->waiting] =
			ExecInitExtraTupleSlot(writer->estate, RelationGetDescr(rel),
								   table_slot_callbacks(rel));
	ResetPerTupleExprContext(writer->estate);
	fill_slot(writer, slot, event);
	if (writer->has_defaults)
		fill_in_defaults(writer, slot, event);
	if (writer->calls_triggers)
		call_triggers(writer, slot);
	else
	{
		MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(writer->estate));

		MakeEventRow(rel, slot);
		MemoryContextSwitchTo(old);
	}
	slot->tts_tableOid = RelationGetRelid(rel);
	if (rel->rd_att->constr)
		ExecConstraints(writer->target, slot, writer->estate);
	if (writer->room > 1)
		EventRowAccept(rel, slot);
	writer->waiting_bytes += ExecFetchSlotHeapTuple(slot, true, NULL)->t_len;
	writer->waiting++;
	return slot;
}

static void
call_triggers(EventWriter *writer, TupleTableSlot *slot)
{
	ExecStoreVirtualTuple(slot);
	if (!ExecBRInsertTriggers(writer->estate, writer->target, slot))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("a trigger on event table \"%s\" has suppressed an event",
						RelationGetRelationName(writer->target->ri_RelationDesc)),
				 errdetail("daybook.append() writes all of its events or none."),
				 errhint("Let the trigger raise an error that says why.")));
}

static bool
same_stream(const AppendEvent *a, const AppendEvent *b)
{
	return VARSIZE_ANY_EXHDR(a->stream_id) == VARSIZE_ANY_EXHDR(b->stream_id) &&
		memcmp(VARDATA_ANY(a->stream_id), VARDATA_ANY(b->stream_id),
			   VARSIZE_ANY_EXHDR(a->stream_id)) == 0;
}

static void
note_event(AppendResult *result, TupleTableSlot *slot, bool first)
{
	bool		is_null;

	result->last_id = DatumGetInt64(slot_getattr(slot, EVENT_ID, &is_null));
	result->last_version = DatumGetInt64(slot_getattr(slot, EVENT_VERSION, &is_null));
	if (first)
	{
		result->first_id = result->last_id;
		result->first_version = result->last_version;
	}
}

/* Stores the rows that wait; those of a batch the access method has accepted. */
static void
store_rows(EventWriter *writer)
{
	Relation	rel = writer->target->ri_RelationDesc;

	if (writer->waiting == 0)
		return;
	if (writer->room > 1)
		GetHeapamTableAmRoutine()->multi_insert(rel, writer->slots, writer->waiting,
												writer->estate->es_output_cid, 0, NULL);
	else
		table_tuple_insert(rel, writer->slots[0], writer->estate->es_output_cid, 0, NULL);
	for (int i = 0; i < writer->waiting; i++)
		finish_row(writer, writer->slots[i]);
	writer->waiting = 0;
	writer->waiting_bytes = 0;
}

/* Index entries, and triggers that come after the row. */
static void
finish_row(EventWriter *writer, TupleTableSlot *slot)
{
	List	   *recheck = NIL;

	ResetPerTupleExprContext(writer->estate);
	if (writer->target->ri_NumIndices > 0)
#if PG_VERSION_NUM >= 160000
		recheck = ExecInsertIndexTuples(writer->target, slot, writer->estate, false, false,
										NULL, NIL, false);
#else
		recheck = ExecInsertIndexTuples(writer->target, slot, writer->estate, false, false,
										NULL, NIL);
#endif
	ExecARInsertTriggers(writer->estate, writer->target, slot, recheck, writer->transition);
	list_free(recheck);
}

static Jsonb *
empty_object(EventWriter *writer)
{
	if (writer->no_data == NULL)
		writer->no_data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	return writer->no_data;
}

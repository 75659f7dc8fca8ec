/*-------------------------------------------------------------------------
 *
 * append_write.c
 *	  Writes the events of one append() call.
 *
 * Does what the executor does for INSERT, triggers and constraints included,
 * without planning a statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "append/append.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

static ResultRelInfo *begin_insert(EState *estate, Relation rel);
static void fill_slot(TupleTableSlot *slot, const AppendEvent *event);
static void insert_event(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
						 TransitionCaptureState *transition);
static Jsonb *empty_object(void);

/* Appends events to streams that the caller has pinned. */
void
WriteEvents(Relation rel, const AppendEvent *events, int count, AppendResult *result)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = begin_insert(estate, rel);
	TransitionCaptureState *transition;
	TupleTableSlot *slot = ExecInitExtraTupleSlot(estate, RelationGetDescr(rel),
												  table_slot_callbacks(rel));

	AfterTriggerBeginQuery();
	transition = MakeTransitionCaptureState(target->ri_TrigDesc, RelationGetRelid(rel),
											CMD_INSERT);
	ExecBSInsertTriggers(estate, target);
	for (int i = 0; i < count; i++)
	{
		bool		is_null;

		ResetPerTupleExprContext(estate);
		fill_slot(slot, &events[i]);
		insert_event(estate, target, slot, transition);
		result->last_id = DatumGetInt64(slot_getattr(slot, EVENT_ID, &is_null));
		result->last_version = DatumGetInt64(slot_getattr(slot, EVENT_VERSION, &is_null));
		if (i == 0)
		{
			result->first_id = result->last_id;
			result->first_version = result->last_version;
		}
	}
	ExecASInsertTriggers(estate, target, transition);
	AfterTriggerEndQuery(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);
	ExecCloseRangeTableRelations(estate);
	FreeExecutorState(estate);
}

static ResultRelInfo *
begin_insert(EState *estate, Relation rel)
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
	ExecOpenIndices(target, false);
	return target;
}

/* What is left out is filled by the version trigger, or stays NULL. */
static void
fill_slot(TupleTableSlot *slot, const AppendEvent *event)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	ExecClearTuple(slot);
	memset(nulls, true, EVENT_NATTS * sizeof(bool));

#define GIVE(column, datum) \
	(values[(column) - 1] = (datum), nulls[(column) - 1] = false)

	GIVE(EVENT_STREAM_ID, PointerGetDatum(event->stream_id));
	GIVE(EVENT_TYPE, PointerGetDatum(event->type));
	GIVE(EVENT_DATA, JsonbPGetDatum(event->data ? event->data : empty_object()));
	GIVE(EVENT_SCHEMA_VERSION, Int32GetDatum(event->schema_version > 0 ? event->schema_version : 1));
	if (event->metadata)
		GIVE(EVENT_METADATA, JsonbPGetDatum(event->metadata));
	if (event->event_id)
		GIVE(EVENT_EVENT_ID, UUIDPGetDatum(event->event_id));
	if (event->tags)
		GIVE(EVENT_TAGS, PointerGetDatum(event->tags));
#undef GIVE
	ExecStoreVirtualTuple(slot);
}

static void
insert_event(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
			 TransitionCaptureState *transition)
{
	Relation	rel = target->ri_RelationDesc;
	List	   *recheck = NIL;

	if (!ExecBRInsertTriggers(estate, target, slot))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("a trigger on event table \"%s\" has suppressed an event",
						RelationGetRelationName(rel)),
				 errdetail("daybook.append() writes all of its events or none."),
				 errhint("Let the trigger raise an error that says why.")));
	slot->tts_tableOid = RelationGetRelid(rel);
	if (rel->rd_att->constr)
		ExecConstraints(target, slot, estate);
	table_tuple_insert(rel, slot, estate->es_output_cid, 0, NULL);
	if (target->ri_NumIndices > 0)
#if PG_VERSION_NUM >= 160000
		recheck = ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false);
#else
		recheck = ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL);
#endif
	ExecARInsertTriggers(estate, target, slot, recheck, transition);
	list_free(recheck);
}

static Jsonb *
empty_object(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}

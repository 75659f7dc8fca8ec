/*-------------------------------------------------------------------------
 *
 * insert_indexes.c
 *	  Which of an event table's indexes an insertion opens.
 *
 * The index on (event_id, stream_id) takes the events whose ids callers give.
 * To open it and to make its predicate ready, once for each statement, is a
 * twentieth of an append, so it is left closed where no row can have such an
 * id: none comes with one, and nothing on the way can give it one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/insert_indexes.h"
#include "executor/executor.h"
#include "nodes/plannodes.h"
#include "storage/lockdefs.h"

static bool leaves_out_event_id(List *targetlist);
static void open_indexes_but(ResultRelInfo *target, Oid left_out);

/*
 * Does nobody but the version trigger see rows before they are stored?  A
 * trigger of the user's may want to see the rows before its own, or change them.
 */
bool
OnlyVersionTriggerSeesRows(const TriggerDesc *triggers)
{
	Oid			version_trigger = GetDaybookOids()->event_trigger_function;
	int			version_triggers = 0;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_ROW(trigger->tgtype) || !TRIGGER_FOR_BEFORE(trigger->tgtype) ||
			!TRIGGER_FOR_INSERT(trigger->tgtype))
			continue;
		if (trigger->tgfoid != version_trigger || trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
			return false;
		version_triggers++;
	}
	return version_triggers == 1;
}

/*
 * Opens the indexes for rows that come without event ids.  False if all that
 * the table has may be needed, and none is opened.
 */
bool
OpenIndexesWithoutEventId(ResultRelInfo *target)
{
	Relation	rel = target->ri_RelationDesc;
	const EventTable *table = LookUpEventTable(rel);
	Oid			event_id_index = table->is_event_table ? table->event_id_index : InvalidOid;

	/* columns that are generated are, after the triggers */
	if (!OidIsValid(event_id_index) ||
		!OnlyVersionTriggerSeesRows(target->ri_TrigDesc) ||
		(rel->rd_att->constr && rel->rd_att->constr->has_generated_stored))
		return false;
	open_indexes_but(target, event_id_index);
	return true;
}

/*
 * The same for a statement that is about to be run: ExecInsert() opens the
 * indexes with the first row, unless they are open.  ON CONFLICT wants to know
 * more of them, and is left alone.
 */
void
InsertOpenIndexes(QueryDesc *statement)
{
	ModifyTableState *state = (ModifyTableState *) statement->planstate;
	ModifyTable *node;
	ResultRelInfo *target;
	MemoryContext old;

	/* another extension may have put its own node there */
	if (state == NULL || !IsA(state, ModifyTableState))
		return;
	node = castNode(ModifyTable, state->ps.plan);
	target = state->resultRelInfo;
	if (node->operation != CMD_INSERT || node->onConflictAction != ONCONFLICT_NONE)
		return;
	/* an event table is a typed table: most others are told by that */
	if (!OidIsValid(target->ri_RelationDesc->rd_rel->reloftype) ||
		target->ri_IndexRelationDescs != NULL ||
		!leaves_out_event_id(outerPlan(node)->targetlist))
		return;
	old = MemoryContextSwitchTo(statement->estate->es_query_cxt);
	(void) OpenIndexesWithoutEventId(target);
	MemoryContextSwitchTo(old);
}

/* The plan below an INSERT gives all columns of the table, in order. */
static bool
leaves_out_event_id(List *targetlist)
{
	TargetEntry *column;

	if (list_length(targetlist) < EVENT_EVENT_ID)
		return false;
	column = list_nth_node(TargetEntry, targetlist, EVENT_EVENT_ID - 1);
	return column->resno == EVENT_EVENT_ID && !column->resjunk &&
		IsA(column->expr, Const) && ((Const *) column->expr)->constisnull;
}

/* ExecOpenIndices(), but for one of them. */
static void
open_indexes_but(ResultRelInfo *target, Oid left_out)
{
	List	   *indexes = RelationGetIndexList(target->ri_RelationDesc);
	ListCell   *lc;
	int			count = 0;

	target->ri_IndexRelationDescs = palloc(list_length(indexes) * sizeof(Relation));
	target->ri_IndexRelationInfo = palloc(list_length(indexes) * sizeof(IndexInfo *));
	foreach(lc, indexes)
	{
		Relation	index;

		if (lfirst_oid(lc) == left_out)
			continue;
		index = index_open(lfirst_oid(lc), RowExclusiveLock);
		target->ri_IndexRelationDescs[count] = index;
		target->ri_IndexRelationInfo[count] = BuildIndexInfo(index);
		target->ri_NumIndices = ++count;
	}
	list_free(indexes);
}

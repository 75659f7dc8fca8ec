/*-------------------------------------------------------------------------
 *
 * handler_stream.c
 *	  Handlers that get events while these are read, rather than from a
 *	  tuplestore.
 *
 * A large batch costs as much to store and to take out again as the reading of
 * it, and needs room on disk.  Each mention of new_events in a streamed batch
 * reads the log by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "nodes/nodeFuncs.h"
#include "projection/handler_stream.h"
#include "schema/upcast.h"
#include "sequencer/log_scan.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

/* Reading the log so many times over costs less than a tuplestore. */
#define MAX_MENTIONS		2

/* Fewer positions are not worth a stream; failures are narrowed down in batches as small. */
#define MIN_POSITIONS		1000

static bool obstacle_walker(Node *node, void *mentions);
static bool query_is_obstacle(const Query *query, int *mentions);
static bool mentions_events(Node *query);
static bool have_upcasters(const Projection *projection);
static bool has_event(const EventStream *stream);
static RowSource *begin_rows(const RowRelation *relation);
static EventReader *begin_reader(const EventStream *stream);

/*
 * UPDATE and DELETE recheck rows that others have changed, for which they keep
 * the events that they come from; so does a row lock.
 */
bool
PlanMayStream(SPIPlanPtr plan)
{
	int			mentions = 0;
	ListCell   *lc;

	foreach(lc, SPI_plan_get_plan_sources(plan))
	{
		CachedPlanSource *source = lfirst(lc);

		if (obstacle_walker((Node *) source->query_list, &mentions))
			return false;
	}
	return mentions > 0 && mentions <= MAX_MENTIONS;
}

static bool
obstacle_walker(Node *node, void *mentions)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_is_obstacle((Query *) node, mentions) ||
			query_tree_walker((Query *) node, obstacle_walker, mentions, 0);
	if (IsA(node, SubLink) && mentions_events(((SubLink *) node)->subselect))
		return true;
	return expression_tree_walker(node, obstacle_walker, mentions);
}

static bool
query_is_obstacle(const Query *query, int *mentions)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_NAMEDTUPLESTORE)
			(*mentions)++;
		if (rte->lateral && mentions_events((Node *) rte->subquery))
			return true;
	}
	return (query->commandType != CMD_SELECT && query->commandType != CMD_INSERT) ||
		query->rowMarks != NIL;
}

/* In what may run for each row of something else, and so read the log as often. */
static bool
mentions_events(Node *query)
{
	int			mentions = 0;

	return obstacle_walker(query, &mentions) || mentions > 0;
}

/*
 * Makes an empty batch that of the events at the next positions, unless these
 * are too few to be worth it.  The active snapshot must outlive it.
 *
 * With upcasters nothing is streamed: they fail event by event, and are not to
 * run within the handler.
 */
void
EventBatchStream(EventBatch *batch, const Projection *projection, const EventFilter *filter,
				 int64 after, int64 max_positions)
{
	Snapshot	snapshot = GetActiveSnapshot();
	int64		positions = Min(LogHead(snapshot) - after, max_positions);
	EventStream *stream;

	if (positions < MIN_POSITIONS || have_upcasters(projection))
		return;
	stream = palloc0(sizeof(EventStream));
	stream->snapshot = snapshot;
	stream->filter = *filter;
	/* nor do those run that are made before the handler ends */
	stream->filter.as_stored = true;
	stream->after = after;
	stream->positions = positions;
	stream->relation.name = NEW_EVENTS;
	stream->relation.desc = batch->desc;
	stream->relation.begin = begin_rows;
	stream->relation.arg = stream;
	batch->stream = stream;
	batch->last_position = after + positions;
	batch->count = has_event(stream) ? positions : 0;
}

/* Without an event the handler is not called. */
static bool
has_event(const EventStream *stream)
{
	EventReader *reader = begin_reader(stream);
	bool		found;

	EventReaderExpect(reader, 1);
	found = EventReaderNext(reader) != NULL;
	EventReaderEnd(reader);
	return found;
}

static RowSource *
begin_rows(const RowRelation *relation)
{
	return LogRowsBegin(begin_reader(relation->arg), PG_INT64_MAX);
}

/* As the owner, who has to have the right to read what the handler gets. */
static EventReader *
begin_reader(const EventStream *stream)
{
	EventReader *reader = EventReaderBegin(stream->snapshot, stream->after, &stream->filter, true);

	EventReaderLimit(reader, stream->positions);
	return reader;
}

static bool
have_upcasters(const Projection *projection)
{
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);
	bool		found = false;

	for (int i = 0; i < n && !found; i++)
	{
		Relation	table = try_table_open(sources[i], AccessShareLock);
		Upcasting  *upcasting;

		if (table == NULL)
			continue;
		upcasting = UpcastingBegin(table);
		found = upcasting != NULL;
		if (found)
			UpcastingEnd(upcasting);
		table_close(table, NoLock);
	}
	return found;
}

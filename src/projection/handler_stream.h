/*-------------------------------------------------------------------------
 *
 * handler_stream.h
 *	  Batches of events that are read while the handler runs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_HANDLER_STREAM_H
#define DAYBOOK_HANDLER_STREAM_H

#include "projection/projection.h"
#include "replay/event_reader.h"
#include "replay/row_function.h"

/* Where the events of a batch are. */
typedef struct EventStream
{
	Snapshot	snapshot;
	EventFilter filter;
	int64		after;			/* position */
	int64		positions;		/* so many from there on */
	RowRelation relation;		/* new_events */
} EventStream;

extern bool PlanMayStream(SPIPlanPtr plan);
extern void EventBatchStream(EventBatch *batch, const Projection *projection,
							 const EventFilter *filter, int64 after, int64 max_positions);

#endif							/* DAYBOOK_HANDLER_STREAM_H */

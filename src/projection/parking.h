/*-------------------------------------------------------------------------
 *
 * parking.h
 *	  Reading and changing the queues of parked events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PARKING_H
#define DAYBOOK_PARKING_H

#include "projection/projection.h"
#include "utils/snapshot.h"

/* Which rows of a projection's queues; 0 and NULL let everything through. */
typedef struct ParkedFilter
{
	int64		after;			/* positions above this */
	int64		position;
	Oid			event_table;
	const char *stream_id;
	const ParkedStreams *except;
	bool		causes_alone;	/* what failed itself is not put together with others */
} ParkedFilter;

/* A row, as it was read. */
typedef struct ParkedRow
{
	ParkedEvent event;
	HeapTuple	tuple;
} ParkedRow;

/* Rows in the order of positions, at most so many. */
extern List *ParkedRowsLoad(const char *name, const ParkedFilter *filter, int64 limit);
extern void ParkedRowsDelete(List *rows);
extern void ParkedMove(const char *from, const char *to);
extern void ParkedRowSetError(ParkedRow *row, const ProjectionError *error);
extern void ParkedRowDiscard(ParkedRow *row, const char *reason);

#endif							/* DAYBOOK_PARKING_H */

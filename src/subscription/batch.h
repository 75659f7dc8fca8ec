/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  What one fetch hands out: events of one or more partitions, in the order
 *	  of their positions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_BATCH_H
#define DAYBOOK_BATCH_H

#include "subscription/subscription.h"
#include "utils/hsearch.h"
#include "utils/tuplestore.h"

/* A partition as far as a batch is concerned. */
typedef struct BatchPartition
{
	Partition  *partition;
	bool		locked;
	int64		start;			/* up to here the log has nothing for it but what is in the queue */
	int64		scanned;		/* the same after the batch */
	bool		has_held;
	int			suspicion;		/* deliveries of its first event that ended without a word */
	int64	   *queued;			/* positions above the partition's that are in the queue */
	int			nqueued;

	int			events;			/* handed out */
	int64		first_logged;	/* first and last of those that come from the log, 0: none */
	int64		last_logged;
	List	   *to_queue;		/* QueuedEvent: not handed out, since their stream is held */
	List	   *gone;			/* QueuedEvent: their table has been dropped */
	List	   *streams;		/* BatchStream: held streams that have changed */
} BatchPartition;

typedef struct Batch
{
	const Subscription *sub;
	const char *consumer;
	int			max_events;
	List	   *partitions;		/* BatchPartition */
	List	   *postponed;		/* Partition: taken out again, to be read by itself or later */
	BatchPartition **by_number;
	int64		lease;
	int			count;
	int			queued;
	bool		unfinished;		/* it ended where partitions may have more */
	int64		last_position;
	Tuplestorestate *rows;		/* of daybook.delivery */
	TupleDesc	desc;

	bool		any_held;		/* some stream of the subscription is held */
	int64	   *discarded;		/* positions above those of the partitions that were given up */
	int			ndiscarded;
	HTAB	   *streams;		/* BatchStream by StreamKey */
	List	   *held;			/* HeldEvent, in order */
	int			next_held;
	OwnerReader log;
	OwnerReader queue;
} Batch;

/* Reads what can be handed out of some partitions; writes nothing. */
extern void BatchRead(Batch *batch);

/*
 * Ends reading.  The event tables stay locked if the events are handed out,
 * but not while a consumer waits.
 */
extern void BatchEnd(Batch *batch, bool handed_out);

/* Whether a partition's row has to be written, for which its lock is needed. */
extern bool BatchChanges(const BatchPartition *part);

/* Writes down what is handed out until when. */
extern void BatchLease(Batch *batch, TimestampTz now, TimestampTz until);

#endif							/* DAYBOOK_BATCH_H */

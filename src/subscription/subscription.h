/*-------------------------------------------------------------------------
 *
 * subscription.h
 *	  Subscriptions: what consumers outside of the database have been handed,
 *	  have acknowledged, and could not handle.
 *
 * A subscription's events are divided among partitions by a hash of their
 * stream.  A partition has a position: of its events, those up to there are
 * acknowledged or in the queue.  The queue holds the events of streams in
 * which one could not be handled; such a stream is held, and goes on from the
 * queue, in order, when its time has come.
 *
 * Whatever is said about a partition, its held streams and their queue is
 * written under the partition's lock, together with the partition's row: who
 * finds that row as it was has missed nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_SUBSCRIPTION_H
#define DAYBOOK_SUBSCRIPTION_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "replay/event_reader.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"

#define MAX_PARTITIONS			1024
#define ALL_PARTITIONS			(-1)
#define MAX_DELIVERY_LIMIT		50
#define NO_DELIVERY_LIMIT		INT_MAX
#define MAX_EVENTS_PER_FETCH	100000
#define MAX_CONSUMER_BYTES		200

/* A row of daybook.subscription. */
typedef struct Subscription
{
	char	   *name;
	Oid			owner;
	ArrayType  *consumers;		/* regrole[] */
	ArrayType  *sources;		/* regclass[] */
	ArrayType  *types;			/* text[], or NULL for all */
	ArrayType  *categories;		/* text[], or NULL for all */
	int64		from_position;
	int			partitions;
	int			delivery_limit;
	TimestampTz created_at;
	ItemPointerData tid;
} Subscription;

/*
 * Deliveries that have not been acknowledged as a whole.  Each covered the
 * events up to its end, so an event was in those that end at or after it.
 * One that ended with a word about which event failed is kept negative: it is
 * no reason to suspect the others.
 */
#define MAX_DELIVERIES			64

typedef struct Deliveries
{
	int			count;
	int64		ends[MAX_DELIVERIES];
} Deliveries;

/* A row of daybook.subscription_partition. */
typedef struct Partition
{
	int			number;
	int64		position;
	int64		last_delivered; /* of the log's events that are outstanding, 0: none */
	int64		scanned;		/* position once those are acknowledged */
	int64		lease;			/* 0: never leased */
	int			lease_partitions;	/* how many partitions have something out under it */
	int64		lease_end;		/* position of the last event under this lease */
	bool		outstanding;	/* something under the lease waits for ack */
	char	   *consumer;		/* who had the last lease, or NULL */
	TimestampTz leased_at;
	TimestampTz lease_until;
	Deliveries	deliveries;
	ItemPointerData tid;
	TransactionId xmin;
} Partition;

/*
 * A stream is told by its table and the hash of its name; should two names
 * have the same hash, the two streams are held together.
 */
typedef struct StreamKey
{
	Oid			event_table;
	uint64		hash;
} StreamKey;

/* A row of daybook.subscription_stream: a stream that is held. */
typedef struct HeldStream
{
	StreamKey	key;
	int			partition;
	char	   *stream_id;
	TimestampTz due_at;			/* when its first event may go out, 0: parked */
	int64		blocked_at;		/* position of the event that failed, 0: none now */
	TimestampTz blocked_until;	/* when that may be tried again, 0: parked */
	int64		lease;			/* under which events were handed out last */
	int64		delivered_upto;
	Deliveries	deliveries;
	int			forgiven;		/* deliveries of the blocking event before it was retried by hand */
	char	   *reason;
	char	   *failed_consumer;
	TimestampTz failed_at;
	ItemPointerData tid;
} HeldStream;

/* A row of daybook.subscription_queue: an event of a held stream. */
typedef struct QueuedEvent
{
	int			partition;
	int64		position;
	StreamKey	key;
	char	   *stream_id;
	int64		id;
	int			deliveries;		/* before it came into the queue */
	ItemPointerData tid;
} QueuedEvent;

/* subscription.c: definitions, who may use them, locks, reading */
extern Subscription *SubscriptionLoad(const char *name);
extern Subscription *SubscriptionForConsumer(const char *name);
extern Subscription *SubscriptionForOwner(const char *name);
extern void SubscriptionWrites(const char *function);
extern char *SubscriptionBegin(FunctionCallInfo fcinfo, const char *function);
extern void SubscriptionStore(Subscription *sub);
extern void SubscriptionDelete(Subscription *sub);
extern void SubscriptionLock(const char *name, LOCKMODE mode);
extern void SubscriptionUnlock(const char *name, LOCKMODE mode);
extern bool PartitionTryLock(const Subscription *sub, int partition);
extern void PartitionLock(const Subscription *sub, int partition);
extern void PartitionUnlock(const Subscription *sub, int partition);
extern int	PartitionOfEvent(const Subscription *sub, const LogEvent *event,
							 TupleDesc event_desc, StreamKey *key);
extern char *EventStreamId(const LogEvent *event, TupleDesc event_desc);
extern TimestampTz TimestampTzPlusInterval(TimestampTz time, Interval *interval);

/* A reader of the subscription's events, with the rights of its owner. */
typedef struct OwnerReader
{
	EventReader *reader;
	TupleDesc	event_desc;
	Oid			owner;
} OwnerReader;

extern void OwnerReaderBegin(OwnerReader *reader, const Subscription *sub, int64 after);
extern LogEvent *OwnerReaderNext(OwnerReader *reader);
extern LogEvent *OwnerReaderAt(OwnerReader *reader, int64 position);
extern void OwnerReaderEnd(OwnerReader *reader);
extern void OwnerReaderDiscard(OwnerReader *reader);

/* deliveries.c */
extern void DeliveriesAdd(Deliveries *deliveries, int64 end);
extern int	DeliveriesOf(const Deliveries *deliveries, int64 position);
extern int	DeliveriesSuspicious(const Deliveries *deliveries, int64 position);
extern void DeliveriesExcuse(Deliveries *deliveries);
extern void DeliveriesExcuseAll(Deliveries *deliveries);
extern void DeliveriesSettle(Deliveries *deliveries, int64 upto);
extern Datum DeliveriesToArray(const Deliveries *deliveries);
extern void DeliveriesFromArray(Deliveries *deliveries, Datum array);

/* partition_rows.c */
extern List *PartitionLoadAll(const Subscription *sub);
extern bool PartitionReload(const Subscription *sub, Partition *partition);
extern bool PartitionIsUnchanged(const Subscription *sub, const Partition *partition);
extern void PartitionStore(const Subscription *sub, Partition *partition);

/* queue_rows.c */
extern HeldStream *HeldStreamLoad(const Subscription *sub, const StreamKey *key);
extern bool PartitionHasHeld(const Subscription *sub, int partition);
extern List *HeldStreamsDue(const Subscription *sub, int partition, TimestampTz now, int max);
extern List *HeldStreamsOut(const Subscription *sub, const Partition *partition);
extern TimestampTz HeldStreamNextDue(const Subscription *sub, int partition, TimestampTz after);
extern List *HeldStreamsAll(const Subscription *sub);
extern void HeldStreamStore(const Subscription *sub, HeldStream *stream);
extern void HeldStreamDelete(HeldStream *stream);
extern List *QueueOfStream(const Subscription *sub, const StreamKey *key, int64 upto, int max);
extern QueuedEvent *QueueFind(const Subscription *sub, int partition, int64 position);
extern int64 *QueuePositionsAbove(const Subscription *sub, int partition, int64 after, int *count);
extern void QueueStore(const Subscription *sub, QueuedEvent *event);
extern void QueueDelete(QueuedEvent *event);

/* discard_rows.c */
extern void DiscardStore(const Subscription *sub, const HeldStream *stream,
						 const QueuedEvent *event, const char *reason);
extern bool DiscardExists(const Subscription *sub, int64 position);
extern int64 *DiscardPositionsAbove(const Subscription *sub, int64 after, int *count);

/* held.c */
extern HeldStream *HeldStreamMake(const StreamKey *key, int partition, const char *stream_id);
extern void HeldStreamBlock(HeldStream *stream, int64 position, TimestampTz until,
							const char *reason, const char *consumer);
extern void HeldStreamUnblock(HeldStream *stream);
extern void HeldStreamUpdate(const Subscription *sub, HeldStream *stream);
extern void HeldStreamSettle(const Subscription *sub, HeldStream *stream, int64 upto);
extern int	HeldEventDeliveries(const HeldStream *stream, const QueuedEvent *event);

/* wait.c */
extern void ConsumerWaitBegin(const char *subscription);
extern void ConsumerWaitNote(void);
extern void ConsumerWaitSleep(TimestampTz until);
extern void ConsumerWaitEnd(void);
extern int	ConsumersWaiting(const char *subscription);
extern void ConsumerLocksPartition(void);
extern void ConsumerWasRefused(void);
extern void ConsumerLeavesPartition(void);
extern void ConsumersWakeAtCommit(void);

#endif							/* DAYBOOK_SUBSCRIPTION_H */

/*-------------------------------------------------------------------------
 *
 * queue_rows.c
 *	  Reads and writes daybook.subscription_stream, the streams that are held,
 *	  and daybook.subscription_queue, their events.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "subscription/own_rows.h"
#include "subscription/subscription.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#define STREAM_TABLE		"subscription_stream"
#define STREAM_KEY			"subscription_stream_pkey"
#define STREAM_DUE_INDEX	"subscription_stream_due"
#define STREAM_LEASE_INDEX	"subscription_stream_lease"
#define QUEUE_TABLE			"subscription_queue"
#define QUEUE_KEY			"subscription_queue_pkey"
#define QUEUE_STREAM_INDEX	"subscription_queue_stream"

/* columns of daybook.subscription_stream, from 0 */
enum
{
	H_SUBSCRIPTION,
	H_EVENT_TABLE,
	H_STREAM_HASH,
	H_PARTITION,
	H_STREAM_ID,
	H_DUE_AT,
	H_BLOCKED_AT,
	H_BLOCKED_UNTIL,
	H_LEASE,
	H_DELIVERED_UPTO,
	H_DELIVERIES,
	H_FORGIVEN,
	H_REASON,
	H_FAILED_CONSUMER,
	H_FAILED_AT,
	H_COLUMNS
};

/* columns of daybook.subscription_queue, from 0 */
enum
{
	Q_SUBSCRIPTION,
	Q_PARTITION,
	Q_POSITION,
	Q_EVENT_TABLE,
	Q_STREAM_HASH,
	Q_STREAM_ID,
	Q_ID,
	Q_DELIVERIES,
	Q_COLUMNS
};

static void begin_due_scan(OwnScan *scan, const Subscription *sub, int partition,
						   StrategyNumber strategy, RegProcedure function, TimestampTz time);
static HeldStream *next_stream(OwnScan *scan);
static void begin_queue_scan(OwnScan *scan, const Subscription *sub, int partition,
							 StrategyNumber strategy, RegProcedure function, int64 position);
static QueuedEvent *next_queued(OwnScan *scan);

/*
 * Held streams
 */

/* NULL if the stream is not held. */
HeldStream *
HeldStreamLoad(const Subscription *sub, const StreamKey *key)
{
	HeldStream *stream;
	OwnScan		scan;

	OwnScanInit(&scan);
	OwnScanKeyText(&scan, H_SUBSCRIPTION + 1, sub->name);
	OwnScanKey(&scan, H_EVENT_TABLE + 1, BTEqualStrategyNumber, F_OIDEQ,
			   ObjectIdGetDatum(key->event_table));
	OwnScanKey(&scan, H_STREAM_HASH + 1, BTEqualStrategyNumber, F_INT8EQ,
			   Int64GetDatum((int64) key->hash));
	OwnScanBegin(&scan, STREAM_TABLE, STREAM_KEY);
	stream = next_stream(&scan);
	OwnScanEnd(&scan);
	return stream;
}

/* Is any stream of a partition held, or of all of them? */
bool
PartitionHasHeld(const Subscription *sub, int partition)
{
	bool		result;
	OwnScan		scan;

	begin_due_scan(&scan, sub, partition, InvalidStrategy, InvalidOid, 0);
	result = next_stream(&scan) != NULL;
	OwnScanEnd(&scan);
	return result;
}

/* Streams whose time has come, the longest due first. */
List *
HeldStreamsDue(const Subscription *sub, int partition, TimestampTz now, int max)
{
	List	   *result = NIL;
	HeldStream *stream;
	OwnScan		scan;

	begin_due_scan(&scan, sub, partition, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, now);
	while (list_length(result) < max && (stream = next_stream(&scan)) != NULL)
		result = lappend(result, stream);
	OwnScanEnd(&scan);
	return result;
}

/* Streams of which something was handed out under the partition's lease. */
List *
HeldStreamsOut(const Subscription *sub, const Partition *partition)
{
	List	   *result = NIL;
	HeldStream *stream;
	OwnScan		scan;

	OwnScanInit(&scan);
	OwnScanKeyText(&scan, H_SUBSCRIPTION + 1, sub->name);
	OwnScanKey(&scan, H_LEASE + 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(partition->lease));
	OwnScanBegin(&scan, STREAM_TABLE, STREAM_LEASE_INDEX);
	while ((stream = next_stream(&scan)) != NULL)
		if (stream->partition == partition->number)
			result = lappend(result, stream);
	OwnScanEnd(&scan);
	return result;
}

/* When the first stream is due after a time, 0 if none is. */
TimestampTz
HeldStreamNextDue(const Subscription *sub, int partition, TimestampTz after)
{
	HeldStream *stream;
	OwnScan		scan;

	begin_due_scan(&scan, sub, partition, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT, after);
	stream = next_stream(&scan);
	OwnScanEnd(&scan);
	return stream ? stream->due_at : 0;
}

/* All held streams of a subscription. */
List *
HeldStreamsAll(const Subscription *sub)
{
	List	   *result = NIL;
	HeldStream *stream;
	OwnScan		scan;

	begin_due_scan(&scan, sub, ALL_PARTITIONS, InvalidStrategy, InvalidOid, 0);
	while ((stream = next_stream(&scan)) != NULL)
		result = lappend(result, stream);
	OwnScanEnd(&scan);
	return result;
}

void
HeldStreamStore(const Subscription *sub, HeldStream *stream)
{
	Datum		values[H_COLUMNS];
	bool		nulls[H_COLUMNS] = {false};

	values[H_SUBSCRIPTION] = CStringGetTextDatum(sub->name);
	values[H_EVENT_TABLE] = ObjectIdGetDatum(stream->key.event_table);
	values[H_STREAM_HASH] = Int64GetDatum((int64) stream->key.hash);
	values[H_PARTITION] = Int32GetDatum(stream->partition);
	values[H_STREAM_ID] = CStringGetTextDatum(stream->stream_id);
	values[H_DUE_AT] = Int64OrNull(stream->due_at, &nulls[H_DUE_AT]);
	values[H_BLOCKED_AT] = Int64OrNull(stream->blocked_at, &nulls[H_BLOCKED_AT]);
	values[H_BLOCKED_UNTIL] = Int64OrNull(stream->blocked_until, &nulls[H_BLOCKED_UNTIL]);
	values[H_LEASE] = Int64OrNull(stream->lease, &nulls[H_LEASE]);
	values[H_DELIVERED_UPTO] = Int64OrNull(stream->delivered_upto, &nulls[H_DELIVERED_UPTO]);
	values[H_DELIVERIES] = DeliveriesToArray(&stream->deliveries);
	values[H_FORGIVEN] = Int32GetDatum(stream->forgiven);
	values[H_REASON] = TextOrNull(stream->reason, &nulls[H_REASON]);
	values[H_FAILED_CONSUMER] = TextOrNull(stream->failed_consumer, &nulls[H_FAILED_CONSUMER]);
	values[H_FAILED_AT] = Int64OrNull(stream->failed_at, &nulls[H_FAILED_AT]);
	OwnRowStore(STREAM_TABLE, &stream->tid, values, nulls);
}

void
HeldStreamDelete(HeldStream *stream)
{
	OwnRowDelete(STREAM_TABLE, &stream->tid);
}

/* Streams of a partition in the order of due_at, those that are parked last. */
static void
begin_due_scan(OwnScan *scan, const Subscription *sub, int partition,
			   StrategyNumber strategy, RegProcedure function, TimestampTz time)
{
	OwnScanInit(scan);
	OwnScanKeyText(scan, H_SUBSCRIPTION + 1, sub->name);
	if (partition != ALL_PARTITIONS)
		OwnScanKey(scan, H_PARTITION + 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(partition));
	if (strategy != InvalidStrategy)
		OwnScanKey(scan, H_DUE_AT + 1, strategy, function, TimestampTzGetDatum(time));
	OwnScanBegin(scan, STREAM_TABLE, STREAM_DUE_INDEX);
}

static HeldStream *
next_stream(OwnScan *scan)
{
	Datum		values[H_COLUMNS];
	bool		nulls[H_COLUMNS];
	HeapTuple	tuple = OwnScanNext(scan, values, nulls);
	HeldStream *stream;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	stream = palloc0(sizeof(HeldStream));
	stream->key.event_table = DatumGetObjectId(values[H_EVENT_TABLE]);
	stream->key.hash = (uint64) DatumGetInt64(values[H_STREAM_HASH]);
	stream->partition = DatumGetInt32(values[H_PARTITION]);
	stream->stream_id = TextDatumGetCString(values[H_STREAM_ID]);
	if (!nulls[H_DUE_AT])
		stream->due_at = DatumGetTimestampTz(values[H_DUE_AT]);
	if (!nulls[H_BLOCKED_AT])
		stream->blocked_at = DatumGetInt64(values[H_BLOCKED_AT]);
	if (!nulls[H_BLOCKED_UNTIL])
		stream->blocked_until = DatumGetTimestampTz(values[H_BLOCKED_UNTIL]);
	if (!nulls[H_LEASE])
		stream->lease = DatumGetInt64(values[H_LEASE]);
	if (!nulls[H_DELIVERED_UPTO])
		stream->delivered_upto = DatumGetInt64(values[H_DELIVERED_UPTO]);
	DeliveriesFromArray(&stream->deliveries, values[H_DELIVERIES]);
	stream->forgiven = DatumGetInt32(values[H_FORGIVEN]);
	if (!nulls[H_REASON])
		stream->reason = TextDatumGetCString(values[H_REASON]);
	if (!nulls[H_FAILED_CONSUMER])
		stream->failed_consumer = TextDatumGetCString(values[H_FAILED_CONSUMER]);
	if (!nulls[H_FAILED_AT])
		stream->failed_at = DatumGetTimestampTz(values[H_FAILED_AT]);
	stream->tid = tuple->t_self;
	return stream;
}

/*
 * Their events
 */

/* The first events of a stream up to a position, in order; with max 0 all of them. */
List *
QueueOfStream(const Subscription *sub, const StreamKey *key, int64 upto, int max)
{
	List	   *result = NIL;
	QueuedEvent *event;
	OwnScan		scan;

	OwnScanInit(&scan);
	OwnScanKeyText(&scan, Q_SUBSCRIPTION + 1, sub->name);
	OwnScanKey(&scan, Q_EVENT_TABLE + 1, BTEqualStrategyNumber, F_OIDEQ,
			   ObjectIdGetDatum(key->event_table));
	OwnScanKey(&scan, Q_STREAM_HASH + 1, BTEqualStrategyNumber, F_INT8EQ,
			   Int64GetDatum((int64) key->hash));
	OwnScanKey(&scan, Q_POSITION + 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	OwnScanBegin(&scan, QUEUE_TABLE, QUEUE_STREAM_INDEX);
	while ((max == 0 || list_length(result) < max) && (event = next_queued(&scan)) != NULL)
		result = lappend(result, event);
	OwnScanEnd(&scan);
	return result;
}

/* NULL if the event at a position is not in the queue. */
QueuedEvent *
QueueFind(const Subscription *sub, int partition, int64 position)
{
	QueuedEvent *event;
	OwnScan		scan;

	begin_queue_scan(&scan, sub, partition, BTEqualStrategyNumber, F_INT8EQ, position);
	event = next_queued(&scan);
	OwnScanEnd(&scan);
	return event;
}

/* The positions above one that are in the queue, in order. */
int64 *
QueuePositionsAbove(const Subscription *sub, int partition, int64 after, int *count)
{
	int64	   *result;
	OwnScan		scan;

	begin_queue_scan(&scan, sub, partition, BTGreaterStrategyNumber, F_INT8GT, after);
	result = OwnScanPositions(&scan, Q_POSITION, count);
	OwnScanEnd(&scan);
	return result;
}

/* Inserts an event, or replaces the row that it was read from. */
void
QueueStore(const Subscription *sub, QueuedEvent *event)
{
	Datum		values[Q_COLUMNS];
	bool		nulls[Q_COLUMNS] = {false};

	values[Q_SUBSCRIPTION] = CStringGetTextDatum(sub->name);
	values[Q_PARTITION] = Int32GetDatum(event->partition);
	values[Q_POSITION] = Int64GetDatum(event->position);
	values[Q_EVENT_TABLE] = ObjectIdGetDatum(event->key.event_table);
	values[Q_STREAM_HASH] = Int64GetDatum((int64) event->key.hash);
	values[Q_STREAM_ID] = CStringGetTextDatum(event->stream_id);
	values[Q_ID] = Int64GetDatum(event->id);
	values[Q_DELIVERIES] = Int32GetDatum(event->deliveries);
	OwnRowStore(QUEUE_TABLE, &event->tid, values, nulls);
}

void
QueueDelete(QueuedEvent *event)
{
	OwnRowDelete(QUEUE_TABLE, &event->tid);
}

static void
begin_queue_scan(OwnScan *scan, const Subscription *sub, int partition,
				 StrategyNumber strategy, RegProcedure function, int64 position)
{
	OwnScanInit(scan);
	OwnScanKeyText(scan, Q_SUBSCRIPTION + 1, sub->name);
	OwnScanKey(scan, Q_PARTITION + 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(partition));
	OwnScanKey(scan, Q_POSITION + 1, strategy, function, Int64GetDatum(position));
	OwnScanBegin(scan, QUEUE_TABLE, QUEUE_KEY);
}

static QueuedEvent *
next_queued(OwnScan *scan)
{
	Datum		values[Q_COLUMNS];
	bool		nulls[Q_COLUMNS];
	HeapTuple	tuple = OwnScanNext(scan, values, nulls);
	QueuedEvent *event;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	event = palloc0(sizeof(QueuedEvent));
	event->partition = DatumGetInt32(values[Q_PARTITION]);
	event->position = DatumGetInt64(values[Q_POSITION]);
	event->key.event_table = DatumGetObjectId(values[Q_EVENT_TABLE]);
	event->key.hash = (uint64) DatumGetInt64(values[Q_STREAM_HASH]);
	event->stream_id = TextDatumGetCString(values[Q_STREAM_ID]);
	event->id = DatumGetInt64(values[Q_ID]);
	event->deliveries = DatumGetInt32(values[Q_DELIVERIES]);
	event->tid = tuple->t_self;
	return event;
}

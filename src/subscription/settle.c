/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  What consumers say about the events they were handed: ack, nack, and
 *	  more or no more time for them.
 *
 * All of it names the lease.  It is refused when any partition of the lease
 * has been fetched by somebody while it had something out: the events of that
 * one will be, or have been, handled there.  The locks of those partitions are
 * kept until the transaction ends, so that nobody can take a lease that has
 * been found good.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "arguments.h"
#include "compat.h"
#include "miscadmin.h"
#include "subscription/subscription.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/* Pauses before a failed event is handed out again, in milliseconds. */
#define FIRST_PAUSE			1000
#define LONGEST_PAUSE		60000

/*
 * How long a partition is taken for the consumer's who has acknowledged all
 * of it: others leave it alone if they have enough to do.  In milliseconds.
 */
#define CUSTOM_TIME			10000

/* arguments of nack */
enum
{
	NACK_NAME,
	NACK_LEASE,
	NACK_POSITION,
	NACK_REASON,
	NACK_DELAY,
	NACK_PARK,
	NACK_NARGS
};

static const char *const nack_argument_names[NACK_NARGS] = {
	"name", "lease", "at_position", "reason", "delay", "park"
};

/* The partitions that still have a lease. */
typedef struct Lease
{
	int64		number;
	List	   *out;			/* Partition: has something out; locked */
	List	   *settled;		/* Partition: has not, and is anybody's; not locked */
	int64		end;			/* position of the last event */
} Lease;

/* An event that was handed out, and what there is to know about it. */
typedef struct Failure
{
	Subscription *sub;
	Lease		lease;
	Partition  *partition;		/* the event's */
	int64		position;
	StreamKey	key;
	HeldStream *stream;			/* NULL: not held yet */
	QueuedEvent *queued;		/* NULL: not in the queue yet */
	int			deliveries;
	bool		settled;		/* it was acknowledged, or is held, already */
} Failure;

static void lock_lease(Lease *lease, const Subscription *sub, int64 number);
static void find_partitions(Lease *lease, const Subscription *sub);
static void lock_partition(const Lease *lease, const Subscription *sub, Partition *partition);
static void check_nothing_was_taken(const Lease *lease, const Subscription *sub);
pg_noreturn static void report_lost_lease(const Subscription *sub, int64 lease);
static void check_lease_covers(const Lease *lease, int64 position);
static void store_partitions(const Subscription *sub, List *partitions);
static void settle_partition(const Subscription *sub, Partition *partition, int64 upto,
							 bool any_held);
static void find_failed(Failure *failure);
static Partition *find_partition(List *partitions, int number);
static void check_was_handed_out(Failure *failure);
static TimestampTz retry_time(FunctionCallInfo fcinfo, const Failure *failure);
static void excuse_others(Failure *failure);
static void queue_from(Failure *failure);

PG_FUNCTION_INFO_V1(daybook_ack);
PG_FUNCTION_INFO_V1(daybook_nack);
PG_FUNCTION_INFO_V1(daybook_extend_lease);
PG_FUNCTION_INFO_V1(daybook_release_lease);

/* A lease that is null belongs to an empty batch: there is nothing to do. */
Datum
daybook_ack(PG_FUNCTION_ARGS)
{
	Subscription *sub = SubscriptionForConsumer(SubscriptionBegin(fcinfo, "daybook.ack()"));
	int64		upto = PG_ARGISNULL(2) ? PG_INT64_MAX : PG_GETARG_INT64(2);
	Lease		lease;
	bool		any_held;
	ListCell   *lc;

	if (PG_ARGISNULL(1))
		PG_RETURN_VOID();
	lock_lease(&lease, sub, PG_GETARG_INT64(1));
	if (!PG_ARGISNULL(2))
		check_lease_covers(&lease, upto);
	any_held = PartitionHasHeld(sub, ALL_PARTITIONS);
	foreach(lc, lease.out)
		settle_partition(sub, lfirst(lc), upto, any_held);
	store_partitions(sub, lease.out);
	PG_RETURN_VOID();
}

/* Finds a lease and locks what it has out; an error if some of that is lost. */
static void
lock_lease(Lease *lease, const Subscription *sub, int64 number)
{
	ListCell   *lc;

	memset(lease, 0, sizeof(Lease));
	lease->number = number;
	find_partitions(lease, sub);
	foreach(lc, lease->out)
		lock_partition(lease, sub, lfirst(lc));
	check_nothing_was_taken(lease, sub);
}

static void
find_partitions(Lease *lease, const Subscription *sub)
{
	ListCell   *lc;

	foreach(lc, PartitionLoadAll(sub))
	{
		Partition  *partition = lfirst(lc);

		if (lease->number == 0 || partition->lease != lease->number)
			continue;
		lease->end = partition->lease_end;
		if (partition->outstanding)
			lease->out = lappend(lease->out, partition);
		else
			lease->settled = lappend(lease->settled, partition);
	}
}

static void
lock_partition(const Lease *lease, const Subscription *sub, Partition *partition)
{
	/* no use to wait for one who is taking what has expired */
	if (!PartitionTryLock(sub, partition->number))
	{
		if (partition->lease_until <= GetCurrentTimestamp())
			report_lost_lease(sub, lease->number);
		PartitionLock(sub, partition->number);
	}
	if (!PartitionReload(sub, partition) || partition->lease != lease->number)
		report_lost_lease(sub, lease->number);
}

/*
 * As many partitions must have something out as when the lease was written
 * last.  Those settled before that may have kept a higher number.
 */
static void
check_nothing_was_taken(const Lease *lease, const Subscription *sub)
{
	int			expected = INT_MAX;
	int			out = 0;
	ListCell   *lc;

	foreach(lc, lease->out)
	{
		Partition  *partition = lfirst(lc);

		expected = Min(expected, partition->lease_partitions);
		out += partition->outstanding;
	}
	foreach(lc, lease->settled)
		expected = Min(expected, ((Partition *) lfirst(lc))->lease_partitions);
	if (out != expected)
		report_lost_lease(sub, lease->number);
}

static void
report_lost_lease(const Subscription *sub, int64 lease)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("lease " INT64_FORMAT " of subscription \"%s\" has been lost", lease, sub->name),
			 errdetail("It was given back, or events under it have been fetched again since."),
			 errhint("Roll back what was done with its events, and fetch; give a longer lease if this happens often.")));
}

/* Whoever acknowledges what was never handed out has mixed something up. */
static void
check_lease_covers(const Lease *lease, int64 position)
{
	if (position > lease->end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position " INT64_FORMAT " was not handed out under lease " INT64_FORMAT,
						position, lease->number),
				 errdetail("The last event under it has position " INT64_FORMAT ".", lease->end)));
}

/* Writes the partitions of a lease that have or had something out. */
static void
store_partitions(const Subscription *sub, List *partitions)
{
	int			out = 0;
	ListCell   *lc;

	foreach(lc, partitions)
		out += ((Partition *) lfirst(lc))->outstanding;
	foreach(lc, partitions)
	{
		Partition  *partition = lfirst(lc);

		partition->lease_partitions = out;
		PartitionStore(sub, partition);
	}
}

/* Acknowledges what was handed out of a partition, up to a position; the caller stores it. */
static void
settle_partition(const Subscription *sub, Partition *partition, int64 upto, bool any_held)
{
	DatabaseState *db = MyDatabaseState();
	List	   *streams = any_held ? HeldStreamsOut(sub, partition) : NIL;
	ListCell   *lc;

	if (partition->last_delivered != 0)
	{
		if (upto >= partition->last_delivered)
		{
			partition->position = partition->scanned;
			partition->last_delivered = 0;
		}
		else
			partition->position = Max(partition->position, upto);
		DeliveriesSettle(&partition->deliveries, partition->position);
	}
	foreach(lc, streams)
		HeldStreamSettle(sub, lfirst(lc), upto);
	if (streams != NIL)
		streams = HeldStreamsOut(sub, partition);
	partition->outstanding = partition->last_delivered != 0 || streams != NIL;
	if (!partition->outstanding)
		partition->lease_until = Min(partition->lease_until,
									 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CUSTOM_TIME));

	/* there may be something for consumers that found the partition taken */
	if (!partition->outstanding &&
		(any_held || (db && pg_atomic_read_u64(&db->head) > partition->position)))
		ConsumersWakeAtCommit();
}

/*
 * nack
 */

Datum
daybook_nack(PG_FUNCTION_ARGS)
{
	Failure		failure = {0};
	HeldStream *stream;
	TimestampTz until;
	char	   *reason;

	for (int i = 0; i < NACK_NARGS; i++)
		if (i != NACK_DELAY)
			RefuseNull(&fcinfo->args[i], nack_argument_names[i]);
	reason = text_to_cstring(PG_GETARG_TEXT_PP(NACK_REASON));
	failure.sub = SubscriptionForConsumer(SubscriptionBegin(fcinfo, "daybook.nack()"));
	failure.position = PG_GETARG_INT64(NACK_POSITION);
	lock_lease(&failure.lease, failure.sub, PG_GETARG_INT64(NACK_LEASE));

	PushActiveSnapshot(GetLatestSnapshot());
	find_failed(&failure);
	stream = failure.stream;
	if (!failure.settled)
	{
		until = retry_time(fcinfo, &failure);
		excuse_others(&failure);
		HeldStreamBlock(stream, failure.position, until, reason, failure.partition->consumer);
		queue_from(&failure);
		store_partitions(failure.sub, failure.lease.out);
	}
	PopActiveSnapshot();
	until = stream->blocked_at ? stream->blocked_until : stream->due_at;
	if (until == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(until);
}

/* Finds out what is known of the event that failed. */
static void
find_failed(Failure *failure)
{
	LogEvent   *event;
	OwnerReader reader;
	int			number = -1;
	char	   *stream_id = NULL;

	OwnerReaderBegin(&reader, failure->sub, 0);
	event = failure->position > 0 ? OwnerReaderAt(&reader, failure->position) : NULL;
	if (event)
	{
		number = PartitionOfEvent(failure->sub, event, reader.event_desc, &failure->key);
		stream_id = EventStreamId(event, reader.event_desc);
	}
	OwnerReaderEnd(&reader);

	failure->partition = find_partition(failure->lease.out, number);
	if (failure->partition == NULL)
		failure->partition = find_partition(failure->lease.settled, number);
	if (failure->partition != NULL)
	{
		failure->stream = HeldStreamLoad(failure->sub, &failure->key);
		failure->queued = QueueFind(failure->sub, number, failure->position);
	}
	check_was_handed_out(failure);
	if (failure->stream == NULL)
		failure->stream = HeldStreamMake(&failure->key, number, stream_id);
}

static Partition *
find_partition(List *partitions, int number)
{
	ListCell   *lc;

	foreach(lc, partitions)
	{
		Partition  *partition = lfirst(lc);

		if (partition->number == number)
			return partition;
	}
	return NULL;
}

/*
 * The event must wait for its acknowledgement.  One that went into the queue
 * behind another one of its stream is held already.
 */
static void
check_was_handed_out(Failure *failure)
{
	Partition  *partition = failure->partition;
	HeldStream *stream = failure->stream;

	if (stream && failure->queued)
	{
		failure->deliveries = HeldEventDeliveries(stream, failure->queued);
		if (stream->blocked_at == failure->position)
			failure->deliveries -= stream->forgiven;
		failure->settled = !partition->outstanding || stream->lease != failure->lease.number ||
			failure->position > stream->delivered_upto;
		return;
	}
	if (partition && failure->position > partition->position &&
		failure->position <= partition->last_delivered &&
		!DiscardExists(failure->sub, failure->position))
	{
		failure->deliveries = DeliveriesOf(&partition->deliveries, failure->position);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("event at position " INT64_FORMAT " does not wait for an acknowledgement under lease " INT64_FORMAT,
					failure->position, failure->lease.number),
			 errdetail("It was not handed out under this lease, or has been acknowledged or discarded since.")));
}

/* When the event is handed out again, 0 if it is parked. */
static TimestampTz
retry_time(FunctionCallInfo fcinfo, const Failure *failure)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz result;

	if (PG_GETARG_BOOL(NACK_PARK) || failure->deliveries >= failure->sub->delivery_limit)
		return 0;
	if (PG_ARGISNULL(NACK_DELAY))
	{
		/* none are left to count where more than MAX_DELIVERIES have been forgiven */
		int			doublings = Max(failure->deliveries - 1, 0);

		return TimestampTzPlusMilliseconds(now, Min(FIRST_PAUSE << Min(doublings, 10),
													LONGEST_PAUSE));
	}
	result = TimestampTzPlusInterval(now, PG_GETARG_INTERVAL_P(NACK_DELAY));
	if (result < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delay must not be negative")));
	return result;
}

/* Now that it is known which event failed, the others are above suspicion. */
static void
excuse_others(Failure *failure)
{
	ListCell   *lc;

	foreach(lc, failure->lease.out)
	{
		Partition  *partition = lfirst(lc);
		ListCell   *ls;

		DeliveriesExcuse(&partition->deliveries);
		foreach(ls, HeldStreamsOut(failure->sub, partition))
		{
			HeldStream *stream = lfirst(ls);

			if (memcmp(&stream->key, &failure->key, sizeof(StreamKey)) == 0)
				continue;
			DeliveriesExcuse(&stream->deliveries);
			HeldStreamStore(failure->sub, stream);
		}
	}
	DeliveriesExcuse(&failure->stream->deliveries);
}

/*
 * Puts the event that failed, and what was handed out of its stream after it,
 * into the queue, and finds out what is left to be acknowledged.
 */
static void
queue_from(Failure *failure)
{
	const Subscription *sub = failure->sub;
	Partition  *partition = failure->partition;
	HeldStream *stream = failure->stream;
	int64		first = 0;
	int64		last = 0;
	OwnerReader reader;
	LogEvent   *event;

	OwnerReaderBegin(&reader, sub, partition->position);
	EventReaderLimit(reader.reader, partition->last_delivered - partition->position);
	while (partition->last_delivered != 0 && (event = OwnerReaderNext(&reader)) != NULL)
	{
		int64		position = event->entry.position;
		StreamKey	key;

		if (PartitionOfEvent(sub, event, reader.event_desc, &key) != partition->number ||
			QueueFind(sub, partition->number, position) != NULL ||
			DiscardExists(sub, position))
			continue;
		if (position >= failure->position && memcmp(&key, &failure->key, sizeof(key)) == 0)
		{
			QueuedEvent queued = {
				.partition = partition->number,
				.position = position,
				.key = key,
				.stream_id = EventStreamId(event, reader.event_desc),
				.id = event->entry.id,
				.deliveries = DeliveriesOf(&partition->deliveries, position)
			};

			QueueStore(sub, &queued);
			continue;
		}
		if (first == 0)
			first = position;
		last = position;
	}
	OwnerReaderEnd(&reader);

	/* of what came from the queue, the part before the failed event is still out */
	if (stream->lease == failure->lease.number)
		stream->delivered_upto = failure->position - 1;
	if (QueueOfStream(sub, &stream->key, stream->delivered_upto, 1) == NIL)
		stream->lease = stream->delivered_upto = 0;
	HeldStreamUpdate(sub, stream);
	partition->position = first ? first - 1 : partition->scanned;
	partition->last_delivered = last;
	partition->outstanding = last != 0 || HeldStreamsOut(sub, partition) != NIL;
	ConsumersWakeAtCommit();
}

/*
 * More time, or none
 */

Datum
daybook_extend_lease(PG_FUNCTION_ARGS)
{
	Subscription *sub = SubscriptionForConsumer(SubscriptionBegin(fcinfo, "daybook.extend_lease()"));
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until;
	Lease		lease;
	ListCell   *lc;

	RefuseNull(&fcinfo->args[1], "lease");
	RefuseNull(&fcinfo->args[2], "duration");
	until = TimestampTzPlusInterval(now, PG_GETARG_INTERVAL_P(2));
	if (until <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("duration must be longer than nothing")));
	lock_lease(&lease, sub, PG_GETARG_INT64(1));
	foreach(lc, lease.out)
	{
		Partition  *partition = lfirst(lc);

		partition->lease_until = until;
		PartitionStore(sub, partition);
	}
	PG_RETURN_TIMESTAMPTZ(until);
}

Datum
daybook_release_lease(PG_FUNCTION_ARGS)
{
	Subscription *sub = SubscriptionForConsumer(SubscriptionBegin(fcinfo, "daybook.release_lease()"));
	Lease		lease;
	ListCell   *lc;

	if (PG_ARGISNULL(1))
		PG_RETURN_VOID();
	lock_lease(&lease, sub, PG_GETARG_INT64(1));
	foreach(lc, lease.out)
	{
		Partition  *partition = lfirst(lc);
		ListCell   *ls;

		DeliveriesExcuse(&partition->deliveries);
		foreach(ls, HeldStreamsOut(sub, partition))
		{
			HeldStream *stream = lfirst(ls);

			DeliveriesExcuse(&stream->deliveries);
			stream->lease = 0;
			stream->delivered_upto = 0;
			HeldStreamStore(sub, stream);
		}
		partition->lease = 0;
		partition->lease_until = 0;
		partition->consumer = NULL;
		partition->last_delivered = 0;
		partition->outstanding = false;
		PartitionStore(sub, partition);
	}
	ConsumersWakeAtCommit();
	PG_RETURN_VOID();
}

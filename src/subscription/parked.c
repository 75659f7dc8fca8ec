/*-------------------------------------------------------------------------
 *
 * parked.c
 *	  What operators do about parked events: have them handed out again, or
 *	  give them up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "arguments.h"
#include "miscadmin.h"
#include "subscription/subscription.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

static HeldStream *lock_stream(const Subscription *sub, const StreamKey *key, Partition *partition);
static void retry_stream(const Subscription *sub, HeldStream *stream);
static QueuedEvent *find_queued(const Subscription *sub, int64 position);

PG_FUNCTION_INFO_V1(daybook_subscription_retry_parked);
PG_FUNCTION_INFO_V1(daybook_subscription_discard_parked);

Datum
daybook_subscription_retry_parked(PG_FUNCTION_ARGS)
{
	Subscription *sub = SubscriptionForOwner(SubscriptionBegin(fcinfo, "daybook.subscription_retry_parked()"));
	char	   *stream_id = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	int64		streams = 0;
	ListCell   *lc;

	foreach(lc, HeldStreamsAll(sub))
	{
		HeldStream *stream = lfirst(lc);
		Partition	partition;

		if ((stream_id && strcmp(stream->stream_id, stream_id) != 0) ||
			(!PG_ARGISNULL(2) && stream->key.event_table != PG_GETARG_OID(2)))
			continue;
		/* it may have changed while this waited for the lock */
		stream = lock_stream(sub, &stream->key, &partition);
		if (stream == NULL || stream->blocked_at == 0)
			continue;
		retry_stream(sub, stream);
		PartitionStore(sub, &partition);
		streams++;
	}
	ConsumersWakeAtCommit();
	PG_RETURN_INT64(streams);
}

/* Locks a stream's partition and reads both again; NULL if it is held no more. */
static HeldStream *
lock_stream(const Subscription *sub, const StreamKey *key, Partition *partition)
{
	HeldStream *stream = HeldStreamLoad(sub, key);

	if (stream == NULL)
		return NULL;
	PartitionLock(sub, stream->partition);
	partition->number = stream->partition;
	if (!PartitionReload(sub, partition))
		return NULL;
	return HeldStreamLoad(sub, key);
}

/* The event that failed goes out alone, as often as a new one may, and then the others. */
static void
retry_stream(const Subscription *sub, HeldStream *stream)
{
	QueuedEvent *event = QueueFind(sub, stream->partition, stream->blocked_at);

	if (event)
		stream->forgiven = HeldEventDeliveries(stream, event);
	DeliveriesExcuseAll(&stream->deliveries);
	stream->blocked_until = GetCurrentTimestamp();
	HeldStreamUpdate(sub, stream);
}

Datum
daybook_subscription_discard_parked(PG_FUNCTION_ARGS)
{
	Subscription *sub;
	QueuedEvent *event;
	HeldStream *stream = NULL;
	Partition	partition;
	char	   *reason;
	int64		position;

	RefuseNull(&fcinfo->args[1], "at_position");
	RefuseNull(&fcinfo->args[2], "reason");
	sub = SubscriptionForOwner(SubscriptionBegin(fcinfo, "daybook.subscription_discard_parked()"));
	position = PG_GETARG_INT64(1);
	reason = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (reason[strspn(reason, " \t\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a parked event is discarded for a reason only"),
				 errhint("Say why: it is recorded.")));

	event = find_queued(sub, position);
	if (event)
		stream = lock_stream(sub, &event->key, &partition);
	event = stream ? QueueFind(sub, partition.number, position) : NULL;
	if (event == NULL || stream->due_at != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event at position " INT64_FORMAT " of subscription \"%s\" is not parked",
						position, sub->name),
				 event ? errdetail("Its stream \"%s\" is to be tried again.", event->stream_id) : 0,
				 errhint("See daybook.subscription_parked.")));

	DiscardStore(sub, stream, event, reason);
	QueueDelete(event);
	if (stream->blocked_at == position)
		HeldStreamUnblock(stream);
	HeldStreamUpdate(sub, stream);
	PartitionStore(sub, &partition);
	ConsumersWakeAtCommit();
	PG_RETURN_VOID();
}

/* An event of the queue, whatever its partition. */
static QueuedEvent *
find_queued(const Subscription *sub, int64 position)
{
	QueuedEvent *event = NULL;

	for (int i = 0; i < sub->partitions && event == NULL; i++)
		event = QueueFind(sub, i, position);
	return event;
}

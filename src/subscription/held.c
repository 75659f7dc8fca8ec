/*-------------------------------------------------------------------------
 *
 * held.c
 *	  What becomes of a stream in which an event could not be handled.
 *
 * The event blocks its stream: what is before it in the queue goes out, it
 * goes out itself when its time has come, alone, and what is behind it only
 * after it was acknowledged or discarded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "subscription/subscription.h"
#include "utils/timestamp.h"

/* A stream that is not held yet; the caller puts its events into the queue. */
HeldStream *
HeldStreamMake(const StreamKey *key, int partition, const char *stream_id)
{
	HeldStream *stream = palloc0(sizeof(HeldStream));

	stream->key = *key;
	stream->partition = partition;
	stream->stream_id = pstrdup(stream_id);
	return stream;
}

/* Lets an event block its stream until a time, or for good if that is 0. */
void
HeldStreamBlock(HeldStream *stream, int64 position, TimestampTz until,
				const char *reason, const char *consumer)
{
	if (stream->blocked_at != position)
		stream->forgiven = 0;
	stream->blocked_at = position;
	stream->blocked_until = until;
	stream->reason = pstrdup(reason);
	stream->failed_consumer = consumer ? pstrdup(consumer) : NULL;
	stream->failed_at = GetCurrentTimestamp();
}

void
HeldStreamUnblock(HeldStream *stream)
{
	stream->blocked_at = 0;
	stream->blocked_until = 0;
	stream->forgiven = 0;
	stream->reason = NULL;
	stream->failed_consumer = NULL;
	stream->failed_at = 0;
}

/*
 * Writes a stream after a change to it or to its queue; one that has nothing
 * left in the queue is held no more.
 */
void
HeldStreamUpdate(const Subscription *sub, HeldStream *stream)
{
	List	   *queue = QueueOfStream(sub, &stream->key, PG_INT64_MAX, 1);
	int64		first;

	if (queue == NIL)
	{
		if (ItemPointerIsValid(&stream->tid))
			HeldStreamDelete(stream);
		return;
	}
	first = ((QueuedEvent *) linitial(queue))->position;
	if (stream->blocked_at < first)
		HeldStreamUnblock(stream);
	/* those that had their turn line up behind the others */
	stream->due_at = stream->blocked_at == first ? stream->blocked_until : GetCurrentTimestamp();
	HeldStreamStore(sub, stream);
}

/*
 * Acknowledges what was handed out of a stream under its lease, up to a
 * position.
 */
void
HeldStreamSettle(const Subscription *sub, HeldStream *stream, int64 upto)
{
	ListCell   *lc;

	upto = Min(upto, stream->delivered_upto);
	foreach(lc, QueueOfStream(sub, &stream->key, upto, 0))
		QueueDelete(lfirst(lc));
	DeliveriesSettle(&stream->deliveries, upto);
	if (upto == stream->delivered_upto)
	{
		stream->lease = 0;
		stream->delivered_upto = 0;
	}
	HeldStreamUpdate(sub, stream);
}

/* How often an event in the queue has been handed out. */
int
HeldEventDeliveries(const HeldStream *stream, const QueuedEvent *event)
{
	return event->deliveries + DeliveriesOf(&stream->deliveries, event->position);
}

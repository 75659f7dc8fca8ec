/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Reads what one fetch hands out, and writes down that it was.
 *
 * A batch takes the events of held streams that are due out of the queue, and
 * those above the partitions' positions out of the log, in the order of their
 * positions.  Events that meet their stream held go into the queue, so that
 * the others need not wait.  An event of the queue is handed out only when its
 * partition's position has come to it: earlier ones of its stream may still be
 * in the log's part.
 *
 * When consumers fail without saying at which event, batches become smaller
 * until the first event of the partition is handed out alone; if that fails
 * too, once it has been handed out as often as the subscription allows, it is
 * parked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "daybook.h"
#include "error_class.h"
#include "miscadmin.h"
#include "position_list.h"
#include "storage/bufmgr.h"
#include "subscription/batch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define LEASE_SEQUENCE		"subscription_lease_seq"

/* Events that one batch moves into the queue, at most. */
#define MAX_QUEUED			1000

/*
 * Positions that one batch passes, at most: what it has found is worth more
 * than to be full, and that there was nothing is remembered in between.
 */
#define MAX_SCANNED			100000

/* daybook.delivery: the columns of daybook.log_event, then these */
#define DELIVERY_PARTITION	LOG_EVENT_NATTS
#define DELIVERY_DELIVERY	(LOG_EVENT_NATTS + 1)
#define DELIVERY_LEASE		(LOG_EVENT_NATTS + 2)
#define DELIVERY_NATTS		(LOG_EVENT_NATTS + 3)

/* A stream that the batch has met. */
typedef struct BatchStream
{
	StreamKey	key;			/* hash key */
	HeldStream *row;			/* NULL: it is not held */
	int64		first;			/* position of its first event in the queue */
	bool		exhausted;		/* all it has in the queue is in the batch */
	int64		delivered_upto; /* last of these, 0: none */
	bool		stuck;			/* the next that it has in the queue cannot be read */
} BatchStream;

/* An event of the queue that the batch may hand out. */
typedef struct HeldEvent
{
	BatchPartition *part;
	BatchStream *stream;
	QueuedEvent *event;
} HeldEvent;

static void prepare_partition(Batch *batch, BatchPartition *part);
static void gather_due(Batch *batch, BatchPartition *part);
static int	gather_stream(Batch *batch, BatchPartition *part, HeldStream *row);
static bool gather_event(Batch *batch, BatchPartition *part, BatchStream *stream, QueuedEvent *event);
static void isolate_suspects(Batch *batch);
static int	compare_held(const ListCell *a, const ListCell *b);
static int64 read_log(Batch *batch);
static bool is_full(const Batch *batch);
static void take_held(Batch *batch, int64 before);
static void leave_unreadable(Batch *batch, BatchStream *stream, LogEvent *event);
static bool take_logged(Batch *batch, LogEvent *event);
static bool may_park(const Batch *batch, const LogEvent *event);
static char *unreadable_reason(const LogEvent *event);
static BatchStream *stream_to_park(Batch *batch, BatchPartition *part, BatchStream *stream,
								   const StreamKey *key, const LogEvent *event);
static bool is_set_aside(const Batch *batch, const BatchPartition *part, int64 position);
static BatchStream *enter_stream(Batch *batch, const StreamKey *key, HeldStream *row);
static BatchStream *find_held(Batch *batch, BatchPartition *part, const StreamKey *key);
static void park_suspect(Batch *batch, BatchPartition *part, BatchStream *stream, int64 position);
static void park(BatchPartition *part, BatchStream *stream, int64 position,
				 const char *reason, const char *consumer);
static void put_into_queue(Batch *batch, BatchPartition *part, const LogEvent *event,
						   const StreamKey *key);
static void hand_out(Batch *batch, BatchPartition *part, const LogEvent *event,
					 TupleDesc event_desc, int delivery);
static int64 next_lease(void);
static void lease_partition(Batch *batch, BatchPartition *part, int lease_partitions,
							TimestampTz now, TimestampTz until);

void
BatchRead(Batch *batch)
{
	HASHCTL		ctl = {
		.keysize = sizeof(StreamKey),
		.entrysize = sizeof(BatchStream),
		.hcxt = CurrentMemoryContext
	};
	ListCell   *lc;
	int64		after = PG_INT64_MAX;
	int64		done;

	batch->streams = hash_create("streams of a batch", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	batch->by_number = palloc0(sizeof(BatchPartition *) * batch->sub->partitions);
	batch->any_held = PartitionHasHeld(batch->sub, ALL_PARTITIONS);
	foreach(lc, batch->partitions)
	{
		BatchPartition *part = lfirst(lc);

		prepare_partition(batch, part);
		after = Min(after, part->partition->position);
	}
	batch->discarded = DiscardPositionsAbove(batch->sub, after, &batch->ndiscarded);
	isolate_suspects(batch);
	list_sort(batch->held, compare_held);
	done = read_log(batch);
	foreach(lc, batch->partitions)
	{
		BatchPartition *part = lfirst(lc);

		part->scanned = Max(part->start, done);
	}
}

bool
BatchChanges(const BatchPartition *part)
{
	/* what the queue has beyond the position can only be handed out once that has moved */
	bool		overtaken = part->first_logged == 0 && part->nqueued > 0 &&
		part->queued[0] <= part->scanned;

	return part->events > 0 || part->to_queue != NIL || part->gone != NIL ||
		part->streams != NIL || part->partition->outstanding || overtaken;
}

/*
 * Reading
 */

static void
prepare_partition(Batch *batch, BatchPartition *part)
{
	Partition  *partition = part->partition;

	part->has_held = batch->any_held && PartitionHasHeld(batch->sub, partition->number);
	part->suspicion = DeliveriesSuspicious(&partition->deliveries, partition->position + 1);
	if (part->has_held)
	{
		part->queued = QueuePositionsAbove(batch->sub, partition->number,
										   partition->position, &part->nqueued);
		gather_due(batch, part);
	}
}

/* Looks for events of the queue whose time has come. */
static void
gather_due(Batch *batch, BatchPartition *part)
{
	int			wanted = batch->max_events;
	ListCell   *lc;

	foreach(lc, HeldStreamsDue(batch->sub, part->partition->number, GetCurrentTimestamp(), wanted))
	{
		wanted -= gather_stream(batch, part, lfirst(lc));
		if (wanted <= 0)
			break;
	}
}

/* Returns the number of events that the stream adds. */
static int
gather_stream(Batch *batch, BatchPartition *part, HeldStream *row)
{
	BatchStream *stream = enter_stream(batch, &row->key, row);
	List	   *queue = QueueOfStream(batch->sub, &row->key, PG_INT64_MAX, batch->max_events + 1);
	int			taken = 0;
	ListCell   *lc;

	foreach(lc, queue)
	{
		QueuedEvent *event = lfirst(lc);

		/* what has failed before goes out alone */
		if (event->position > part->partition->position || taken == batch->max_events ||
			(event->position == row->blocked_at && taken > 0) ||
			!gather_event(batch, part, stream, event))
			break;
		taken++;
		if (event->position == row->blocked_at)
			break;
	}
	stream->exhausted = lc == NULL;
	return taken;
}

/* False if the event has to be parked instead. */
static bool
gather_event(Batch *batch, BatchPartition *part, BatchStream *stream, QueuedEvent *event)
{
	int			limit = batch->sub->delivery_limit;
	int			suspicion = DeliveriesSuspicious(&stream->row->deliveries, event->position);
	HeldEvent  *held;

	if (suspicion >= limit)
	{
		park_suspect(batch, part, stream, event->position);
		return false;
	}
	part->suspicion = Max(part->suspicion, suspicion);
	held = palloc(sizeof(HeldEvent));
	held->part = part;
	held->stream = stream;
	held->event = event;
	batch->held = lappend(batch->held, held);
	return true;
}

/*
 * A partition whose first event may be what consumers die of is read without
 * others, and the less of it the more often that happened.
 */
static void
isolate_suspects(Batch *batch)
{
	BatchPartition *first = linitial(batch->partitions);
	int			limit = batch->sub->delivery_limit;
	ListCell   *lc;

	foreach(lc, batch->partitions)
	{
		BatchPartition *part = lfirst(lc);

		if (part != first && (first->suspicion > 0 || part->suspicion > 0))
		{
			batch->postponed = lappend(batch->postponed, part->partition);
			batch->partitions = foreach_delete_current(batch->partitions, lc);
		}
		else
			batch->by_number[part->partition->number] = part;
	}
	foreach(lc, batch->held)
	{
		BatchPartition *part = ((HeldEvent *) lfirst(lc))->part;

		if (batch->by_number[part->partition->number] == NULL)
			batch->held = foreach_delete_current(batch->held, lc);
	}
	if (first->suspicion >= limit - 1)
		batch->max_events = 1;
	else
		batch->max_events = Max(batch->max_events >> Min(first->suspicion, 30), 1);
}

static int
compare_held(const ListCell *a, const ListCell *b)
{
	int64		x = ((HeldEvent *) lfirst(a))->event->position;
	int64		y = ((HeldEvent *) lfirst(b))->event->position;

	return x < y ? -1 : x > y;
}

/* Returns the position up to which the log has been dealt with. */
static int64
read_log(Batch *batch)
{
	int64		done = PG_INT64_MAX;
	int64		end;
	LogEvent   *event;
	ListCell   *lc;

	foreach(lc, batch->partitions)
		done = Min(done, ((BatchPartition *) lfirst(lc))->start);
	OwnerReaderBegin(&batch->queue, batch->sub, done);
	OwnerReaderBegin(&batch->log, batch->sub, done);
	EventReaderLimit(batch->log.reader, MAX_SCANNED);
	end = done + MAX_SCANNED;
	batch->unfinished = true;
	while (!is_full(batch))
	{
		EventReaderExpect(batch->log.reader, batch->max_events - batch->count);
		event = OwnerReaderNext(&batch->log);
		take_held(batch, event ? event->entry.position : PG_INT64_MAX);
		if (event == NULL)
		{
			done = EventReaderPosition(batch->log.reader);
			batch->unfinished = done >= end || is_full(batch);
		}
		if (event == NULL || is_full(batch) || !take_logged(batch, event))
			break;
		done = event->entry.position;
	}
	return done;
}

void
BatchEnd(Batch *batch, bool handed_out)
{
	void		(*end) (OwnerReader *reader) = handed_out ? OwnerReaderEnd : OwnerReaderDiscard;

	if (batch->partitions == NIL)
		return;
	end(&batch->log);
	end(&batch->queue);
}

static bool
is_full(const Batch *batch)
{
	return batch->count >= batch->max_events || batch->queued >= MAX_QUEUED;
}

/* Hands out the events of the queue that come before a position. */
static void
take_held(Batch *batch, int64 before)
{
	while (batch->next_held < list_length(batch->held) && !is_full(batch))
	{
		HeldEvent  *held = list_nth(batch->held, batch->next_held);
		BatchPartition *part = held->part;
		LogEvent   *event;

		if (held->event->position >= before)
			break;
		batch->next_held++;
		if (held->stream->stuck)
			continue;
		part->streams = list_append_unique_ptr(part->streams, held->stream);
		event = OwnerReaderAt(&batch->queue, held->event->position);
		if (event == NULL)
		{
			part->gone = lappend(part->gone, held->event);
			continue;
		}
		if (event->error != NULL)
		{
			leave_unreadable(batch, held->stream, event);
			continue;
		}
		hand_out(batch, part, event, batch->queue.event_desc,
				 HeldEventDeliveries(held->stream->row, held->event) + 1);
		held->stream->delivered_upto = held->event->position;
	}
}

/* An event of the queue that cannot be read goes on blocking its stream. */
static void
leave_unreadable(Batch *batch, BatchStream *stream, LogEvent *event)
{
	if (may_park(batch, event))
		HeldStreamBlock(stream->row, event->entry.position, 0, unreadable_reason(event), NULL);
	stream->stuck = true;
	stream->exhausted = false;
}

/*
 * Hands out an event of the log, or has it put into the queue; false if the
 * batch has to end before it.
 */
static bool
take_logged(Batch *batch, LogEvent *event)
{
	int			limit = batch->sub->delivery_limit;
	int64		position = event->entry.position;
	StreamKey	key;
	BatchPartition *part;
	BatchStream *stream;
	bool		queues;

	part = batch->by_number[PartitionOfEvent(batch->sub, event, batch->log.event_desc, &key)];
	if (part == NULL || position <= part->start || is_set_aside(batch, part, position))
		return true;

	stream = find_held(batch, part, &key);
	if (stream == NULL &&
		DeliveriesSuspicious(&part->partition->deliveries, position) >= limit)
	{
		stream = stream_to_park(batch, part, stream, &key, event);
		park_suspect(batch, part, stream, position);
	}
	queues = stream && position >= stream->first && !stream->exhausted;
	if (!queues && event->error != NULL)
	{
		if (!may_park(batch, event))
			return false;
		stream = stream_to_park(batch, part, stream, &key, event);
		park(part, stream, position, unreadable_reason(event), NULL);
		queues = true;
	}
	if (queues)
	{
		put_into_queue(batch, part, event, &key);
		return true;
	}
	hand_out(batch, part, event, batch->log.event_desc,
			 DeliveriesOf(&part->partition->deliveries, position) + 1);
	part->last_logged = position;
	if (part->first_logged == 0)
		part->first_logged = position;
	return true;
}

/*
 * Whether an event whose upcaster fails can be set aside.  If the reason is
 * not in the event, what is before it is handed out, and then the consumer is
 * told.
 */
static bool
may_park(const Batch *batch, const LogEvent *event)
{
	if (!ErrorIsForeign(event->error->sqlerrcode))
		return true;
	if (batch->count == 0)
		ReThrowError(event->error);
	return false;
}

static char *
unreadable_reason(const LogEvent *event)
{
	const ErrorData *error = event->error;

	return psprintf("upcaster failed with SQLSTATE %s: %s%s%s",
					unpack_sql_state(error->sqlerrcode), error->message ? error->message : "",
					error->context ? "\n" : "", error->context ? error->context : "");
}

static BatchStream *
stream_to_park(Batch *batch, BatchPartition *part, BatchStream *stream,
			   const StreamKey *key, const LogEvent *event)
{
	if (stream != NULL)
		return stream;
	return enter_stream(batch, key,
						HeldStreamMake(key, part->partition->number,
									   EventStreamId(event, batch->log.event_desc)));
}

/* Is this event of the log in the queue, or was it there and has been given up? */
static bool
is_set_aside(const Batch *batch, const BatchPartition *part, int64 position)
{
	return PositionIsAmong(part->queued, part->nqueued, position) ||
		PositionIsAmong(batch->discarded, batch->ndiscarded, position);
}

static BatchStream *
enter_stream(Batch *batch, const StreamKey *key, HeldStream *row)
{
	BatchStream *stream = hash_search(batch->streams, key, HASH_ENTER, NULL);
	List	   *queue = row ? QueueOfStream(batch->sub, key, PG_INT64_MAX, 1) : NIL;

	stream->row = row;
	stream->first = queue ? ((QueuedEvent *) linitial(queue))->position : 0;
	stream->exhausted = false;
	stream->delivered_upto = 0;
	stream->stuck = false;
	return stream;
}

/* NULL if the stream is not held. */
static BatchStream *
find_held(Batch *batch, BatchPartition *part, const StreamKey *key)
{
	BatchStream *stream = hash_search(batch->streams, key, HASH_FIND, NULL);

	if (stream == NULL && part->has_held)
		stream = enter_stream(batch, key, HeldStreamLoad(batch->sub, key));
	return stream && stream->row ? stream : NULL;
}

/* An event that was handed out in vain too often, without a word, is parked. */
static void
park_suspect(Batch *batch, BatchPartition *part, BatchStream *stream, int64 position)
{
	park(part, stream, position,
		 psprintf("handed out %d times without an acknowledgement", batch->sub->delivery_limit),
		 part->partition->consumer);
}

static void
park(BatchPartition *part, BatchStream *stream, int64 position,
	 const char *reason, const char *consumer)
{
	HeldStreamBlock(stream->row, position, 0, reason, consumer);
	if (stream->first == 0 || stream->first > position)
		stream->first = position;
	stream->exhausted = false;
	part->streams = list_append_unique_ptr(part->streams, stream);
}

static void
put_into_queue(Batch *batch, BatchPartition *part, const LogEvent *event, const StreamKey *key)
{
	QueuedEvent *queued = palloc0(sizeof(QueuedEvent));

	queued->partition = part->partition->number;
	queued->position = event->entry.position;
	queued->key = *key;
	queued->stream_id = EventStreamId(event, batch->log.event_desc);
	queued->id = event->entry.id;
	queued->deliveries = DeliveriesOf(&part->partition->deliveries, event->entry.position);
	part->to_queue = lappend(part->to_queue, queued);
	batch->queued++;
}

static void
hand_out(Batch *batch, BatchPartition *part, const LogEvent *event, TupleDesc event_desc,
		 int delivery)
{
	Datum		values[DELIVERY_NATTS];
	bool		nulls[DELIVERY_NATTS] = {false};

	if (batch->lease == 0)
		batch->lease = next_lease();
	LogEventValues(event, event_desc, values, nulls);
	values[DELIVERY_PARTITION] = Int32GetDatum(part->partition->number);
	values[DELIVERY_DELIVERY] = Int32GetDatum(delivery);
	values[DELIVERY_LEASE] = Int64GetDatum(batch->lease);
	tuplestore_putvalues(batch->rows, batch->desc, values, nulls);
	part->events++;
	batch->count++;
	batch->last_position = event->entry.position;
}

/*
 * Writing
 */

/*
 * A partition that has changed gets the new lease even if none of its events
 * is handed out: who had it before must not acknowledge what is parked now.
 */
void
BatchLease(Batch *batch, TimestampTz now, TimestampTz until)
{
	int			lease_partitions = 0;
	ListCell   *lc;

	if (batch->lease == 0)
		batch->lease = next_lease();
	foreach(lc, batch->partitions)
		lease_partitions += ((BatchPartition *) lfirst(lc))->events > 0;
	foreach(lc, batch->partitions)
	{
		if (BatchChanges(lfirst(lc)))
			lease_partition(batch, lfirst(lc), lease_partitions, now, until);
	}
}

/*
 * A number that is not given again, even if a crash takes this transaction
 * back: its consumer may come with it.  Sequences are logged once for many
 * numbers, so there is seldom something to flush.
 */
static int64
next_lease(void)
{
	Oid			sequence = DaybookRelation(LEASE_SEQUENCE);
	int64		lease = nextval_internal(sequence, false);
	Relation	rel = relation_open(sequence, AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, 0);
	XLogRecPtr	logged;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	logged = PageGetLSN(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	XLogFlush(logged);
	return lease;
}

static void
lease_partition(Batch *batch, BatchPartition *part, int lease_partitions,
				TimestampTz now, TimestampTz until)
{
	Partition  *partition = part->partition;
	ListCell   *lc;

	foreach(lc, part->to_queue)
		QueueStore(batch->sub, lfirst(lc));
	foreach(lc, part->gone)
		QueueDelete(lfirst(lc));
	foreach(lc, part->streams)
	{
		BatchStream *stream = lfirst(lc);

		if (stream->delivered_upto != 0)
		{
			stream->row->lease = batch->lease;
			stream->row->delivered_upto = stream->delivered_upto;
			DeliveriesAdd(&stream->row->deliveries, stream->delivered_upto);
		}
		HeldStreamUpdate(batch->sub, stream->row);
	}

	partition->position = part->first_logged ? part->first_logged - 1 : part->scanned;
	DeliveriesSettle(&partition->deliveries, partition->position);
	partition->last_delivered = part->last_logged;
	if (part->last_logged)
		DeliveriesAdd(&partition->deliveries, part->last_logged);
	partition->scanned = part->scanned;
	partition->lease = batch->lease;
	partition->lease_partitions = lease_partitions;
	partition->lease_end = batch->last_position;
	partition->outstanding = part->events > 0;
	partition->consumer = unconstify(char *, batch->consumer);
	partition->leased_at = now;
	partition->lease_until = until;
	PartitionStore(batch->sub, partition);
}

/*-------------------------------------------------------------------------
 *
 * fetch.c
 *	  fetch(): which partitions a consumer gets, and waiting for events.
 *
 * A consumer may take any partition whose events are not out with somebody
 * else.  It begins with those it had last, up to its fair share, and turns to
 * others when these have nothing, so that each keeps to its own under load and
 * nobody is idle while there is work.
 *
 * Partitions are read without locks.  Those that have something are locked
 * and looked at again, and what was read is thrown away if another consumer
 * came first.  So a lock is only ever held by a transaction that hands out or
 * acknowledges, and nobody waits for one who finds nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "arguments.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sequencer/log_scan.h"
#include "subscription/batch.h"
#include "subscription/subscription.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How often a session notes down positions that moved without events, in milliseconds. */
#define NOTE_PAUSE				1000

/*
 * How far they have to move for that: when there is nothing to hand out, when
 * there is, and when there is not in a transaction block, which keeps the locks
 * for longer.
 */
#define NOTE_DISTANCE_IDLE		1
#define NOTE_DISTANCE_BUSY		1000
#define NOTE_DISTANCE_IN_BLOCK	10000

/* arguments of fetch */
enum
{
	FETCH_NAME,
	FETCH_MAX_EVENTS,
	FETCH_CONSUMER,
	FETCH_LEASE,
	FETCH_WAIT,
	FETCH_NARGS
};

static const char *const argument_names[FETCH_NARGS] = {
	"name", "max_events", "consumer", "lease", "wait"
};

/* A call of fetch. */
typedef struct Fetch
{
	const char *name;
	int			max_events;
	const char *consumer;
	Interval   *lease;
	TimestampTz wait_until;
	bool		waits;
	ReturnSetInfo *result;

	/* of the present round */
	Subscription *sub;
	List	   *candidates;		/* Partition, the best first */
	int			share;			/* of the partitions, for each consumer */
	bool		wrote;			/* something that the commit should not be kept waiting for */
	bool		again;			/* another consumer was faster, look again */
	List	   *idle;			/* BatchPartition: read up to a point, with nothing there; the last first */
	TimestampTz round_started;
	TimestampTz next_due;		/* when something may come without being announced */
} Fetch;

/* What a session knows: in (position, scanned] the log has nothing for a partition. */
typedef struct ScannedKey
{
	char		name[NAMEDATALEN];
	TimestampTz created_at;
	int			partition;
} ScannedKey;

typedef struct Scanned
{
	ScannedKey	key;			/* hash key */
	int64		position;
	int64		scanned;
	TimestampTz noted_at;		/* when the position was written last, 0: never */
} Scanned;

/* A consumer that has partitions now. */
typedef struct Owner
{
	const char *name;
	int			partitions;
} Owner;

/* How much a consumer wants a partition. */
typedef enum Preference
{
	PARTITION_OWN,
	PARTITION_FREE,
	PARTITION_OF_RICHER,		/* of one that has more than its share */
	PARTITION_OF_OTHER,
	PARTITION_BUSY
} Preference;

typedef struct Choice
{
	Partition  *partition;
	Preference	preference;
	int64		order;			/* among those of the same preference */
} Choice;

static void fetch_init(Fetch *fetch, FunctionCallInfo fcinfo);
static int	fetch_round(Fetch *fetch);
static void check_positions(Fetch *fetch, List *partitions);
static void find_candidates(Fetch *fetch, List *partitions);
static List *live_owners(Fetch *fetch, List *partitions, TimestampTz now);
static Owner *find_owner(List *owners, const char *name);
static Preference preference_for(Fetch *fetch, const Partition *partition, List *owners,
								 TimestampTz now);
static int	compare_choices(const void *a, const void *b);
static List *next_group(Fetch *fetch);
static int	hand_out_group(Fetch *fetch, List *group);
static Batch *read_batch(Fetch *fetch, List *group);
static List *changed_partitions(Fetch *fetch, Batch *batch, MemoryContext context);
static BatchPartition *copy_idle(const BatchPartition *part);
static List *lock_partitions(Fetch *fetch, List *parts);
static void note_idle(Fetch *fetch, int64 distance);
static void find_next_due(Fetch *fetch);
static Scanned *scanned_entry(const Subscription *sub, const Partition *partition);
static int64 scanned_start(const Subscription *sub, const Partition *partition);
static void remember_scanned(const Subscription *sub, const BatchPartition *part);

PG_FUNCTION_INFO_V1(daybook_fetch);

Datum
daybook_fetch(PG_FUNCTION_ARGS)
{
	Fetch		fetch = {0};
	MemoryContext round_context;
	MemoryContext caller;
	int			events;

	fetch_init(&fetch, fcinfo);
	round_context = AllocSetContextCreate(CurrentMemoryContext, "daybook fetch",
										  ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(round_context);
	if (fetch.waits)
		ConsumerWaitBegin(fetch.name);
	for (;;)
	{
		events = fetch_round(&fetch);
		if (events > 0 || fetch.wrote)
			break;
		CHECK_FOR_INTERRUPTS();
		if (!fetch.again)
		{
			if (!fetch.waits || GetCurrentTimestamp() >= fetch.wait_until)
				break;
			ConsumerWaitSleep(fetch.next_due == 0 ? fetch.wait_until :
							  Min(fetch.next_due, fetch.wait_until));
		}
		if (fetch.waits)
			ConsumerWaitNote();
		MemoryContextReset(round_context);
	}
	ConsumerWaitEnd();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(round_context);
	return (Datum) 0;
}

static void
fetch_init(Fetch *fetch, FunctionCallInfo fcinfo)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < FETCH_NARGS; i++)
		if (i != FETCH_CONSUMER)
			RefuseNull(&fcinfo->args[i], argument_names[i]);
	SubscriptionWrites("daybook.fetch()");

	fetch->name = text_to_cstring(PG_GETARG_TEXT_PP(FETCH_NAME));
	fetch->max_events = PG_GETARG_INT32(FETCH_MAX_EVENTS);
	if (fetch->max_events < 1 || fetch->max_events > MAX_EVENTS_PER_FETCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events must be between 1 and %d", MAX_EVENTS_PER_FETCH),
				 errdetail("The value given is %d.", fetch->max_events)));
	/* the session's id as in log_line_prefix, unless a name is given */
	fetch->consumer = PG_ARGISNULL(FETCH_CONSUMER) ?
		psprintf("%lx.%x", (long) MyStartTime, MyProcPid) :
		text_to_cstring(PG_GETARG_TEXT_PP(FETCH_CONSUMER));
	if (fetch->consumer[0] == '\0' || strlen(fetch->consumer) > MAX_CONSUMER_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer must have between 1 and %d bytes", MAX_CONSUMER_BYTES),
				 errdetail("The name given has %d.", (int) strlen(fetch->consumer))));
	fetch->lease = PG_GETARG_INTERVAL_P(FETCH_LEASE);
	if (TimestampTzPlusInterval(now, fetch->lease) <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be longer than nothing")));
	fetch->wait_until = TimestampTzPlusInterval(now, PG_GETARG_INTERVAL_P(FETCH_WAIT));
	fetch->waits = fetch->wait_until > now;
	if (fetch->wait_until < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("wait must not be negative")));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	fetch->result = (ReturnSetInfo *) fcinfo->resultinfo;
}

/* Looks once for events; returns how many are handed out. */
static int
fetch_round(Fetch *fetch)
{
	List	   *partitions;
	List	   *group;
	int			events = 0;

	fetch->round_started = GetCurrentTimestamp();
	fetch->wrote = false;
	fetch->again = false;
	fetch->idle = NIL;
	fetch->next_due = 0;
	SubscriptionLock(fetch->name, AccessShareLock);
	fetch->sub = SubscriptionForConsumer(fetch->name);
	partitions = PartitionLoadAll(fetch->sub);
	/* taken later than those rows were read, so that it shows what they have passed */
	PushActiveSnapshot(GetLatestSnapshot());
	check_positions(fetch, partitions);
	find_candidates(fetch, partitions);
	while (events == 0 && (group = next_group(fetch)) != NIL)
		events = hand_out_group(fetch, group);
	if (events > 0)
	{
		if (!IsTransactionBlock())
			note_idle(fetch, NOTE_DISTANCE_BUSY);
	}
	else if (!fetch->wrote && !fetch->again)
	{
		if (fetch->waits && GetCurrentTimestamp() < fetch->wait_until)
			find_next_due(fetch);
		else
			note_idle(fetch, IsTransactionBlock() ? NOTE_DISTANCE_IN_BLOCK : NOTE_DISTANCE_IDLE);
	}
	PopActiveSnapshot();
	/* whoever wants to drop the subscription need not wait for one who waits */
	if (events == 0 && !fetch->wrote)
		SubscriptionUnlock(fetch->name, AccessShareLock);
	return events;
}

/*
 * Which partitions
 */

/* Waiting for the log to come to such a position would pass over events. */
static void
check_positions(Fetch *fetch, List *partitions)
{
	int64		head = LogHead(GetActiveSnapshot());
	ListCell   *lc;

	if (list_length(partitions) != fetch->sub->partitions)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("subscription \"%s\" has %d rows in daybook.subscription_partition",
						fetch->name, list_length(partitions)),
				 errdetail("It has %d partitions.", fetch->sub->partitions)));
	foreach(lc, partitions)
	{
		Partition  *partition = lfirst(lc);

		if (partition->position > head)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("subscription \"%s\" is ahead of the log", fetch->name),
					 errdetail("Its position is " INT64_FORMAT ", and the log ends at " INT64_FORMAT ".",
							   partition->position, head),
					 errhint("Drop the subscription and create it anew: it and the log come from different backups.")));
	}
}

/* Finds the partitions that this consumer can have, the best first. */
static void
find_candidates(Fetch *fetch, List *partitions)
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *owners = live_owners(fetch, partitions, now);
	int			waiting = ConsumersWaiting(fetch->name);
	int			consumers = Max(list_length(owners), waiting + (fetch->waits ? 0 : 1));
	Choice	   *choices = palloc(sizeof(Choice) * (list_length(partitions) + 1));
	int			n = 0;
	ListCell   *lc;

	fetch->share = (fetch->sub->partitions + consumers - 1) / consumers;
	foreach(lc, partitions)
	{
		Partition  *partition = lfirst(lc);
		Choice	   *choice = &choices[n];

		choice->partition = partition;
		choice->preference = preference_for(fetch, partition, owners, now);
		/* by age, unless several consumers were woken and had better not all begin with the same */
		choice->order = choice->preference == PARTITION_OWN || waiting < 2 ? partition->position :
			(partition->number + MyProcPid) % fetch->sub->partitions;
		if (choice->preference != PARTITION_BUSY)
			n++;
		else if (fetch->next_due == 0 || partition->lease_until < fetch->next_due)
			fetch->next_due = partition->lease_until;
	}
	qsort(choices, n, sizeof(Choice), compare_choices);
	fetch->candidates = NIL;
	for (int i = 0; i < n; i++)
		fetch->candidates = lappend(fetch->candidates, choices[i].partition);
}

/* The consumers whose leases are not over, this one among them. */
static List *
live_owners(Fetch *fetch, List *partitions, TimestampTz now)
{
	Owner	   *me = palloc0(sizeof(Owner));
	List	   *owners = list_make1(me);
	ListCell   *lc;

	me->name = fetch->consumer;
	foreach(lc, partitions)
	{
		Partition  *partition = lfirst(lc);
		Owner	   *owner;

		if (partition->consumer == NULL || partition->lease_until <= now)
			continue;
		owner = find_owner(owners, partition->consumer);
		if (owner == NULL)
		{
			owner = palloc0(sizeof(Owner));
			owner->name = partition->consumer;
			owners = lappend(owners, owner);
		}
		owner->partitions++;
	}
	return owners;
}

static Owner *
find_owner(List *owners, const char *name)
{
	ListCell   *lc;

	foreach(lc, owners)
	{
		Owner	   *owner = lfirst(lc);

		if (strcmp(owner->name, name) == 0)
			return owner;
	}
	return NULL;
}

static Preference
preference_for(Fetch *fetch, const Partition *partition, List *owners, TimestampTz now)
{
	if (partition->consumer != NULL && strcmp(partition->consumer, fetch->consumer) == 0)
		return PARTITION_OWN;
	if (partition->consumer == NULL || partition->lease_until <= now)
		return PARTITION_FREE;
	if (partition->outstanding)
		return PARTITION_BUSY;
	return find_owner(owners, partition->consumer)->partitions > fetch->share ?
		PARTITION_OF_RICHER : PARTITION_OF_OTHER;
}

static int
compare_choices(const void *a, const void *b)
{
	const Choice *x = a;
	const Choice *y = b;

	if (x->preference != y->preference)
		return x->preference < y->preference ? -1 : 1;
	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	return x->partition->number < y->partition->number ? -1 : 1;
}

/* Takes the next share of the candidates. */
static List *
next_group(Fetch *fetch)
{
	List	   *group = NIL;

	while (list_length(group) < fetch->share && fetch->candidates != NIL)
	{
		BatchPartition *part = palloc0(sizeof(BatchPartition));

		part->partition = linitial(fetch->candidates);
		part->start = scanned_start(fetch->sub, part->partition);
		fetch->candidates = list_delete_first(fetch->candidates);
		group = lappend(group, part);
	}
	return group;
}

/*
 * What they have
 */

/*
 * Hands out what a group of partitions has; returns the number of events.
 * What is read takes its own memory: much can go into the queue before there
 * is something to hand out.
 */
static int
hand_out_group(Fetch *fetch, List *group)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "daybook batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Batch	   *batch;
	List	   *changed;
	List	   *postponed = NIL;
	TimestampTz now;
	ListCell   *lc;
	int			events = 0;

	for (;;)
	{
		batch = read_batch(fetch, group);
		changed = changed_partitions(fetch, batch, caller);
		postponed = list_concat(postponed, batch->postponed);
		group = lock_partitions(fetch, changed);
		/* what was read holds if nothing has been taken away from it */
		if (list_length(group) == list_length(changed))
			break;
		BatchEnd(batch, false);
	}

	if (group != NIL)
	{
		now = GetCurrentTimestamp();
		BatchLease(batch, now, TimestampTzPlusInterval(now, fetch->lease));
		fetch->wrote = true;
		events = batch->count;
	}
	BatchEnd(batch, events > 0);
	MemoryContextSwitchTo(caller);
	if (events == 0)
	{
		/* there may be more behind what went into the queue */
		foreach(lc, group)
			fetch->candidates = lcons(((BatchPartition *) lfirst(lc))->partition,
									  fetch->candidates);
	}
	foreach(lc, postponed)
		fetch->candidates = lappend(fetch->candidates, lfirst(lc));
	MemoryContextDelete(context);
	return events;
}

static Batch *
read_batch(Fetch *fetch, List *group)
{
	Batch	   *batch = palloc0(sizeof(Batch));
	ListCell   *lc;

	foreach(lc, group)
	{
		BatchPartition *part = palloc0(sizeof(BatchPartition));

		part->partition = ((BatchPartition *) lfirst(lc))->partition;
		part->start = ((BatchPartition *) lfirst(lc))->start;
		part->locked = ((BatchPartition *) lfirst(lc))->locked;
		batch->partitions = lappend(batch->partitions, part);
	}
	batch->sub = fetch->sub;
	batch->consumer = fetch->consumer;
	batch->max_events = fetch->max_events;
	batch->rows = fetch->result->setResult;
	batch->desc = fetch->result->setDesc;
	tuplestore_clear(batch->rows);
	if (batch->partitions != NIL)
		BatchRead(batch);
	return batch;
}

/* Those partitions of a batch that have something; remembers the others in a context. */
static List *
changed_partitions(Fetch *fetch, Batch *batch, MemoryContext context)
{
	MemoryContext batch_context = CurrentMemoryContext;
	List	   *changed = NIL;
	ListCell   *lc;

	foreach(lc, batch->partitions)
	{
		BatchPartition *part = lfirst(lc);

		if (BatchChanges(part))
		{
			changed = lappend(changed, part);
			continue;
		}
		if (part->locked)
			PartitionUnlock(fetch->sub, part->partition->number);
		remember_scanned(fetch->sub, part);
		MemoryContextSwitchTo(context);
		fetch->idle = lcons(copy_idle(part), fetch->idle);
		MemoryContextSwitchTo(batch_context);
		/* log and queue may have more for it, should others of the batch be refused */
		if (batch->queued > 0 || batch->unfinished)
			batch->postponed = lappend(batch->postponed, part->partition);
	}
	return changed;
}

/* What note_idle() and find_next_due() need to know. */
static BatchPartition *
copy_idle(const BatchPartition *part)
{
	BatchPartition *copy = palloc0(sizeof(BatchPartition));

	copy->partition = part->partition;
	copy->scanned = part->scanned;
	copy->has_held = part->has_held;
	return copy;
}

/* Returns those that are as they were, and nobody else's until this transaction ends. */
static List *
lock_partitions(Fetch *fetch, List *parts)
{
	List	   *locked = NIL;
	ListCell   *lc;

	foreach(lc, parts)
	{
		BatchPartition *part = lfirst(lc);

		if (!part->locked && !PartitionTryLock(fetch->sub, part->partition->number))
			continue;
		if (part->locked || PartitionIsUnchanged(fetch->sub, part->partition))
		{
			part->locked = true;
			locked = lappend(locked, part);
		}
		else
		{
			PartitionUnlock(fetch->sub, part->partition->number);
			fetch->again = true;
		}
	}
	return locked;
}

/*
 * Moves the positions of partitions for which the log had nothing, so that
 * the status is right and a new session need not read that again.
 */
static void
note_idle(Fetch *fetch, int64 distance)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, fetch->idle)
	{
		BatchPartition *part = lfirst(lc);
		Scanned    *scanned = scanned_entry(fetch->sub, part->partition);

		if (part->scanned - part->partition->position < distance ||
			!TimestampDifferenceExceeds(scanned->noted_at, now, NOTE_PAUSE) ||
			!PartitionTryLock(fetch->sub, part->partition->number))
			continue;
		if (!PartitionIsUnchanged(fetch->sub, part->partition))
		{
			PartitionUnlock(fetch->sub, part->partition->number);
			continue;
		}
		part->partition->position = part->partition->scanned = part->scanned;
		DeliveriesSettle(&part->partition->deliveries, part->scanned);
		PartitionStore(fetch->sub, part->partition);
		scanned->noted_at = now;
		fetch->wrote = true;
	}
}

/* When the next stream is due that had to wait. */
static void
find_next_due(Fetch *fetch)
{
	ListCell   *lc;

	foreach(lc, fetch->idle)
	{
		BatchPartition *part = lfirst(lc);
		TimestampTz due = 0;

		if (part->has_held)
			due = HeldStreamNextDue(fetch->sub, part->partition->number, fetch->round_started);
		if (due != 0 && (fetch->next_due == 0 || due < fetch->next_due))
			fetch->next_due = due;
	}
}

/*
 * What this session knows of the log, whatever becomes of its transactions:
 * the log never changes, nor does a subscription's filter.
 */

static Scanned *
scanned_entry(const Subscription *sub, const Partition *partition)
{
	static HTAB *known = NULL;
	ScannedKey	key;
	Scanned    *entry;
	bool		found;

	if (known == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(ScannedKey), .entrysize = sizeof(Scanned)};

		known = hash_create("daybook scanned positions", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	memset(&key, 0, sizeof(key));
	strlcpy(key.name, sub->name, sizeof(key.name));
	key.created_at = sub->created_at;
	key.partition = partition->number;
	entry = hash_search(known, &key, HASH_ENTER, &found);
	if (!found)
		entry->position = entry->scanned = entry->noted_at = 0;
	return entry;
}

static int64
scanned_start(const Subscription *sub, const Partition *partition)
{
	Scanned    *entry = scanned_entry(sub, partition);

	return partition->position >= entry->position ?
		Max(partition->position, entry->scanned) : partition->position;
}

static void
remember_scanned(const Subscription *sub, const BatchPartition *part)
{
	Scanned    *entry = scanned_entry(sub, part->partition);

	/* what was noted for a position that has been rolled back is of no use */
	if (part->scanned > entry->scanned || part->partition->position < entry->position)
	{
		entry->position = part->partition->position;
		entry->scanned = part->scanned;
	}
}

/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  How consumers sleep until there may be something for them, and who wakes
 *	  them.
 *
 * The sequencer wakes them when events are published.  Consumers wake each
 * other when they let go of what others may fetch.  A consumer that was
 * refused a partition's lock leaves word of it, so that the transaction that
 * has the lock wakes it when it ends, or when the savepoint is rolled back under
 * which it took it: not earlier, since locks are released after the commit is
 * visible.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "subscription/subscription.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/* The longest that a condition variable sleeps at once, in milliseconds. */
#define LONGEST_SLEEP	(24 * 60 * 60 * 1000)

/* Where the consumer of this session waits, if it does. */
static DatabaseState *waiting_in = NULL;
static int	waiting_for;
static uint64 head_seen;
static uint64 changes_seen;

/* What the end of this transaction has to bring about. */
static bool holds_partition = false;
static bool wake_at_commit = false;
static uint64 refusals_seen;

static int	counter_of(const char *subscription);
static void register_callback(void);
static void end_of_transaction(ResourceReleasePhase phase, bool is_commit,
							   bool is_top_level, void *arg);
static void wake_refused(DatabaseState *db);
static void wake_consumers(DatabaseState *db);

/* The caller is going to look for events and to sleep if there are none. */
void
ConsumerWaitBegin(const char *subscription)
{
	DatabaseState *db = MyDatabaseStateToWait();

	register_callback();
	ConsumerWaitEnd();
	waiting_in = db;
	waiting_for = counter_of(subscription);
	pg_atomic_fetch_add_u32(&db->waiting_consumers, 1);
	pg_atomic_fetch_add_u32(&db->waiting_for[waiting_for], 1);
	ConsumerWaitNote();
}

/* The caller looks now: what comes from here on ends its sleep. */
void
ConsumerWaitNote(void)
{
	DatabaseState *db = MyDatabaseStateToWait();

	changes_seen = pg_atomic_read_u64(&db->consumer_changes);
	head_seen = pg_atomic_read_u64(&db->head);
	pg_read_barrier();
}

/* Sleeps until a time, unless something comes. */
void
ConsumerWaitSleep(TimestampTz until)
{
	DatabaseState *db = MyDatabaseStateToWait();

	ConditionVariablePrepareToSleep(&db->published);
	while (pg_atomic_read_u64(&db->head) == head_seen &&
		   pg_atomic_read_u64(&db->consumer_changes) == changes_seen)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&db->published, Min(left, LONGEST_SLEEP),
										   PG_WAIT_EXTENSION);
		db = MyDatabaseStateToWait();
	}
	ConditionVariableCancelSleep();
}

void
ConsumerWaitEnd(void)
{
	if (waiting_in)
	{
		pg_atomic_fetch_sub_u32(&waiting_in->waiting_consumers, 1);
		pg_atomic_fetch_sub_u32(&waiting_in->waiting_for[waiting_for], 1);
	}
	waiting_in = NULL;
}

/* How many there are for a subscription; a few too many if another one shares its counter. */
int
ConsumersWaiting(const char *subscription)
{
	DatabaseState *db = MyDatabaseState();

	return db ? pg_atomic_read_u32(&db->waiting_for[counter_of(subscription)]) : 0;
}

static int
counter_of(const char *subscription)
{
	return hash_bytes((const unsigned char *) subscription, strlen(subscription)) %
		WAITING_CONSUMER_COUNTERS;
}

/* This transaction is about to get a partition's lock. */
void
ConsumerLocksPartition(void)
{
	DatabaseState *db = MyDatabaseState();

	register_callback();
	if (!holds_partition && db)
		refusals_seen = pg_atomic_read_u64(&db->consumer_refusals);
	holds_partition = true;
}

/* Another one has it: let it know that somebody wanted it. */
void
ConsumerWasRefused(void)
{
	DatabaseState *db = MyDatabaseState();

	if (db)
		pg_atomic_fetch_add_u64(&db->consumer_refusals, 1);
	refusals_seen++;
}

/* This transaction has let go of a partition again. */
void
ConsumerLeavesPartition(void)
{
	DatabaseState *db = MyDatabaseState();

	if (db)
		wake_refused(db);
}

/* This transaction's commit leaves something for others to fetch. */
void
ConsumersWakeAtCommit(void)
{
	register_callback();
	wake_at_commit = true;
}

static void
register_callback(void)
{
	static bool registered = false;

	if (!registered)
		RegisterResourceReleaseCallback(end_of_transaction, NULL);
	registered = true;
}

static void
end_of_transaction(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	DatabaseState *db;

	/* a subtransaction that goes well leaves its locks to its parent */
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || (!is_top_level && is_commit) ||
		!(waiting_in || holds_partition || wake_at_commit))
		return;
	db = MyDatabaseState();
	if (db && holds_partition)
		wake_refused(db);
	if (!is_top_level)
		return;
	ConsumerWaitEnd();
	if (db && wake_at_commit && is_commit)
		wake_consumers(db);
	holds_partition = wake_at_commit = false;
}

/*
 * If somebody was refused a partition.  Who is refused another one that this
 * transaction keeps will say so again.
 */
static void
wake_refused(DatabaseState *db)
{
	uint64		refusals = pg_atomic_read_u64(&db->consumer_refusals);

	if (refusals == refusals_seen)
		return;
	refusals_seen = refusals;
	wake_consumers(db);
}

static void
wake_consumers(DatabaseState *db)
{
	pg_atomic_fetch_add_u64(&db->consumer_changes, 1);
	if (pg_atomic_read_u32(&db->waiting_consumers) > 0)
		ConditionVariableBroadcast(&db->published);
}

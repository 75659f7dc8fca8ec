/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  Tells those who LISTEN on channel daybook that events have been
 *	  published.
 *
 * A NOTIFY takes a lock at commit that all notifying transactions of the
 * server share, so writers never send one.  The worker does, in a transaction
 * of its own after the one that published: who gets it can read the events.
 * What is published shortly after one is told with the next.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/async.h"
#include "daybook.h"
#include "error_class.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "subscription/notify.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

#define NOTIFY_CHANNEL	"daybook"

/* Pause after a failure, such as a queue that is full, in milliseconds. */
#define FAILURE_PAUSE	60000

static bool send_notification(uint64 head);

long
NotifyRound(void)
{
	static uint64 notified = 0;
	static TimestampTz next = 0;
	uint64		head = pg_atomic_read_u64(&MyDatabaseState()->head);
	TimestampTz now;

	/* a worker that has just started does not know what the one before has told */
	if (head == notified || daybook_notify_interval < 0)
		return -1;
	now = GetCurrentTimestamp();
	if (now < next)
		return TimestampDifferenceMilliseconds(now, next);
	if (send_notification(head))
	{
		notified = head;
		next = TimestampTzPlusMilliseconds(now, daybook_notify_interval);
		return -1;
	}
	next = TimestampTzPlusMilliseconds(now, FAILURE_PAUSE);
	return FAILURE_PAUSE;
}

/* That nobody can be told is no reason to stop publishing. */
static bool
send_notification(uint64 head)
{
	MemoryContext caller = CurrentMemoryContext;
	char		payload[32];
	bool		sent = true;

	snprintf(payload, sizeof(payload), UINT64_FORMAT, head);
	PG_TRY();
	{
		StartTransactionCommand();

		/* the log would come as far again after a crash, and a notification is not kept */
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
		Async_Notify(NOTIFY_CHANNEL, payload);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		LookAtInterruptsAgain();
		sent = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return sent;
}

/*-------------------------------------------------------------------------
 *
 * early_lock_release.c
 *	  Lets the next append to a stream begin while the one before is being
 *	  flushed to disk.
 *
 * Who appends to a stream waits for the transaction that did so last, and
 * that transaction, until its commit is on disk.  So a stream takes one append
 * per flush, however many sessions wait.  With daybook.early_lock_release the
 * transaction commits as with synchronous_commit = off, lets go of its streams
 * and of its transaction lock, and then flushes before its client hears of the commit.
 * Sessions in a queue for one stream so share their flushes.
 *
 * Whoever acts upon such a commit and commits in turn is flushed after it, so
 * nobody is told of a commit that builds on a lost one.  Only who reads and
 * does not write can see an event that a crash takes back; the log does not
 * have it, since the sequencer publishes what is flushed, and append() flushes
 * before it tells that an event has been there already.
 *
 * The way of the server's own is left alone where more hangs on it: with
 * synchronous standbys, for whom a commit waits before it is seen; in
 * serializable transactions; and for PREPARE TRANSACTION, which does not come
 * by here.  A transaction that drops files, or must flush for other reasons,
 * does so before it lets go, whatever is asked for here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "compat.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "replication/syncrep.h"
#include "storage/lmgr.h"
#include "utils/resowner.h"
#include "wal_place.h"

/* A commit is under way whose flush comes after; and what the setting was. */
static bool releasing = false;
static int	synchronous_commit_before;

static void end_of_transaction(XactEvent event, void *arg);
static bool may_release(void);
static void release_and_flush(void);

/* To be called after those whose news of a commit is of flushed ones. */
void
EarlyLockReleaseInit(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && may_release())
	{
		synchronous_commit_before = synchronous_commit;
		synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
		releasing = true;
	}
	else if (releasing && (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT))
	{
		releasing = false;
		synchronous_commit = synchronous_commit_before;
		if (event == XACT_EVENT_COMMIT)
			release_and_flush();
	}
}

static bool
may_release(void)
{
	return daybook_early_lock_release && StreamTailsWritten() &&
		synchronous_commit > SYNCHRONOUS_COMMIT_OFF &&
		!SyncStandbysDefined() &&
		!IsolationIsSerializable();
}

/*
 * The transaction is over for others by now.  Locks of committed
 * subtransactions stay until the end: who waits for one of those waits for
 * the flush.
 */
static void
release_and_flush(void)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = TopTransactionResourceOwner;
	XactLockTableDelete(GetTopTransactionIdIfAny());
	CurrentResourceOwner = owner;
	EventTicketsRelease();
	XLogFlush(XactLastCommitEnd);

	/* standbys may have been named since */
	SyncRepWaitForLSN(XactLastCommitEnd, true);
}

/* Has what others have committed on disk, if this session waits for the disk at all. */
void
FlushCommitted(void)
{
	if (synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		XLogFlush(WalPlace(GetXLogInsertRecPtr()));
}

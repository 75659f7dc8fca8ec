/*-------------------------------------------------------------------------
 *
 * log_durable.c
 *	  Leaves the flush of the log's commits to who flushes next, or reads.
 *
 * What has been read from the log must outlive a crash, so its commits have
 * to be on disk before that.  If the sequencer flushed each of them, a session
 * that commits would find the disk taken every now and then.  Its commits are
 * asynchronous instead, and mostly the flush of the next event's commit
 * covers them; where that has not happened a reader flushes first.
 * Where a session waits for its events the sequencer flushes after all: if it
 * did not, rounds would follow one another while the readers flush for each.
 *
 * Readers learn from shared memory how far.  A snapshot may see a commit
 * before its place in the WAL can be noted there, so it says "unknown" from
 * before the commit until after: then all WAL that there is will do.
 *
 * Standbys get flushed WAL only.  Where commits wait for a synchronous
 * standby, those of the sequencer do as well, since no reader could.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "compat.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "sequencer/log_durable.h"
#include "wal_place.h"
#include "worker/worker_state.h"

static bool commits_wait_for_standbys(void);

void
CommitLog(void)
{
	DatabaseState *db = MyDatabaseState();
	XLogRecPtr	before = pg_atomic_read_u64(&db->log_lsn);
	int			setting = synchronous_commit;

	if (commits_wait_for_standbys())
		ForceSyncCommit();
	else
		synchronous_commit = SYNCHRONOUS_COMMIT_OFF;

	/* commits take a lock before they can be seen, as snapshots do: a barrier */
	pg_atomic_write_u64(&db->log_lsn, LOG_LSN_UNKNOWN);
	CommitTransactionCommand();

	/* of an earlier transaction if this one has written nothing */
	pg_atomic_write_u64(&db->log_lsn,
						before == LOG_LSN_UNKNOWN ? GetXLogInsertRecPtr() :
						Max(before, XactLastCommitEnd));
	synchronous_commit = setting;
}

static bool
commits_wait_for_standbys(void)
{
	return SyncRepRequested() && SyncStandbysDefined();
}

void
MakeLogDurable(void)
{
	DatabaseState *db = MyDatabaseState();
	XLogRecPtr	lsn = db ? pg_atomic_read_u64(&db->log_lsn) : InvalidXLogRecPtr;

	if (XLogRecPtrIsInvalid(lsn))
		return;					/* nothing has been published since the server's start */
	if (lsn == LOG_LSN_UNKNOWN)
		lsn = GetXLogInsertRecPtr();
	XLogFlush(WalPlace(lsn));
}

/*-------------------------------------------------------------------------
 *
 * sequencer_snapshot.c
 *	  What a snapshot says of transactions: which are in progress, which a scan
 *	  has seen, and how much of the write-ahead log that covers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "sequencer/sequencer_internal.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* What the last scan before decoding took over saw. */
static struct
{
	XLogRecPtr	upto;			/* everything that it saw had committed by here */
	TransactionId xmax;
	TransactionId *in_progress; /* those below xmax that it did not see, sorted */
	int			count;
} handover;

/* A place in the WAL that a scan is to have passed. */
static struct
{
	XLogRecPtr	lsn;			/* invalid: none */
	VirtualTransactionId *committing;	/* were writing their commit records then */
	int			ncommitting;
	TransactionId *unseen;		/* have written them, and could not be seen yet */
	int			nunseen;		/* -1: not looked for yet */
} passage;

/*
 * All transactions in progress as this snapshot sees it, in ascending order
 * but for wraparound.  The snapshot names those below its xmax; above it
 * everything counts as in progress, finished or not.
 */
int
TransactionsInProgress(Snapshot snapshot, TransactionId **xids)
{
	TransactionId next = XidFromFullTransactionId(ReadNextFullTransactionId());
	TransactionId xid = snapshot->xmax;
	int			max = snapshot->xcnt + 16;
	int			count = snapshot->xcnt;

	*xids = palloc(max * sizeof(TransactionId));
	/* a snapshot without transactions may have no array of them */
	if (count > 0)
		memcpy(*xids, snapshot->xip, count * sizeof(TransactionId));
	qsort(*xids, count, sizeof(TransactionId), xidComparator);
	while (TransactionIdPrecedes(xid, next))
	{
		if (count == max)
		{
			max *= 2;
			*xids = repalloc(*xids, max * sizeof(TransactionId));
		}
		(*xids)[count++] = xid;
		TransactionIdAdvance(xid);
	}
	return count;
}

/* Drops those that the snapshot sees as ended; returns how many are left. */
int
DropEndedTransactions(Snapshot snapshot, TransactionId *xids, int nxids)
{
	int			left = 0;

	for (int i = 0; i < nxids; i++)
		if (XidInMVCCSnapshot(xids[i], snapshot))
			xids[left++] = xids[i];
	return left;
}

/*
 * A scan with this snapshot was the last: decoding publishes what it did not
 * see, and nothing that it saw.
 */
void
HandOver(Snapshot snapshot)
{
	if (handover.in_progress)
		pfree(handover.in_progress);
	handover.count = snapshot->xcnt;
	handover.xmax = snapshot->xmax;
	handover.in_progress = MemoryContextAlloc(TopMemoryContext,
											  (handover.count + 1) * sizeof(TransactionId));
	if (handover.count > 0)
		memcpy(handover.in_progress, snapshot->xip, handover.count * sizeof(TransactionId));
	qsort(handover.in_progress, handover.count, sizeof(TransactionId), xidComparator);
	handover.upto = GetXLogInsertRecPtr();
}

/* Did that scan see the events of a decoded transaction? */
bool
WasScanned(const DecodedTransaction *transaction)
{
	return transaction->commit_lsn <= handover.upto &&
		TransactionIdPrecedes(transaction->xid, handover.xmax) &&
		bsearch(&transaction->xid, handover.in_progress, handover.count,
				sizeof(TransactionId), xidComparator) == NULL;
}

/*
 * Begins to find out, before a round takes its snapshot, when scans will have
 * seen all that has been committed in the WAL so far.  A commit's record is
 * written before others can see the transaction, with synchronous replication
 * long before; so the place has been passed when a scan has seen every
 * transaction that had written its record by then.
 */
void
PassageBegin(void)
{
	if (XLogRecPtrIsInvalid(passage.lsn))
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		if (passage.committing)
			pfree(passage.committing);
		passage.lsn = GetXLogInsertRecPtr();
		passage.committing = GetVirtualXIDsDelayingChkpt(&passage.ncommitting,
														 DELAY_CHKPT_START);
		passage.nunseen = -1;
		MemoryContextSwitchTo(old);
	}
	if (passage.ncommitting > 0 &&
		!HaveVirtualXIDsDelayingChkpt(passage.committing, passage.ncommitting,
									  DELAY_CHKPT_START))
		passage.ncommitting = 0;
}

/* The place that a complete scan with this snapshot has passed, if it has. */
XLogRecPtr
PassageEnd(Snapshot snapshot)
{
	XLogRecPtr	passed = passage.lsn;

	if (XLogRecPtrIsInvalid(passed) || passage.ncommitting > 0)
		return InvalidXLogRecPtr;
	if (passage.nunseen < 0)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		int			count;

		if (passage.unseen)
			pfree(passage.unseen);
		count = TransactionsInProgress(snapshot, &passage.unseen);
		MemoryContextSwitchTo(old);

		/* who has written the record has said so in the commit log */
		passage.nunseen = 0;
		for (int i = 0; i < count; i++)
			if (TransactionIdDidCommit(passage.unseen[i]))
				passage.unseen[passage.nunseen++] = passage.unseen[i];
	}
	passage.nunseen = DropEndedTransactions(snapshot, passage.unseen, passage.nunseen);
	if (passage.nunseen > 0)
		return InvalidXLogRecPtr;
	passage.lsn = InvalidXLogRecPtr;
	return passed;
}

/*-------------------------------------------------------------------------
 *
 * sequencer_gaps.c
 *	  Ids that have been given out and were not to be seen when a scan went
 *	  past them.
 *
 * Such an id belongs to a transaction that was in progress then, or that has
 * been rolled back, or to none.  A gap keeps the ids of one stretch with the
 * transactions that were in progress: only when one of these has ended can an
 * id of the gap have come to light, and when all have ended the rest never
 * will.  So a transaction that stays open for an hour costs nothing but the
 * memory of its gap.
 *
 * An id's transaction has its xid before it takes the id (event_insert.c), so
 * it is among those that were in progress when a higher id was seen.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "sequencer/sequencer_internal.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* With more ranges than this a gap is swept as a whole. */
#define MAX_RANGES_PROBED	16

typedef struct IdRange
{
	int64		low;			/* low > high: taken */
	int64		high;
} IdRange;

typedef struct Gap
{
	int64		low;
	int64		high;
	IdRange    *ranges;			/* in ascending order */
	int			nranges;
	int			maxranges;
	TransactionId *xids;
	int			nxids;
} Gap;

static List *gaps = NIL;		/* in ascending order of ids */
static MemoryContext gap_context;

static void add_range(Gap *gap, int64 low, int64 high);
static void insert_range(Gap *gap, int at, int64 low, int64 high);
static void free_gap(Gap *gap);
static IdRange *find_range(Gap *gap, int64 id);
static Gap *find_gap(int64 id);
static bool merge_with_last(Gap *gap);

void
GapsInit(MemoryContext context)
{
	gap_context = context;
	gaps = NIL;
}

/* Notes the ids from low to high that are not in present, which is sorted. */
void
GapsNote(int64 low, int64 high, const int64 *present, int npresent, Snapshot snapshot)
{
	MemoryContext old = MemoryContextSwitchTo(gap_context);
	Gap		   *gap = palloc0(sizeof(Gap));
	int64		next = low;

	gap->low = low;
	gap->high = high;
	gap->nxids = TransactionsInProgress(snapshot, &gap->xids);
	if (gap->nxids > 0)
	{
		for (int i = 0; i < npresent; i++)
		{
			if (present[i] < low)
				continue;
			if (present[i] > next)
				add_range(gap, next, present[i] - 1);
			next = present[i] + 1;
		}
		if (next <= high)
			add_range(gap, next, high);
	}
	if (gap->nranges == 0)
		free_gap(gap);
	else if (!merge_with_last(gap))
		gaps = lappend(gaps, gap);
	MemoryContextSwitchTo(old);
}

static void
add_range(Gap *gap, int64 low, int64 high)
{
	insert_range(gap, gap->nranges, low, high);
}

static void
insert_range(Gap *gap, int at, int64 low, int64 high)
{
	if (gap->nranges == gap->maxranges)
	{
		gap->maxranges = Max(8, gap->maxranges * 2);
		gap->ranges = gap->ranges == NULL ?
			MemoryContextAlloc(gap_context, gap->maxranges * sizeof(IdRange)) :
			repalloc_huge(gap->ranges, gap->maxranges * sizeof(IdRange));
	}
	memmove(&gap->ranges[at + 1], &gap->ranges[at],
			(gap->nranges - at) * sizeof(IdRange));
	gap->ranges[at].low = low;
	gap->ranges[at].high = high;
	gap->nranges++;
}

/* A stretch that waits for the same transactions as the last joins it. */
static bool
merge_with_last(Gap *gap)
{
	Gap		   *last = gaps ? llast(gaps) : NULL;

	if (last == NULL || last->nxids != gap->nxids ||
		memcmp(last->xids, gap->xids, gap->nxids * sizeof(TransactionId)) != 0)
		return false;
	for (int i = 0; i < gap->nranges; i++)
		add_range(last, gap->ranges[i].low, gap->ranges[i].high);
	last->high = gap->high;
	free_gap(gap);
	return true;
}

static void
free_gap(Gap *gap)
{
	if (gap->ranges)
		pfree(gap->ranges);
	if (gap->xids)
		pfree(gap->xids);
	pfree(gap);
}

bool
GapsExist(void)
{
	return gaps != NIL;
}

/* Transactions that are waited for, at most; for the status view. */
int
GapsCount(void)
{
	return list_length(gaps);
}

/* Is any id up to this one still missing? */
bool
GapsBelow(int64 id)
{
	return gaps != NIL && ((Gap *) linitial(gaps))->low <= id;
}

/* Takes an id out; false if it was not missing. */
bool
GapsTake(int64 id)
{
	Gap		   *gap = find_gap(id);
	IdRange    *range = gap ? find_range(gap, id) : NULL;

	if (range == NULL)
		return false;
	if (id == range->low)
		range->low++;
	else if (id == range->high)
		range->high--;
	else
	{
		int64		high = range->high;

		range->high = id - 1;
		insert_range(gap, range - gap->ranges + 1, id + 1, high);
	}
	return true;
}

static Gap *
find_gap(int64 id)
{
	int			low = 0;
	int			high = list_length(gaps) - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		Gap		   *gap = list_nth(gaps, middle);

		if (id < gap->low)
			high = middle - 1;
		else if (id > gap->high)
			low = middle + 1;
		else
			return gap;
	}
	return NULL;
}

/*
 * Ranges shrink at their ends as ids are taken and may become empty, but keep
 * their order: an empty one has low = high + 1.
 */
static IdRange *
find_range(Gap *gap, int64 id)
{
	int			low = 0;
	int			high = gap->nranges - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		IdRange    *range = &gap->ranges[middle];

		if (range->low <= id && id <= range->high)
			return range;
		if (id < range->low)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return NULL;
}

/*
 * Calls probe for the ids that may have come to light with this snapshot; it
 * takes what it finds.  Gaps whose transactions have all ended go.
 */
void
GapsProbe(Snapshot snapshot, GapProbe probe, void *arg)
{
	ListCell   *lc;

	foreach(lc, gaps)
	{
		Gap		   *gap = lfirst(lc);
		int			left = DropEndedTransactions(snapshot, gap->xids, gap->nxids);

		if (left == gap->nxids)
			continue;
		gap->nxids = left;
		if (gap->nranges > MAX_RANGES_PROBED)
			probe(gap->low, gap->high, arg);
		else
			for (int i = gap->nranges - 1; i >= 0; i--)
				if (gap->ranges[i].low <= gap->ranges[i].high)
					probe(gap->ranges[i].low, gap->ranges[i].high, arg);
		if (gap->nxids == 0)
		{
			free_gap(gap);
			gaps = foreach_delete_current(gaps, lc);
		}
	}
}

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

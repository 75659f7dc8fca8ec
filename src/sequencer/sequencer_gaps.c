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
 * will.  Gaps that are left to wait for the same transactions become one, so
 * a transaction that stays open for an hour costs nothing but the memory of
 * the ids that are missing meanwhile.
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
	bool		due;			/* some have ended: ids may have come to light */
	int64		probed;			/* how far these have been looked for */
} Gap;

static List *gaps = NIL;		/* in ascending order of ids */
static MemoryContext gap_context;

static void add_range(Gap *gap, int64 low, int64 high);
static void insert_range(Gap *gap, int at, int64 low, int64 high);
static void free_gap(Gap *gap);
static Gap *find_gap(int64 id);
static IdRange *find_range(Gap *gap, int64 id);
static bool probe_gap(Gap *gap, GapProbe probe, void *arg);
static void drop_empty_ranges(Gap *gap);
static IdRange *next_range(Gap *gap, int64 after);
static void tidy(void);
static bool wait_for_same(const Gap *a, const Gap *b);
static void join(Gap *gap, const Gap *next);

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
	int64		last = low - 1;

	gap->low = low;
	gap->high = high;
	gap->nxids = TransactionsInProgress(snapshot, &gap->xids);
	if (gap->nxids > 0)
	{
		for (int i = 0; i < npresent; i++)
		{
			if (present[i] < low)
				continue;
			if (present[i] - 1 > last)
				add_range(gap, last + 1, present[i] - 1);
			last = present[i];
		}
		if (last < high)
			add_range(gap, last + 1, high);
	}
	if (gap->nranges == 0)
		free_gap(gap);
	else
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

static void
free_gap(Gap *gap)
{
	if (gap->ranges)
		pfree(gap->ranges);
	if (gap->xids)
		pfree(gap->xids);
	pfree(gap);
}

/* Stretches of ids with missing ones; for the status view. */
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

/* Is this id missing? */
bool
GapsHas(int64 id)
{
	Gap		   *gap = find_gap(id);

	return gap && find_range(gap, id) != NULL;
}

/* Takes out an id, unless that has been done: restored tables can share one. */
void
GapsTake(int64 id)
{
	Gap		   *gap = find_gap(id);
	IdRange    *range = gap ? find_range(gap, id) : NULL;

	if (range == NULL)
		return;
	if (id == range->high)
		range->high--;			/* first, since there may be no higher id */
	else if (id == range->low)
		range->low++;
	else
	{
		int64		high = range->high;

		range->high = id - 1;
		insert_range(gap, range - gap->ranges + 1, id + 1, high);
	}
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
 * Calls probe for the ids that may have come to light with this snapshot, in
 * ascending order; it takes what it finds.  False if it has found enough for
 * now, to go on next time.
 */
bool
GapsProbe(Snapshot snapshot, GapProbe probe, void *arg)
{
	bool		complete = true;
	ListCell   *lc;

	foreach(lc, gaps)
	{
		Gap		   *gap = lfirst(lc);
		int			left = DropEndedTransactions(snapshot, gap->xids, gap->nxids);

		if (left < gap->nxids)
		{
			gap->nxids = left;
			gap->due = true;
			gap->probed = gap->low - 1;
		}
	}
	foreach(lc, gaps)
	{
		Gap		   *gap = lfirst(lc);

		if (gap->due && !probe_gap(gap, probe, arg))
		{
			complete = false;
			break;
		}
	}
	tidy();
	return complete;
}

static bool
probe_gap(Gap *gap, GapProbe probe, void *arg)
{
	bool		as_a_whole = gap->nranges > MAX_RANGES_PROBED;
	IdRange    *range;

	while ((range = next_range(gap, gap->probed)) != NULL)
	{
		int64		high = as_a_whole ? gap->high : range->high;

		gap->probed = probe(Max(range->low, gap->probed + 1), high, arg);
		if (gap->probed < high)
			return false;
	}
	gap->due = false;
	drop_empty_ranges(gap);
	return true;
}

static void
drop_empty_ranges(Gap *gap)
{
	int			kept = 0;

	for (int i = 0; i < gap->nranges; i++)
		if (gap->ranges[i].low <= gap->ranges[i].high)
			gap->ranges[kept++] = gap->ranges[i];
	gap->nranges = kept;
}

/* The first range that has ids above this one. */
static IdRange *
next_range(Gap *gap, int64 after)
{
	int			low = 0;
	int			high = gap->nranges;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (gap->ranges[middle].high > after)
			high = middle;
		else
			low = middle + 1;
	}
	while (low < gap->nranges && gap->ranges[low].low > gap->ranges[low].high)
		low++;
	return low < gap->nranges ? &gap->ranges[low] : NULL;
}

/* Drops gaps that nothing can come from any more and joins those alike. */
static void
tidy(void)
{
	MemoryContext old = MemoryContextSwitchTo(gap_context);
	List	   *kept = NIL;
	ListCell   *lc;

	foreach(lc, gaps)
	{
		Gap		   *gap = lfirst(lc);

		if (!gap->due && (gap->nxids == 0 || gap->nranges == 0))
			free_gap(gap);
		else if (kept != NIL && wait_for_same(llast(kept), gap))
		{
			join(llast(kept), gap);
			free_gap(gap);
		}
		else
			kept = lappend(kept, gap);
	}
	list_free(gaps);
	gaps = kept;
	MemoryContextSwitchTo(old);
}

static bool
wait_for_same(const Gap *a, const Gap *b)
{
	return !a->due && !b->due && a->nxids == b->nxids &&
		memcmp(a->xids, b->xids, a->nxids * sizeof(TransactionId)) == 0;
}

/* Adds the ranges of the gap that follows. */
static void
join(Gap *gap, const Gap *next)
{
	for (int i = 0; i < next->nranges; i++)
		add_range(gap, next->ranges[i].low, next->ranges[i].high);
	gap->high = next->high;
}

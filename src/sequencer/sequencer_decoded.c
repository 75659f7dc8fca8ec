/*-------------------------------------------------------------------------
 *
 * sequencer_decoded.c
 *	  Transactions that have been met in the write-ahead log, and their events.
 *
 * Events are noted while their transaction is in progress, in the order of
 * insertion and with the subtransaction that they belong to; what
 * subtransactions roll back is passed over when the transaction has committed.
 * Those of a large transaction go to a temporary file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "sequencer/sequencer_internal.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "varint.h"

/* Events of one transaction that are kept in memory, encoded. */
#define MAX_EVENT_BYTES		(256 * 1024)

/* Room for them at first, since most transactions have one. */
#define FIRST_EVENT_BYTES	32

/* Stands for a relation where the next number is the xid of what follows. */
#define XID_MARK			1

/* A transaction in progress, or a subtransaction of one. */
typedef struct KnownXid
{
	TransactionId xid;
	char		status;			/* simplehash's */
	TransactionId top;			/* itself if it is no subtransaction */
	DecodedTransaction *transaction;	/* NULL in a subtransaction */
} KnownXid;

#define SH_PREFIX xidhash
#define SH_ELEMENT_TYPE KnownXid
#define SH_KEY_TYPE TransactionId
#define SH_KEY xid
#define SH_HASH_KEY(tb, key) murmurhash32(key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

/* Where the replay of a transaction's events has come to. */
typedef struct EventReplay
{
	DecodedTransaction *transaction;
	Oid			relid;
	int64		id;
	bool		skip;			/* rolled back */
	DecodedEventCallback callback;
	void	   *arg;
} EventReplay;

static MemoryContext context = NULL;
static ResourceOwner file_owner = NULL;
static xidhash_hash *in_progress = NULL;
static List *committed = NIL;	/* in that order */
static int64 committed_events = 0;

static void init_events(StringInfo events);
static void mark_xid(DecodedTransaction *transaction, TransactionId xid);
static void spill(DecodedTransaction *transaction);
static void replay_events(StringInfo events, EventReplay *replay);
static bool was_rolled_back(DecodedTransaction *transaction, TransactionId xid);

void
DecodedInit(void)
{
	context = AllocSetContextCreate(TopMemoryContext, "daybook decoded events",
									ALLOCSET_DEFAULT_SIZES);
	file_owner = ResourceOwnerCreate(NULL, "daybook decoded events");
	in_progress = xidhash_create(context, 64, NULL);
}

/*
 * Transactions in progress
 */

void
DecodedAssignChild(TransactionId xid, TransactionId top)
{
	bool		found;
	KnownXid   *known = xidhash_insert(in_progress, xid, &found);

	known->top = top;
	known->transaction = NULL;
}

/* The transaction that an xid belongs to; each subtransaction was assigned with its first record. */
TransactionId
DecodedTopXid(TransactionId xid)
{
	KnownXid   *known = xidhash_lookup(in_progress, xid);

	return known ? known->top : xid;
}

/* NULL if nothing has been noted of it yet. */
DecodedTransaction *
DecodedFind(TransactionId top)
{
	KnownXid   *known = xidhash_lookup(in_progress, top);

	return known ? known->transaction : NULL;
}

DecodedTransaction *
DecodedOpen(TransactionId top)
{
	bool		found;
	KnownXid   *known = xidhash_insert(in_progress, top, &found);
	MemoryContext old;

	if (found && known->transaction)
		return known->transaction;
	old = MemoryContextSwitchTo(context);
	known->top = top;
	known->transaction = palloc0(sizeof(DecodedTransaction));
	known->transaction->xid = known->transaction->last_xid = top;
	init_events(&known->transaction->events);
	MemoryContextSwitchTo(old);
	return known->transaction;
}

static void
init_events(StringInfo events)
{
	events->data = palloc(FIRST_EVENT_BYTES);
	events->maxlen = FIRST_EVENT_BYTES;
	resetStringInfo(events);
}

/*
 * Notes an event of the transaction, or of its subtransaction xid.  The
 * encoding: the relation's OID, or 0 for that of the event before, and the
 * distance from the id before.
 */
void
DecodedNote(DecodedTransaction *transaction, TransactionId xid, Oid relid, int64 id)
{
	StringInfo	events = &transaction->events;

	if (xid != transaction->last_xid)
		mark_xid(transaction, xid);
	AppendVarint(events, relid == transaction->last_relid ? 0 : relid);
	AppendZigzag(events, id - transaction->last_id);
	transaction->last_relid = relid;
	transaction->last_id = id;
	transaction->event_count++;
	if (events->len >= MAX_EVENT_BYTES)
		spill(transaction);
}

static void
mark_xid(DecodedTransaction *transaction, TransactionId xid)
{
	AppendVarint(&transaction->events, XID_MARK);
	AppendVarint(&transaction->events, xid);
	transaction->last_xid = xid;
}

/* Moves the events of a huge transaction to a temporary file, a part at a time. */
static void
spill(DecodedTransaction *transaction)
{
	ResourceOwner saved = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(context);
	int32		length = transaction->events.len;

	CurrentResourceOwner = file_owner;
	if (transaction->spilled == NULL)
		transaction->spilled = BufFileCreateTemp(true);
	BufFileWrite(transaction->spilled, &length, sizeof(length));
	BufFileWrite(transaction->spilled, transaction->events.data, length);
	CurrentResourceOwner = saved;
	MemoryContextSwitchTo(old);
	resetStringInfo(&transaction->events);
}

/* A transaction or subtransaction has ended, and is not heard of any more. */
void
DecodedEnd(TransactionId xid)
{
	KnownXid   *known = xidhash_lookup(in_progress, xid);

	if (known == NULL)
		return;
	if (known->transaction)
		DecodedFree(known->transaction);
	xidhash_delete_item(in_progress, known);
}

/* A transaction has committed: its record ends here. */
void
DecodedCommit(TransactionId xid, XLogRecPtr end, TimestampTz committed_at)
{
	KnownXid   *known = xidhash_lookup(in_progress, xid);
	DecodedTransaction *transaction = known ? known->transaction : NULL;
	MemoryContext old;

	if (transaction == NULL || transaction->event_count == 0)
	{
		DecodedEnd(xid);
		return;
	}
	xidhash_delete_item(in_progress, known);
	transaction->commit_lsn = end;
	transaction->committed_at = committed_at;
	committed_events += transaction->event_count;
	old = MemoryContextSwitchTo(context);
	committed = lappend(committed, transaction);
	MemoryContextSwitchTo(old);
}

/*
 * Committed transactions
 */

/* Events that have not been handed over yet. */
int64
DecodedPending(void)
{
	return committed_events;
}

/* Hands over the transactions decoded so far, in commit order. */
List *
DecodedTake(void)
{
	List	   *taken = committed;

	committed = NIL;
	committed_events = 0;
	return taken;
}

/*
 * Takes back those that are not visible to others yet; they stay in front,
 * and do not keep more from being decoded.
 */
void
DecodedPutBack(DecodedTransaction *transaction)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	committed = lappend(committed, transaction);
	MemoryContextSwitchTo(old);
}

void
DecodedFree(DecodedTransaction *transaction)
{
	if (transaction->spilled)
		BufFileClose(transaction->spilled);
	pfree(transaction->events.data);
	pfree(transaction);
}

/* Calls back for each event of a transaction, in the order of insertion. */
void
DecodedEvents(DecodedTransaction *transaction, DecodedEventCallback callback, void *arg)
{
	EventReplay replay = {.transaction = transaction, .callback = callback, .arg = arg};

	if (transaction->spilled)
	{
		StringInfoData part;
		int32		length;

		initStringInfo(&part);
		if (BufFileSeek(transaction->spilled, 0, 0, SEEK_SET) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not rewind the file of decoded events: %m")));
		while (BufFileRead(transaction->spilled, &length, sizeof(length)) == sizeof(length))
		{
			resetStringInfo(&part);
			enlargeStringInfo(&part, length);
			if (BufFileRead(transaction->spilled, part.data, length) != length)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("file of decoded events ends too soon")));
			part.len = length;
			replay_events(&part, &replay);
		}
		pfree(part.data);
	}
	replay_events(&transaction->events, &replay);
}

static void
replay_events(StringInfo events, EventReplay *replay)
{
	const unsigned char *next = (const unsigned char *) events->data;
	const unsigned char *end = next + events->len;
	uint64		table;
	uint64		xid;
	int64		step;

	while (next < end)
	{
		if (!ReadVarint(&next, end, &table) ||
			!(table == XID_MARK ? ReadVarint(&next, end, &xid) : ReadZigzag(&next, end, &step)))
			elog(ERROR, "decoded events are cut off");
		CHECK_FOR_INTERRUPTS();
		if (table == XID_MARK)
		{
			replay->skip = was_rolled_back(replay->transaction, (TransactionId) xid);
			continue;
		}
		if (table != 0)
			replay->relid = (Oid) table;
		replay->id += step;
		if (!replay->skip)
			replay->callback(replay->relid, replay->id, replay->arg);
	}
}

/*
 * The transaction has ended for others, and its commit includes those of its
 * subtransactions that committed.  Their state is kept as long as the slot
 * holds back the horizon of the catalogs.
 */
static bool
was_rolled_back(DecodedTransaction *transaction, TransactionId xid)
{
	return xid != transaction->xid && !TransactionIdDidCommit(xid);
}

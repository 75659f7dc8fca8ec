/*-------------------------------------------------------------------------
 *
 * stream_tail.c
 *	  Finds a stream's last version and keeps others from appending to it.
 *
 * Who appends to a stream locks it, looks up the last row with a dirty
 * snapshot and, if that row's transaction is still in progress, waits for it
 * to end.  The lock is needed only until the new row and its index entries
 * are in: from then on others see the row and wait for the transaction.  One
 * waiter stands at the row, holding the lock; the others queue for the lock
 * in the order in which they came.
 *
 * A transaction whose own row is the last of the stream needs no lock for the
 * next: nobody else can get past that row.  It must not wait for the lock
 * either, since who waits for it may be holding it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Streams remembered per transaction; past that, memory is started afresh. */
#define MAX_CACHED_STREAMS	65536

typedef struct StreamKey
{
	uint64		hash;
	Oid			relid;
	text	   *stream_id;
} StreamKey;

static inline bool
keys_equal(StreamKey a, StreamKey b)
{
	return a.hash == b.hash && a.relid == b.relid &&
		VARSIZE_ANY_EXHDR(a.stream_id) == VARSIZE_ANY_EXHDR(b.stream_id) &&
		memcmp(VARDATA_ANY(a.stream_id), VARDATA_ANY(b.stream_id),
			   VARSIZE_ANY_EXHDR(a.stream_id)) == 0;
}

/* Last version of a stream whose tail this transaction has written. */
typedef struct StreamEntry
{
	StreamKey	key;
	int64		version;
	char		status;
} StreamEntry;

#define SH_PREFIX streamhash
#define SH_ELEMENT_TYPE StreamEntry
#define SH_KEY_TYPE StreamKey
#define SH_KEY key
#define SH_HASH_KEY(tb, key) ((uint32) (key).hash)
#define SH_EQUAL(tb, a, b) keys_equal(a, b)
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

/* The last row of a stream, as a probe has met it. */
typedef struct Tail
{
	int64		version;		/* 0: none */
	TransactionId xmin;
	TransactionId writer;		/* valid if the row's transaction was in progress for us */
	uint32		speculative_token;
	ItemPointerData tid;
} Tail;

/*
 * Most transactions append to one stream: the first is remembered without
 * making a table.  The name's buffer is kept for the next transaction.
 */
static StreamEntry single;
static bool has_single = false;
static Size single_room = 0;

static MemoryContext stream_context = NULL;
static streamhash_hash *streams = NULL;

/* Has this transaction, or one of its live subtransactions, stored an event? */
static bool has_appended = false;

static StreamKey make_key(Oid relid, text *stream_id);
static StreamEntry *find_remembered(StreamKey key);
static void remember(StreamKey key, int64 version, bool shared);
static void remember_single(StreamKey key, int64 version);
static void forget(StreamKey key);
static bool entry_is_ours(Relation rel, StreamKey key, int64 *version);
static bool tail_is_ours(Relation rel, const EventTable *table, text *stream_id,
						 int64 *version);
static bool find_settled_entry(Relation rel, StreamKey key, int64 *version);
static int64 find_settled_tail(Relation rel, const EventTable *table, text *stream_id);
static bool ended_before(TransactionId xid);
static void probe(Relation rel, Relation index, text *stream_id, Tail *tail);
static void wait_for_writer(Relation rel, Tail *tail);

/*
 * Returns the stream's last version, 0 if there is none, and sees to it that
 * nobody else can append to it before the caller's row is in.  *locked tells
 * whether that took the stream's lock.
 */
int64
StreamTailLock(Relation rel, const EventTable *table, text *stream_id, bool *locked)
{
	StreamKey	key = make_key(RelationGetRelid(rel), stream_id);
	StreamEntry *entry;
	int64		version;

	EventTicketsSettle();
	*locked = false;
	entry = find_remembered(key);
	if (entry)
		return entry->version;
	if (has_appended && entry_is_ours(rel, key, &version))
		return version;

	/* while others wait for a row of ours, they have the lock */
	if (!EventTicketLockStream(key.hash, !has_appended))
	{
		if (tail_is_ours(rel, table, stream_id, &version))
			return version;
		(void) EventTicketLockStream(key.hash, true);
	}
	*locked = true;
	if (find_settled_entry(rel, key, &version))
		return version;
	return find_settled_tail(rel, table, stream_id);
}

static bool
entry_is_ours(Relation rel, StreamKey key, int64 *version)
{
	CachedVersion cached;

	if (!VersionCacheFind(rel, key.hash, key.stream_id, &cached) ||
		VersionCacheWriterState(&cached) != WRITER_OURS)
		return false;
	*version = cached.version;
	return true;
}

/* Is the stream's last row this transaction's, though it is not remembered? */
static bool
tail_is_ours(Relation rel, const EventTable *table, text *stream_id, int64 *version)
{
	Relation	index = index_open(table->stream_index, RowExclusiveLock);
	Tail		tail;

	probe(rel, index, stream_id, &tail);
	index_close(index, NoLock);
	*version = tail.version;
	return TransactionIdIsCurrentTransactionId(tail.xmin);
}

/*
 * Waits until the transaction that wrote the stream's entry has ended.  False
 * if the entry does not tell the last version.
 */
static bool
find_settled_entry(Relation rel, StreamKey key, int64 *version)
{
	CachedVersion cached;
	CachedVersion again;

	while (VersionCacheFind(rel, key.hash, key.stream_id, &cached))
	{
		*version = cached.version;
		switch (VersionCacheWriterState(&cached))
		{
			case WRITER_OURS:
				return true;
			case WRITER_IN_PROGRESS:
				XactLockTableWait(XidFromFullTransactionId(cached.writer),
								  NULL, NULL, XLTW_None);
				break;
			case WRITER_COMMITTED:

				/* it may have added more before it committed */
				if (VersionCacheFind(rel, key.hash, key.stream_id, &again) &&
					again.version == cached.version &&
					FullTransactionIdEquals(again.writer, cached.writer))
					return true;
				break;
			case WRITER_UNKNOWN:
				return false;
		}
	}
	return false;
}

/*
 * Waits until the last row's transaction has ended and all that it wrote has
 * been seen.  A probe that met the row of a transaction which ended meanwhile
 * may have looked at the index before that transaction, being the owner of the
 * tail, added more: it takes another probe, which begins after its end.
 */
static int64
find_settled_tail(Relation rel, const EventTable *table, text *stream_id)
{
	Relation	index = index_open(table->stream_index, RowExclusiveLock);
	TransactionId ended = InvalidTransactionId;
	Tail		tail;

	for (;;)
	{
		probe(rel, index, stream_id, &tail);
		if (TransactionIdIsValid(tail.writer))
			wait_for_writer(rel, &tail);
		else if (tail.version == 0 || tail.xmin == ended || ended_before(tail.xmin))
			break;
		ended = tail.xmin;
	}
	index_close(index, NoLock);
	return tail.version;
}

/* Had the transaction ended when the present statement began? */
static bool
ended_before(TransactionId xid)
{
	return !TransactionIdIsNormal(xid) ||
		(ActiveSnapshotSet() && !XidInMVCCSnapshot(xid, GetActiveSnapshot()));
}

/*
 * The same for several rows, for which the caller may look at the stream
 * first: until unpinned, the version trigger takes the tail from the pin.
 */
int64
StreamTailPin(Relation rel, const EventTable *table, text *stream_id, StreamPin *pin)
{
	int64		version = StreamTailLock(rel, table, stream_id, &pin->locked);
	StreamKey	key = make_key(RelationGetRelid(rel), stream_id);

	pin->hash = key.hash;
	pin->relid = key.relid;
	pin->stream_id = stream_id;
	pin->version = version;
	if (pin->locked)
	{
		EventTicketSetPinned(key.hash, true);
		remember(key, version, false);
	}
	return version;
}

/*
 * If the pin has the lock, the tail need not be this transaction's and must
 * not be remembered without it, unless a row of ours has moved it: events that
 * stood there already were not written, others a trigger may have sent to
 * another stream.
 */
void
StreamTailUnpin(const StreamPin *pin)
{
	StreamKey	key;
	StreamEntry *entry;

	if (!pin->locked)
		return;
	EventTicketSetPinned(pin->hash, false);
	key.hash = pin->hash;
	key.relid = pin->relid;
	key.stream_id = pin->stream_id;
	entry = find_remembered(key);
	if (entry && entry->version == pin->version)
	{
		forget(key);
		/* no row of ours is there: others need not wait for this transaction */
		EventTicketsSettle();
	}
}

/* Waits for the transaction whose row the probe met. */
static void
wait_for_writer(Relation rel, Tail *tail)
{
	if (tail->speculative_token)
		SpeculativeInsertionWait(tail->writer, tail->speculative_token);
	else
		XactLockTableWait(tail->writer, rel, &tail->tid, XLTW_InsertIndex);
}

/* Finds the last row that is committed, ours, or in progress. */
static void
probe(Relation rel, Relation index, text *stream_id, Tail *tail)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan;
	ScanKeyData key;

	memset(tail, 0, sizeof(Tail));
	InitDirtySnapshot(dirty);
	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, TEXTOID,
						   index->rd_indcollation[0], F_TEXTEQ,
						   PointerGetDatum(stream_id));
	scan = index_beginscan_compat(rel, index, &dirty, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		bool		is_null;
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);

		tail->version = DatumGetInt64(slot_getattr(slot, EVENT_VERSION, &is_null));
		tail->xmin = HeapTupleHeaderGetXmin(tuple->t_data);
		tail->writer = dirty.xmin;
		tail->speculative_token = dirty.speculativeToken;
		tail->tid = slot->tts_tid;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * A row is about to be stored with this version, which makes it the stream's
 * last, unless it belongs before others (a dump is being loaded).  One that
 * may be taken out again is not told to others yet.
 */
void
StreamTailConfirm(Relation rel, text *stream_id, int64 version, bool is_last,
				  bool speculative)
{
	StreamKey	key = make_key(RelationGetRelid(rel), stream_id);
	bool		shared = false;

	has_appended = true;
	if (is_last && !speculative)
		shared = VersionCacheStore(rel, key.hash, stream_id, version);
	else
		VersionCacheForget(rel, key.hash, stream_id);
	if (is_last)
		remember(key, version, shared);
	else
		forget(key);
}

/* What is remembered of the stream is not, or no longer, so. */
void
StreamTailForget(Relation rel, text *stream_id)
{
	StreamKey	key = make_key(RelationGetRelid(rel), stream_id);

	forget(key);
	VersionCacheForget(rel, key.hash, stream_id);
}

static StreamEntry *
find_remembered(StreamKey key)
{
	if (has_single && keys_equal(single.key, key))
		return &single;
	return streams ? streamhash_lookup(streams, key) : NULL;
}

/* Versions that are remembered in shared memory too need no table here. */
static void
remember(StreamKey key, int64 version, bool shared)
{
	StreamEntry *entry = find_remembered(key);
	Size		size = VARSIZE_ANY(key.stream_id);
	bool		found;

	if (entry)
	{
		entry->version = version;
		return;
	}
	if (!has_single && streams == NULL)
	{
		remember_single(key, version);
		return;
	}
	if (shared)
		return;
	if (streams && streams->members >= MAX_CACHED_STREAMS)
	{
		MemoryContextDelete(stream_context);
		streams = NULL;
	}
	if (streams == NULL)
	{
		stream_context = AllocSetContextCreate(TopTransactionContext,
											   "daybook streams appended to",
											   ALLOCSET_DEFAULT_SIZES);
		streams = streamhash_create(stream_context, 64, NULL);
	}
	entry = streamhash_insert(streams, key, &found);
	entry->key.stream_id = MemoryContextAlloc(stream_context, size);
	memcpy(entry->key.stream_id, key.stream_id, size);
	entry->version = version;
}

static void
remember_single(StreamKey key, int64 version)
{
	Size		size = VARSIZE_ANY(key.stream_id);

	if (size > single_room)
	{
		text	   *name = MemoryContextAlloc(TopMemoryContext, size * 2);

		if (single.key.stream_id)
			pfree(single.key.stream_id);
		single.key.stream_id = name;
		single_room = size * 2;
	}
	single.key.hash = key.hash;
	single.key.relid = key.relid;
	memcpy(single.key.stream_id, key.stream_id, size);
	single.version = version;
	has_single = true;
}

static void
forget(StreamKey key)
{
	if (has_single && keys_equal(single.key, key))
		has_single = false;
	if (streams)
		streamhash_delete(streams, key);
}

static StreamKey
make_key(Oid relid, text *stream_id)
{
	StreamKey	key;

	key.hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(stream_id),
								   VARSIZE_ANY_EXHDR(stream_id), relid);
	key.relid = relid;
	key.stream_id = stream_id;
	return key;
}

/* Has this transaction appended anything, rolled back to a savepoint or not? */
bool
StreamTailsWritten(void)
{
	return has_appended;
}

/*
 * Forgets the tails, after the rollback of a subtransaction that may have
 * written some of them; has_appended is left to the end of the transaction.
 */
void
StreamTailsForget(void)
{
	has_single = false;
	if (streams == NULL)
		return;
	MemoryContextDelete(stream_context);
	streams = NULL;
}

/* At the end of the transaction, whose memory goes with it. */
void
StreamTailsEnd(void)
{
	streams = NULL;
	has_single = false;
	has_appended = false;
}

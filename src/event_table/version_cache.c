/*-------------------------------------------------------------------------
 *
 * version_cache.c
 *	  Last versions of streams, remembered in shared memory.
 *
 * An entry says which version of a stream was stored last, and by which
 * transaction.  Everyone who stores a row in an event table writes its entry,
 * or takes it out, while he keeps others from appending to the stream; so an
 * entry whose transaction has committed tells the last version without a look
 * at the index.  An entry of a transaction that was rolled back tells
 * nothing, and neither does the lack of one.
 *
 * A table is told from others by its OID and its file, a database by its OID.
 * These can come again, by CREATE DATABASE ... OID or when OIDs have wrapped
 * around, so the entries go when a table is dropped or a database is made.
 *
 * The memory is divided into sets, of which the stream's hash chooses one;
 * in a full set some entry makes room.  Within a set the other half of the
 * hash tells which entry to look at: most looks touch few cache lines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#if PG_VERSION_NUM < 170000
#define TransamVariables ShmemVariableCache
#endif

/* Streams with longer names are looked up in the index. */
#define MAX_NAME_LENGTH		59

/* With fewer to a set, many sets are full long before the memory is; the bits of CacheSet.used. */
#define SET_SIZE			32

/* Transactions so long ago are not asked about: their xids may come again. */
#define MAX_WRITER_AGE		(UINT64CONST(1) << 30)

typedef struct CacheEntry
{
	FullTransactionId writer;
	int64		version;
	Oid			database;
	Oid			relid;
	Oid			file;			/* another one after a truncation, or for another table */
	uint8		length;
	char		name[MAX_NAME_LENGTH];
} CacheEntry;

typedef struct CacheSet
{
	slock_t		mutex;			/* held for a comparison or a copy of an entry */
	uint8		random;
	uint32		used;			/* entries, by bit */
	uint32		tags[SET_SIZE]; /* of the entries */
	CacheEntry	entries[SET_SIZE];
} CacheSet;

static CacheSet *sets = NULL;
static uint64 nsets = 0;

static CacheSet *set_of(uint64 hash);
static uint32 tag_of(uint64 hash);
static CacheEntry *find_entry(CacheSet *set, Relation rel, uint64 hash, text *stream_id);
static CacheEntry *choose_victim(CacheSet *set);
static uint32 bit_of(const CacheSet *set, const CacheEntry *entry);
static bool is_cacheable(text *stream_id);
static bool has_committed(FullTransactionId writer);

static uint64
set_count(void)
{
	return (uint64) daybook_version_cache_size * 1024 / sizeof(CacheSet);
}

Size
VersionCacheSize(void)
{
	return mul_size(set_count(), sizeof(CacheSet));
}

void
VersionCacheInit(void)
{
	bool		found;

	nsets = set_count();
	if (nsets == 0)
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	sets = ShmemInitStruct("daybook last versions", VersionCacheSize(), &found);
	if (!found)
	{
		memset(sets, 0, VersionCacheSize());
		for (uint64 i = 0; i < nsets; i++)
			SpinLockInit(&sets[i].mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Finds what was stored last, whatever has become of its transaction. */
bool
VersionCacheFind(Relation rel, uint64 hash, text *stream_id, CachedVersion *found)
{
	CacheSet   *set = set_of(hash);
	CacheEntry *entry;

	if (set == NULL || !is_cacheable(stream_id))
		return false;
	SpinLockAcquire(&set->mutex);
	entry = find_entry(set, rel, hash, stream_id);
	if (entry)
	{
		found->version = entry->version;
		found->writer = entry->writer;
	}
	SpinLockRelease(&set->mutex);
	return entry != NULL;
}

/*
 * What has become of the transaction that stored it.  Of one that has
 * committed the caller must look again whether the entry is still the same:
 * it may have stored more before that.
 */
WriterState
VersionCacheWriterState(const CachedVersion *cached)
{
	TransactionId xid = XidFromFullTransactionId(cached->writer);

	if (FullTransactionIdEquals(cached->writer, GetTopFullTransactionIdIfAny()))
		return WRITER_OURS;
	if (U64FromFullTransactionId(ReadNextFullTransactionId()) -
		U64FromFullTransactionId(cached->writer) > MAX_WRITER_AGE)
		return WRITER_UNKNOWN;
	if (TransactionIdIsCurrentTransactionId(xid))
		return WRITER_OURS;
	if (TransactionIdIsInProgress(xid))
		return WRITER_IN_PROGRESS;
	return has_committed(cached->writer) ? WRITER_COMMITTED : WRITER_UNKNOWN;
}

/* The outcome of old transactions is kept only as long as some row may need it. */
static bool
has_committed(FullTransactionId writer)
{
	TransactionId xid = XidFromFullTransactionId(writer);
	bool		committed;

	LWLockAcquire(XactTruncationLock, LW_SHARED);
	committed = TransactionIdFollowsOrEquals(xid, TransamVariables->oldestClogXid) &&
		TransactionIdDidCommit(xid);
	LWLockRelease(XactTruncationLock);
	return committed;
}

/* This transaction is about to store the stream's next row.  False: not remembered. */
bool
VersionCacheStore(Relation rel, uint64 hash, text *stream_id, int64 version)
{
	CacheSet   *set = set_of(hash);
	FullTransactionId writer;
	CacheEntry *entry;

	if (set == NULL || !is_cacheable(stream_id))
		return false;
	writer = GetCurrentFullTransactionId();
	SpinLockAcquire(&set->mutex);
	entry = find_entry(set, rel, hash, stream_id);
	if (entry == NULL)
	{
		entry = choose_victim(set);
		set->used |= bit_of(set, entry);
		set->tags[entry - set->entries] = tag_of(hash);
		entry->database = MyDatabaseId;
		entry->relid = RelationGetRelid(rel);
		entry->file = rel->rd_rel->relfilenode;
		entry->length = VARSIZE_ANY_EXHDR(stream_id);
		memcpy(entry->name, VARDATA_ANY(stream_id), entry->length);
	}
	entry->writer = writer;
	entry->version = version;
	SpinLockRelease(&set->mutex);
	return true;
}

/* A row is about to be stored that may turn out not to be the stream's last. */
void
VersionCacheForget(Relation rel, uint64 hash, text *stream_id)
{
	CacheSet   *set = set_of(hash);
	CacheEntry *entry;

	if (set == NULL || !is_cacheable(stream_id))
		return;
	SpinLockAcquire(&set->mutex);
	entry = find_entry(set, rel, hash, stream_id);
	if (entry)
		set->used &= ~bit_of(set, entry);
	SpinLockRelease(&set->mutex);
}

/*
 * Forgets the streams of a table, or of a whole database if relid is
 * InvalidOid, which nobody can be appending to.
 */
void
VersionCacheForgetAll(Oid database, Oid relid)
{
	for (uint64 i = 0; i < nsets; i++)
	{
		SpinLockAcquire(&sets[i].mutex);
		for (int j = 0; j < SET_SIZE; j++)
		{
			CacheEntry *entry = &sets[i].entries[j];

			if (entry->database == database &&
				(entry->relid == relid || !OidIsValid(relid)))
				sets[i].used &= ~bit_of(&sets[i], entry);
		}
		SpinLockRelease(&sets[i].mutex);
	}
}

static CacheSet *
set_of(uint64 hash)
{
	return nsets == 0 ? NULL : &sets[(uint32) hash % nsets];
}

static uint32
tag_of(uint64 hash)
{
	return (uint32) (hash >> 32);
}

static CacheEntry *
find_entry(CacheSet *set, Relation rel, uint64 hash, text *stream_id)
{
	uint32		tag = tag_of(hash);

	for (int i = 0; i < SET_SIZE; i++)
	{
		CacheEntry *entry = &set->entries[i];

		if (set->tags[i] == tag && (set->used & bit_of(set, entry)) != 0 &&
			entry->relid == RelationGetRelid(rel) &&
			entry->database == MyDatabaseId &&
			entry->file == rel->rd_rel->relfilenode &&
			entry->length == VARSIZE_ANY_EXHDR(stream_id) &&
			memcmp(entry->name, VARDATA_ANY(stream_id), entry->length) == 0)
			return entry;
	}
	return NULL;
}

/* Not in turn: streams that come in turn would each find their entries just taken. */
static CacheEntry *
choose_victim(CacheSet *set)
{
	if (set->used != PG_UINT32_MAX)
		return &set->entries[pg_rightmost_one_pos32(~set->used)];
	set->random = set->random * 13 + 7;
	return &set->entries[set->random * SET_SIZE / (PG_UINT8_MAX + 1)];
}

static uint32
bit_of(const CacheSet *set, const CacheEntry *entry)
{
	return (uint32) 1 << (entry - set->entries);
}

static bool
is_cacheable(text *stream_id)
{
	return VARSIZE_ANY_EXHDR(stream_id) <= MAX_NAME_LENGTH;
}

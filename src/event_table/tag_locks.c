/*-------------------------------------------------------------------------
 *
 * tag_locks.c
 *	  Locks that keep conditional appends and the events they ask about apart.
 *
 * Who appends an event takes a write lock on each of its tags; who appends on
 * condition takes a query lock on each tag of its query first.  Write locks go
 * together and so do query locks, but the one excludes the other, and what is
 * both excludes all.  An event that matches a query has all of the query's
 * tags, so the two meet at every one of them.
 *
 * A transaction that writes very many tags would fill the lock table.  Past a
 * bound it takes one lock for all tags instead, with which every query lock
 * conflicts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "event_table/tag_locks.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

/* Tells our locks from pg_advisory_lock()'s and from those of streams. */
#define TAG_LOCK_CLASS	220

/* Tags written by one transaction, with repetitions, before it locks them all. */
#define MAX_TAG_LOCKS	256

#define WRITE_MODE		RowExclusiveLock
#define QUERY_MODE		ShareLock
#define BOTH_MODE		ExclusiveLock

/* What this transaction has written. */
static int	tags_written = 0;
static Oid	all_tags_relid = InvalidOid;

static int	compare_uses(const void *a, const void *b);
static void lock_tag(Oid relid, const char *tag, int length, LOCKMODE mode);
static void lock_all_tags(Oid relid, LOCKMODE mode);

/* For each event with tags, by its version trigger. */
void
LockEventTags(Oid relid, ArrayType *tags)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	TagUse	   *uses;

	deconstruct_array(tags, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	uses = palloc(count * sizeof(TagUse) + 1);
	for (int i = 0; i < count; i++)
	{
		text	   *tag;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a tag of an event must not be null")));
		tag = DatumGetTextPP(elements[i]);
		uses[i].tag = VARDATA_ANY(tag);
		uses[i].length = VARSIZE_ANY_EXHDR(tag);
		uses[i].uses = TAG_WRITE;
	}
	LockTags(relid, uses, count);
	pfree(uses);
}

/*
 * Locks tags in a fixed order, each once with the mode for all that is going
 * to be done with it: two calls never wait for each other both ways.
 */
void
LockTags(Oid relid, TagUse *uses, int count)
{
	bool		queries = false;

	qsort(uses, count, sizeof(TagUse), compare_uses);
	for (int i = 0; i < count; i++)
		queries |= (uses[i].uses & TAG_QUERY) != 0;
	if (queries)
		lock_all_tags(relid, QUERY_MODE);
	for (int i = 0; i < count; i++)
	{
		int			all_uses = uses[i].uses;

		while (i + 1 < count && compare_uses(&uses[i], &uses[i + 1]) == 0)
			all_uses |= uses[++i].uses;
		if (all_uses == TAG_WRITE && all_tags_relid == relid)
			continue;
		if (all_uses == TAG_WRITE && ++tags_written > MAX_TAG_LOCKS)
		{
			lock_all_tags(relid, WRITE_MODE);
			all_tags_relid = relid;
			continue;
		}
		lock_tag(relid, uses[i].tag, uses[i].length,
				 all_uses == TAG_WRITE ? WRITE_MODE :
				 all_uses == TAG_QUERY ? QUERY_MODE : BOTH_MODE);
	}
}

static int
compare_uses(const void *a, const void *b)
{
	const TagUse *x = a;
	const TagUse *y = b;
	int			order = memcmp(x->tag, y->tag, Min(x->length, y->length));

	return order != 0 ? order : x->length - y->length;
}

static void
lock_tag(Oid relid, const char *tag, int length, LOCKMODE mode)
{
	LOCKTAG		lock;
	uint64		hash = hash_bytes_extended((const unsigned char *) tag, length, relid);

	SET_LOCKTAG_ADVISORY(lock, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 TAG_LOCK_CLASS);
	(void) LockAcquire(&lock, mode, false, false);
}

static void
lock_all_tags(Oid relid, LOCKMODE mode)
{
	LOCKTAG		lock;

	SET_LOCKTAG_ADVISORY(lock, MyDatabaseId, 0, relid, TAG_LOCK_CLASS);
	(void) LockAcquire(&lock, mode, false, false);
}

/* The rollback of a subtransaction may have released the lock for all tags. */
void
TagLocksForget(void)
{
	all_tags_relid = InvalidOid;
}

void
TagLocksEnd(void)
{
	tags_written = 0;
	all_tags_relid = InvalidOid;
}

/*-------------------------------------------------------------------------
 *
 * id_set.c
 *	  A set of events, by the number of their table and their id.
 *
 * Ids come from a sequence and lie close together, so the set is a hash of
 * bitmaps; a million of them take about 130 kB.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sequencer/sequencer_internal.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define IDS_PER_CHUNK	8192

typedef struct ChunkKey
{
	int64		number;			/* id / IDS_PER_CHUNK */
	int64		table_no;		/* as wide, so that there is no padding */
} ChunkKey;

typedef struct IdChunk
{
	ChunkKey	key;
	uint64		words[IDS_PER_CHUNK / 64];
} IdChunk;

struct IdSet
{
	HTAB	   *chunks;
	int64		max;
};

IdSet *
IdSetCreate(MemoryContext context)
{
	IdSet	   *set = MemoryContextAllocZero(context, sizeof(IdSet));
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(ChunkKey);
	ctl.entrysize = sizeof(IdChunk);
	ctl.hcxt = context;
	set->chunks = hash_create("daybook event ids", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return set;
}

void
IdSetAdd(IdSet *set, int32 table_no, int64 id)
{
	ChunkKey	key = {.number = id / IDS_PER_CHUNK, .table_no = table_no};
	int			bit = id % IDS_PER_CHUNK;
	bool		found;
	IdChunk    *chunk = hash_search(set->chunks, &key, HASH_ENTER, &found);

	if (!found)
		memset(chunk->words, 0, sizeof(chunk->words));
	chunk->words[bit / 64] |= UINT64CONST(1) << (bit % 64);
	set->max = Max(set->max, id);
}

bool
IdSetHas(const IdSet *set, int32 table_no, int64 id)
{
	ChunkKey	key = {.number = id / IDS_PER_CHUNK, .table_no = table_no};
	int			bit = id % IDS_PER_CHUNK;
	IdChunk    *chunk = hash_search(set->chunks, &key, HASH_FIND, NULL);

	return chunk && (chunk->words[bit / 64] >> (bit % 64)) & 1;
}

int64
IdSetMax(const IdSet *set)
{
	return set->max;
}

void
IdSetFree(IdSet *set)
{
	hash_destroy(set->chunks);
	pfree(set);
}

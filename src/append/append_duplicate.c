/*-------------------------------------------------------------------------
 *
 * append_duplicate.c
 *	  Recognises events that stand in their stream already.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "append/append.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Where an event with a given id was found. */
typedef struct FoundEvent
{
	int64		version;		/* 0: nowhere */
	int64		id;
} FoundEvent;

static void refuse_repeated(const AppendEvent *events, int count);
static int	compare_ids_in_streams(const void *a, const void *b);
static FoundEvent find_event(Relation rel, const EventTable *table, text *stream_id,
							 const pg_uuid_t *event_id);
static char *uuid_to_cstring(const pg_uuid_t *uuid);

/*
 * True if all events stand in their streams already, in this order; *result
 * then says where.  Some of them only, or another order, is an error.  The
 * caller has locked the streams.
 */
bool
FindDuplicate(Relation rel, const EventTable *table,
			  const AppendEvent *events, int count, AppendResult *result)
{
	int			found = 0;
	int64		last_id = 0;
	bool		in_order = true;

	refuse_repeated(events, count);
	for (int i = 0; i < count; i++)
	{
		FoundEvent	event;

		if (events[i].event_id == NULL)
			continue;
		event = find_event(rel, table, events[i].stream_id, events[i].event_id);
		if (event.version == 0)
			continue;
		if (found++ == 0)
		{
			result->first_version = event.version;
			result->first_id = event.id;
		}
		in_order &= event.id > last_id;
		last_id = event.id;
		result->last_version = event.version;
		result->last_id = event.id;
	}
	if (found == 0)
		return false;
	if (found < count || !in_order)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("%d of %d events stand in event table \"%s\" already%s",
						found, count, RelationGetRelationName(rel),
						found < count ? "" : ", in another order"),
				 errdetail("The last of them found has version " INT64_FORMAT " of its stream.",
						   result->last_version),
				 errhint("Repeat a call with the same events, or give new events new ids."),
				 errtable(rel)));

	/* a caller who is told so gives up its own copies */
	FlushCommitted();
	result->duplicate = true;
	return true;
}

/* An id must not come twice in one call, unless the streams differ. */
static void
refuse_repeated(const AppendEvent *events, int count)
{
	const AppendEvent **given = palloc(count * sizeof(AppendEvent *));
	int			ngiven = 0;

	for (int i = 0; i < count; i++)
		if (events[i].event_id)
			given[ngiven++] = &events[i];
	qsort(given, ngiven, sizeof(AppendEvent *), compare_ids_in_streams);
	for (int i = 1; i < ngiven; i++)
		if (compare_ids_in_streams(&given[i - 1], &given[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("two events of the call have the same event_id"),
					 errdetail("The event_id is %s.", uuid_to_cstring(given[i]->event_id))));
	pfree(given);
}

static int
compare_ids_in_streams(const void *a, const void *b)
{
	const AppendEvent *x = *(const AppendEvent *const *) a;
	const AppendEvent *y = *(const AppendEvent *const *) b;
	int			order = memcmp(x->event_id, y->event_id, UUID_LEN);

	return order != 0 ? order : CompareStreams(x->stream_id, y->stream_id);
}

/*
 * Ids that look like those made here are not in the index: someone has copied
 * an event, and its stream is read through.
 */
static FoundEvent
find_event(Relation rel, const EventTable *table, text *stream_id,
		   const pg_uuid_t *event_id)
{
	bool		indexed = EventIdIsGiven(event_id->data) && OidIsValid(table->event_id_index);
	Relation	index = index_open(indexed ? table->event_id_index : table->stream_index,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	FoundEvent	found = {0};
	IndexScanDesc scan;
	ScanKeyData keys[2];
	int			nkeys = 0;

	if (indexed)
		ScanKeyInit(&keys[nkeys++], 1, BTEqualStrategyNumber, F_UUID_EQ,
					UUIDPGetDatum(event_id));
	ScanKeyEntryInitialize(&keys[nkeys], 0, nkeys + 1, BTEqualStrategyNumber, TEXTOID,
						   index->rd_indcollation[nkeys], F_TEXTEQ,
						   PointerGetDatum(stream_id));
	nkeys++;

	/* sees what this command has inserted, too */
	scan = index_beginscan_compat(rel, index, SnapshotSelf, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (found.version == 0 && index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		bool		is_null;
		Datum		stored = slot_getattr(slot, EVENT_EVENT_ID, &is_null);

		if (memcmp(DatumGetUUIDP(stored), event_id, UUID_LEN) != 0)
			continue;
		found.version = DatumGetInt64(slot_getattr(slot, EVENT_VERSION, &is_null));
		found.id = DatumGetInt64(slot_getattr(slot, EVENT_ID, &is_null));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return found;
}

static char *
uuid_to_cstring(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

/*-------------------------------------------------------------------------
 *
 * insertion_ids.c
 *	  Which ids an event table has.
 *
 * Read in the index of its key, not by a query: whoever plans one calls what is
 * constant in the conditions of the table's partial indexes, functions of its
 * owner's, and believes them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

/* The ids that are committed, or this transaction's. */
typedef struct IdScan
{
	Snapshot	snapshot;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} IdScan;

static void begin_scan(IdScan *ids, Relation rel);
static bool next_id(IdScan *ids, ScanDirection direction, int64 *id);
static void end_scan(IdScan *ids);

/* The lowest id, or with BackwardScanDirection the highest; 0 if there is no event. */
int64
FirstInsertionId(Relation rel, ScanDirection direction)
{
	IdScan		ids;
	int64		id = 0;

	begin_scan(&ids, rel);
	(void) next_id(&ids, direction, &id);
	end_scan(&ids);
	return id;
}

/* Have two tables an id in common? */
bool
InsertionIdsMeet(Relation a, Relation b)
{
	IdScan		ids_a;
	IdScan		ids_b;
	int64		id_a;
	int64		id_b;
	bool		more;

	begin_scan(&ids_a, a);
	begin_scan(&ids_b, b);
	more = next_id(&ids_a, ForwardScanDirection, &id_a) &&
		next_id(&ids_b, ForwardScanDirection, &id_b);
	while (more && id_a != id_b)
	{
		CHECK_FOR_INTERRUPTS();
		more = id_a < id_b ? next_id(&ids_a, ForwardScanDirection, &id_a) :
			next_id(&ids_b, ForwardScanDirection, &id_b);
	}
	end_scan(&ids_b);
	end_scan(&ids_a);
	return more;
}

static void
begin_scan(IdScan *ids, Relation rel)
{
	ids->snapshot = RegisterSnapshot(GetLatestSnapshot());
	ids->index = index_open(RequireEventTable(rel)->id_index, AccessShareLock);
	ids->scan = index_beginscan_compat(rel, ids->index, ids->snapshot, 0);
	ids->slot = table_slot_create(rel, NULL);
	index_rescan(ids->scan, NULL, 0, NULL, 0);
}

static bool
next_id(IdScan *ids, ScanDirection direction, int64 *id)
{
	bool		is_null;

	if (!index_getnext_slot(ids->scan, direction, ids->slot))
		return false;
	*id = DatumGetInt64(slot_getattr(ids->slot, EVENT_ID, &is_null));
	return true;
}

static void
end_scan(IdScan *ids)
{
	ExecDropSingleTupleTableSlot(ids->slot);
	index_endscan(ids->scan);
	index_close(ids->index, NoLock);
	UnregisterSnapshot(ids->snapshot);
}

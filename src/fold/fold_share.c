/*-------------------------------------------------------------------------
 *
 * fold_share.c
 *	  Sharing the streams of an event table out among processes.
 *
 * The index has the streams in order.  A process takes all streams from where
 * the last one stopped up to the one that some number of index entries leads
 * to, which it finds without looking at events, and then reads them by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/itup.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "fold/fold_share.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

/* Entries of the index that are passed at a time, about as many events. */
#define ENTRIES_TAKEN		2000

static void lock_share(StreamShare *share);
static void unlock_share(StreamShare *share);
static text *pass_entries(Relation event_table, Snapshot snapshot, text *after);

void
StreamShareInit(void *memory)
{
	StreamShare *share = memory;

	SpinLockInit(&share->mutex);
	ConditionVariableInit(&share->taken);
	share->taking = false;
	share->at_end = false;
	share->length = -1;
}

bool
StreamShareTake(StreamShare *share, Relation event_table, Snapshot snapshot,
				text **after, text **upto)
{
	bool		found;

	lock_share(share);
	found = !share->at_end;
	if (found)
	{
		*after = share->length < 0 ? NULL :
			cstring_to_text_with_len(share->name, share->length);
		*upto = pass_entries(event_table, snapshot, *after);
		if (*upto == NULL)
			share->at_end = true;
		else
		{
			share->length = VARSIZE_ANY_EXHDR(*upto);
			memcpy(share->name, VARDATA_ANY(*upto), share->length);
		}
	}
	unlock_share(share);
	return found;
}

/*
 * Waits in a way that can be interrupted.  Nobody lets go after an error: it
 * ends the query in all processes.
 */
static void
lock_share(StreamShare *share)
{
	bool		mine = false;

	while (!mine)
	{
		SpinLockAcquire(&share->mutex);
		mine = !share->taking;
		share->taking = true;
		SpinLockRelease(&share->mutex);
		if (!mine)
			ConditionVariableSleep(&share->taken, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

static void
unlock_share(StreamShare *share)
{
	SpinLockAcquire(&share->mutex);
	share->taking = false;
	SpinLockRelease(&share->mutex);
	ConditionVariableBroadcast(&share->taken);
}

/* The stream of the last of some entries; NULL where the index ends before. */
static text *
pass_entries(Relation event_table, Snapshot snapshot, text *after)
{
	Relation	index = index_open(RequireEventTable(event_table)->stream_index, AccessShareLock);
	IndexScanDesc scan = index_beginscan_compat(event_table, index, snapshot, after ? 1 : 0);
	int			passed = 0;
	ScanKeyData key;
	text	   *stream_id = NULL;

	if (after)
		ScanKeyEntryInitialize(&key, 0, 1, BTGreaterStrategyNumber, InvalidOid,
							   index->rd_indcollation[0], F_TEXT_GT, PointerGetDatum(after));
	scan->xs_want_itup = true;
	index_rescan(scan, &key, after ? 1 : 0, NULL, 0);
	while (stream_id == NULL && index_getnext_tid(scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		if (++passed >= ENTRIES_TAKEN)
		{
			bool		is_null;
			text	   *name = DatumGetTextPP(index_getattr(scan->xs_itup, 1, scan->xs_itupdesc, &is_null));

			if (VARSIZE_ANY_EXHDR(name) <= NAME_ROOM)
				stream_id = DatumGetTextPCopy(PointerGetDatum(name));
		}
	}
	index_endscan(scan);
	index_close(index, NoLock);
	return stream_id;
}

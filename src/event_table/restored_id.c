/*-------------------------------------------------------------------------
 *
 * restored_id.c
 *	  Ids that rows bring with them when a dump is loaded into event tables
 *	  that have their version trigger.
 *
 * Such an id must not be given out once more, so the sequence follows it.  An
 * id that the sequence has passed comes late: the sequencer, which goes by
 * ids where it cannot decode, may have passed it too, and is told in
 * daybook.late_event to look again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/registry.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/inval.h"

/* Up to so many ids are taken one by one, without a lock on the sequence. */
#define MAX_IDS_SKIPPED		100000

/* Late ids are noted by blocks, so that rows in falling order need few notes. */
#define LATE_BLOCK			10000

/* This transaction has seen the sequence give out this id. */
static int64 given_out = 0;

/* It has noted late ids from here on. */
static int64 noted_from = PG_INT64_MAX;

static int64 advance_sequence(int64 id);
static void note_late(int64 id);

/* A row with this id is about to be stored. */
void
RestoredIdTaken(int64 id)
{
	if (id > given_out)
	{
		given_out = advance_sequence(id);
		if (given_out == id)
			return;
	}
	if (id < noted_from)
		note_late(id);
}

/* Takes ids from the sequence up to this one; returns the last taken. */
static int64
advance_sequence(int64 id)
{
	Oid			sequence = GetDaybookOids()->event_id_seq;
	int64		taken = nextval_internal(sequence, false);

	if (id - taken > MAX_IDS_SKIPPED)
	{
		Oid			types[] = {INT8OID};
		Datum		values[] = {Int64GetDatum(id)};

		/* setval() would set it back if others had passed the id meanwhile */
		LockRelationOid(sequence, ShareRowExclusiveLock);
		taken = nextval_internal(sequence, false);
		if (taken < id)
			RunAsOwner("SELECT pg_catalog.setval('daybook.event_id_seq', $1)",
					   1, types, values, SPI_OK_SELECT);
		UnlockRelationOid(sequence, ShareRowExclusiveLock);
		return Max(taken, id);
	}
	while (taken < id)
	{
		CHECK_FOR_INTERRUPTS();
		taken = nextval_internal(sequence, false);
	}
	return taken;
}

static void
note_late(int64 id)
{
	Oid			types[] = {INT8OID};
	Datum		values[1];

	noted_from = Max(1, id - id % LATE_BLOCK);
	values[0] = Int64GetDatum(noted_from);
	RunAsOwner("INSERT INTO daybook.late_event (from_id) VALUES ($1)",
			   1, types, values, SPI_OK_INSERT);

	/* wakes nobody, but makes the sequencer look when the commit wakes it */
	CacheInvalidateRelcacheByRelid(DaybookRelation("late_event"));
}

/* At the end of a transaction, and when part of it is rolled back. */
void
RestoredIdsForget(void)
{
	given_out = 0;
	noted_from = PG_INT64_MAX;
}

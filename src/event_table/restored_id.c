/*-------------------------------------------------------------------------
 *
 * restored_id.c
 *	  Ids that rows bring with them when a dump is loaded into event tables
 *	  that have their version trigger.
 *
 * Such an id must not be given out once more, so the sequence follows it.  And
 * the sequencer is told in daybook.late_event to look for it from the marks:
 * it may have passed the id, and the log may have it already, if the log came
 * out of the same dump.  What it decodes it takes for new.
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

/* So many ids are taken one by one before a try, or another, for a lock on the sequence. */
#define MAX_IDS_SKIPPED		100000

/* Late ids are noted by blocks, so that rows in falling order need few notes. */
#define LATE_BLOCK			10000

/* This transaction has seen the sequence give out this id. */
static int64 given_out = 0;

/* It has noted late ids from here on. */
static int64 noted_from = PG_INT64_MAX;

static int64 advance_sequence(int64 id);
static bool leap(Oid sequence, int64 id, int64 *taken);
static void note_late(int64 id);

/* A row with this id is about to be stored. */
void
RestoredIdTaken(int64 id)
{
	if (id > given_out)
		given_out = advance_sequence(id);
	if (id < noted_from)
		note_late(id);
}

/*
 * Takes ids from the sequence up to this one; returns the last taken.  While a
 * leap cannot be made, ids are taken one by one, between tries.
 */
static int64
advance_sequence(int64 id)
{
	Oid			sequence = GetDaybookOids()->event_id_seq;
	int64		taken = nextval_internal(sequence, false);

	while (taken < id)
	{
		int64		upto = id - taken > MAX_IDS_SKIPPED ? taken + MAX_IDS_SKIPPED : id;

		if (upto < id && leap(sequence, id, &taken))
			break;
		while (taken < upto)
		{
			CHECK_FOR_INTERRUPTS();
			taken = nextval_internal(sequence, false);
		}
	}
	return taken;
}

/*
 * Sets the sequence to this id unless it is there already.  The lock keeps
 * setval() from setting back what others have passed meanwhile.  It is not
 * waited for, or else all that append would wait behind for whoever has
 * appended last and is open still; false if it was not to be had.
 */
static bool
leap(Oid sequence, int64 id, int64 *taken)
{
	if (!ConditionalLockRelationOid(sequence, ShareRowExclusiveLock))
		return false;
	*taken = nextval_internal(sequence, false);
	if (*taken < id)
	{
		Oid			types[] = {INT8OID};
		Datum		values[] = {Int64GetDatum(id)};

		RunAsOwner("SELECT pg_catalog.setval('daybook.event_id_seq', $1)",
				   1, types, values, SPI_OK_SELECT);
		*taken = id;
	}
	UnlockRelationOid(sequence, ShareRowExclusiveLock);
	return true;
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
}

/* At the end of a transaction, and when part of it is rolled back. */
void
RestoredIdsForget(void)
{
	given_out = 0;
	noted_from = PG_INT64_MAX;
}

/*-------------------------------------------------------------------------
 *
 * worker_state.h
 *	  What backends and workers of one database share: who to wake, and how
 *	  far ordering has come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_WORKER_STATE_H
#define DAYBOOK_WORKER_STATE_H

#include "access/xlogdefs.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

typedef enum SequencerMode
{
	SEQUENCER_STOPPED,
	SEQUENCER_STARTING,
	SEQUENCER_SCANNING,
	SEQUENCER_DECODING
} SequencerMode;

#define SEQUENCER_HINT_LEN	256

/* One entry for each database in which the extension was found. */
typedef struct DatabaseState
{
	Oid			database;		/* InvalidOid: entry is free */
	int			held;			/* commands that need the database to itself */
	bool		wanted;			/* the launcher shall start its worker */
	TimestampTz start_after;	/* not before, after a failure */
	int			failures;		/* starts in a row that ended in an error */
	pid_t		worker_pid;		/* the database's worker, 0 if none */
	Latch	   *worker_latch;
	bool		supervise;		/* list of projections may have changed */

	/* the sequencer's progress, for status and for waiters */
	SequencerMode mode;
	char		hint[SEQUENCER_HINT_LEN];
	TimestampTz started_at;
	TimestampTz last_published_at;
	int64		low_water;
	XLogRecPtr	slot_restart_lsn;
	pg_atomic_uint64 head;		/* last position published */
	pg_atomic_uint64 sequenced_lsn; /* events of commits up to here are in the log */
	pg_atomic_uint64 flush_request; /* WAL to flush before the next round */
	ConditionVariable published;	/* head or sequenced_lsn has moved */
	ConditionVariable projected;	/* some projection's position has moved */
} DatabaseState;

/* size and initialisation, from the module's shared memory hooks */
extern Size WorkerStateSize(void);
extern void WorkerStateInit(void);

extern DatabaseState *MyDatabaseState(void);	/* NULL: extension unknown here */
extern void WakeDatabaseWorker(void);
extern void WakeDatabaseWorkerAtCommit(void);
extern void SuperviseAtCommit(void);

#endif							/* DAYBOOK_WORKER_STATE_H */

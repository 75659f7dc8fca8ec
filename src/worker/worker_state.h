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
#include "nodes/pg_list.h"
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
#define LOG_LSN_UNKNOWN		PG_UINT64_MAX
#define WAITING_CONSUMER_COUNTERS	64

/*
 * One entry for each database in which the extension was found, or is being
 * looked for.  The fields of the first group are changed under WorkerState's
 * lock; those of the second are written by the database's worker alone.
 */
typedef struct DatabaseState
{
	Oid			database;		/* InvalidOid: entry is free */
	int			held;			/* commands that need the database to themselves */
	bool		look_again;		/* the extension was created since the worker came */
	int			failures;		/* ends of its worker in a row that were errors */
	TimestampTz start_after;	/* no worker before, after a failure */
	pid_t		worker_pid;		/* the database's worker, 0 if none */
	Latch	   *worker_latch;
	bool		supervise;		/* the list of projections may have changed */

	SequencerMode mode;
	char		hint[SEQUENCER_HINT_LEN];
	TimestampTz started_at;
	TimestampTz last_published_at;
	int64		low_water;		/* ids up to here are done with */
	int			open_gaps;		/* stretches of ids with missing ones */
	XLogRecPtr	decoded_lsn;
	pg_atomic_uint64 head;		/* last position published */
	pg_atomic_uint64 sequenced_lsn; /* events of commits up to here are in the log */
	pg_atomic_uint64 log_lsn;	/* WAL up to here is flushed before the log is read */
	pg_atomic_uint64 flush_request; /* WAL to flush before the next round */
	pg_atomic_uint64 awaited_lsn;	/* sessions wait for sequenced_lsn to come here */
	volatile bool resting;		/* commits need not wake the worker, it looks by itself */
	ConditionVariable published;	/* head or sequenced_lsn has moved */
	ConditionVariable projected;	/* some projection's position has moved */

	/* consumers of subscriptions; those that wait do so for published */
	pg_atomic_uint32 waiting_consumers;
	pg_atomic_uint32 waiting_for[WAITING_CONSUMER_COUNTERS];	/* of these, by their subscription's hash */
	pg_atomic_uint64 consumer_changes;	/* one has let go of what others may fetch */
	pg_atomic_uint64 consumer_refusals; /* one has found a partition locked */
} DatabaseState;

extern Size WorkerStateSize(void);
extern void WorkerStateInit(void);
extern bool WorkerStateAvailable(void);
extern void WorkerCallbacksInit(void);

extern void RequirePreload(void);

/* NULL where the extension has no worker in this database */
extern DatabaseState *MyDatabaseState(void);
/* an error there */
extern DatabaseState *MyDatabaseStateToWait(void);
extern bool WorkerStateIsFull(void);
extern bool LauncherHasCome(void);

/* for backends */
extern void WakeDatabaseWorker(void);
extern void WakeDatabaseWorkerAtCommit(void);
extern void SuperviseAtCommit(void);
extern void StartDatabaseWorkerAtCommit(void);
extern void RescanDatabasesAtCommit(void);
extern void RequestSequencing(XLogRecPtr lsn);
extern void OwnCommitIsAwaited(void);

/* for commands that need a database to themselves */
extern bool HoldDatabase(Oid database);
extern void EndDatabaseProcesses(Oid database);
extern void ReleaseDatabase(int code, Datum database);

/* for workers: enter and leave the list of a database's processes */
extern void WorkerAskedToEnd(SIGNAL_ARGS);
extern void WorkerAttach(bool is_database_worker);
extern bool WorkerMustStop(void);

/* for the launcher */
extern void LauncherAttach(void);
extern List *DatabasesWanted(List *existing, List *looked_into, long *timeout);
extern void DatabaseHint(Oid database, const char *hint);
extern void DatabaseWithoutExtension(void);

#endif							/* DAYBOOK_WORKER_STATE_H */

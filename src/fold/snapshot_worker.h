/*-------------------------------------------------------------------------
 *
 * snapshot_worker.h
 *	  The worker that takes snapshots of folds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_SNAPSHOT_WORKER_H
#define DAYBOOK_SNAPSHOT_WORKER_H

/*
 * Starts the worker if some fold of this database takes snapshots and it is
 * not running.  Called by the database's worker outside a transaction, at its
 * start and when DatabaseState.supervise was set.  Returns milliseconds after
 * which it wants to be called again, -1 for never.
 */
extern long SnapshotWorkerSupervise(void);

/* True once a worker has ended, until it is supervised. */
extern bool SnapshotWorkerHasEnded(void);

extern PGDLLEXPORT void daybook_snapshot_worker_main(Datum arg);

#endif							/* DAYBOOK_SNAPSHOT_WORKER_H */

/*-------------------------------------------------------------------------
 *
 * projector.h
 *	  The workers that keep asynchronous projections.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PROJECTOR_H
#define DAYBOOK_PROJECTOR_H

/*
 * Starts a worker for each running asynchronous projection of this database
 * that has none, as far as daybook.max_projectors goes.  Called by the
 * database's worker outside a transaction, at its start, when
 * DatabaseState.supervise was set, and when a child has ended.  Returns
 * milliseconds after which it wants to be called again, -1 for never.
 */
extern long ProjectorsSupervise(void);

extern PGDLLEXPORT void daybook_projector_main(Datum arg);

#endif							/* DAYBOOK_PROJECTOR_H */

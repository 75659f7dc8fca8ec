/*-------------------------------------------------------------------------
 *
 * worker_session.h
 *	  The session of a worker in its database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_WORKER_SESSION_H
#define DAYBOOK_WORKER_SESSION_H

/* Connects as the superuser, with settings that are a worker's own. */
extern void WorkerConnect(Oid database);

#endif							/* DAYBOOK_WORKER_SESSION_H */

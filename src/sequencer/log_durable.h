/*-------------------------------------------------------------------------
 *
 * log_durable.h
 *	  What has been read from the log outlives a crash.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_LOG_DURABLE_H
#define DAYBOOK_LOG_DURABLE_H

/* Commits the current transaction, the sequencer's, which has written to the log. */
extern void CommitLog(void);

/*
 * Has on disk what a snapshot that was taken before can see of the log.  To
 * be called before anybody is told of it.
 */
extern void MakeLogDurable(void);

#endif							/* DAYBOOK_LOG_DURABLE_H */

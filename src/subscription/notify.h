/*-------------------------------------------------------------------------
 *
 * notify.h
 *	  Telling those who LISTEN that events have been published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_NOTIFY_H
#define DAYBOOK_NOTIFY_H

/*
 * Called by the database's worker between its rounds.  Returns for how many
 * milliseconds it may sleep, -1 for as long as nothing is published.
 */
extern long NotifyRound(void);

#endif							/* DAYBOOK_NOTIFY_H */

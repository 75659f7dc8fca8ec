/*-------------------------------------------------------------------------
 *
 * error_class.h
 *	  What an error says about the event that was being handled.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_ERROR_CLASS_H
#define DAYBOOK_ERROR_CLASS_H

/* It may pass by itself: the same work may go through later. */
extern bool ErrorIsTransient(int sqlstate);

/* It does not come from the event's data: every event would fail so. */
extern bool ErrorIsForeign(int sqlstate);

/*
 * For whoever catches an error and goes on: an interrupt that has raised it
 * may have kept others, and PostgreSQL does not ask for them again.
 */
extern void LookAtInterruptsAgain(void);

#endif							/* DAYBOOK_ERROR_CLASS_H */

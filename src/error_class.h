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

#endif							/* DAYBOOK_ERROR_CLASS_H */

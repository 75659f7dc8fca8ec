/*-------------------------------------------------------------------------
 *
 * subtransaction.h
 *	  Running something that may fail in a subtransaction.
 *
 * An error must not leave a subtransaction that was begun here: the session
 * would go on in it, with no way out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_SUBTRANSACTION_H
#define DAYBOOK_SUBTRANSACTION_H

/*
 * The function returns whether to keep what it has done.  The result is NULL,
 * or, after the subtransaction was rolled back, the error that it ended with,
 * in the current memory context; the caller may pass it to ReThrowError().
 */
extern ErrorData *RunInSubtransaction(bool (*function) (void *arg), void *arg);

#endif							/* DAYBOOK_SUBTRANSACTION_H */

/*-------------------------------------------------------------------------
 *
 * sequencer.h
 *	  Brings committed events into one order and writes it down in the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_SEQUENCER_H
#define DAYBOOK_SEQUENCER_H

extern void SequencerStart(void);

/*
 * Publishes what has been committed since the last round.  *wait is how many
 * milliseconds the caller may sleep unless its latch is set: 0 for not at
 * all, -1 for as long as nothing happens.  False when the extension is gone.
 */
extern bool SequencerRound(long *wait);

/* Sleeps a little if that is due; true if it was, and the next round is. */
extern bool SequencerRest(void);

#endif							/* DAYBOOK_SEQUENCER_H */

/*-------------------------------------------------------------------------
 *
 * fold_share.h
 *	  Sharing the streams of an event table out among processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_FOLD_SHARE_H
#define DAYBOOK_FOLD_SHARE_H

#include "storage/condition_variable.h"
#include "storage/spin.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* A stream with a longer name is no place to stop at. */
#define NAME_ROOM			4096

/* How far the streams have been given out; in shared memory. */
typedef struct StreamShare
{
	slock_t		mutex;			/* protects taking */
	bool		taking;			/* some process has what follows to itself */
	ConditionVariable taken;
	bool		at_end;
	int			length;			/* of the name, -1 before the first stream */
	char		name[NAME_ROOM];	/* stream up to which all were given out */
} StreamShare;

extern void StreamShareInit(void *share);

/*
 * Takes the next streams, those from after *after up to and with *upto, where
 * NULL means no bound.  False: all have been taken.  The names are in the
 * current memory context.
 */
extern bool StreamShareTake(StreamShare *share, Relation event_table, Snapshot snapshot,
							text **after, text **upto);

#endif							/* DAYBOOK_FOLD_SHARE_H */

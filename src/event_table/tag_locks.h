/*-------------------------------------------------------------------------
 *
 * tag_locks.h
 *	  Locks that keep conditional appends and the events they ask about apart.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_TAG_LOCKS_H
#define DAYBOOK_TAG_LOCKS_H

#include "utils/array.h"

/* What a transaction is going to do with a tag. */
#define TAG_WRITE	0x01		/* append an event that has it */
#define TAG_QUERY	0x02		/* rely on there being no other such event */

typedef struct TagUse
{
	char	   *tag;
	int			length;
	int			uses;
} TagUse;

extern void LockEventTags(Oid relid, ArrayType *tags);
extern void LockTags(Oid relid, TagUse *uses, int count);
extern void TagLocksForget(void);
extern void TagLocksEnd(void);

#endif							/* DAYBOOK_TAG_LOCKS_H */

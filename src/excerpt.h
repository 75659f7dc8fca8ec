/*-------------------------------------------------------------------------
 *
 * excerpt.h
 *	  Users' values in messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_EXCERPT_H
#define DAYBOOK_EXCERPT_H

#include "utils/jsonb.h"

/* Of a value that is longer than that, a message shows so many bytes. */
#define MAX_SHOWN_BYTES	200

extern char *Excerpt(const char *value, int length);
extern char *ExcerptOfText(const text *value);
extern char *ExcerptOfJsonb(Jsonb *value);

#endif							/* DAYBOOK_EXCERPT_H */

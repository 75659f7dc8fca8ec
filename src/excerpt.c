/*-------------------------------------------------------------------------
 *
 * excerpt.c
 *	  Users' values in messages.
 *
 * Messages go to the client and into the server's log, which is no place for
 * values of many megabytes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "excerpt.h"
#include "mb/pg_wchar.h"

/* The value, or its beginning and dots. */
char *
Excerpt(const char *value, int length)
{
	if (length <= MAX_SHOWN_BYTES)
		return pnstrdup(value, length);
	return psprintf("%.*s...", pg_mbcliplen(value, length, MAX_SHOWN_BYTES), value);
}

char *
ExcerptOfText(const text *value)
{
	return Excerpt(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

char *
ExcerptOfJsonb(Jsonb *value)
{
	char	   *image = JsonbToCString(NULL, &value->root, VARSIZE(value));

	return Excerpt(image, strlen(image));
}

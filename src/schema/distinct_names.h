/*-------------------------------------------------------------------------
 *
 * distinct_names.h
 *	  Lists of strings that are shown once each.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_DISTINCT_NAMES_H
#define DAYBOOK_DISTINCT_NAMES_H

#include "nodes/pg_list.h"

/* Adds a copy of the name, in the given context, unless the list (of char *) has it. */
extern List *AddDistinctName(List *names, const char *name, MemoryContext context);

/* The names as one text. */
extern Datum JoinNames(const List *names, const char *separator);

#endif							/* DAYBOOK_DISTINCT_NAMES_H */

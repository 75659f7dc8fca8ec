/*-------------------------------------------------------------------------
 *
 * event_source.h
 *	  Opening event tables to read events on behalf of a user.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_EVENT_SOURCE_H
#define DAYBOOK_EVENT_SOURCE_H

#include "utils/rel.h"

/* An error unless the current user may read every event of the table. */
extern void CheckEventTableReadable(Oid relid);

/* Checks that, and opens the table; an error if it is no event table. */
extern Relation OpenReadableEventTable(Oid relid);

#endif							/* DAYBOOK_EVENT_SOURCE_H */

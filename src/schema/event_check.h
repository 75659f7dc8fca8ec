/*-------------------------------------------------------------------------
 *
 * event_check.h
 *	  Whether an event is as its registered type says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_EVENT_CHECK_H
#define DAYBOOK_EVENT_CHECK_H

#include "schema/event_schema.h"
#include "utils/jsonb.h"

/* Called once when the module is loaded. */
extern void EventCheckInit(void);

/* Can a function check events? */
extern bool IsCheckFunction(Oid function);

/* The registered type of an event, NULL if there is none. */
extern EventType *EventTypeOf(EventSchema *schema, const text *type, int32 version);

/*
 * Checks an event's payload, given all columns of daybook.event.  Returns NULL
 * if it fits, else what is wrong with it.  Needs a subtransaction to itself
 * when the caller goes on after a failure.
 */
extern char *EventMisfit(EventSchema *schema, EventType *type, Relation event_table,
						 Datum *values, bool *nulls);

/* The same in a subtransaction, which leaves no trace of a check that failed. */
extern char *EventMisfitUndone(EventSchema *schema, EventType *type, Relation event_table,
							   Datum *values, bool *nulls);

#endif							/* DAYBOOK_EVENT_CHECK_H */

/*-------------------------------------------------------------------------
 *
 * payload_check.h
 *	  Whether a JSON payload fits a composite type or a domain.
 *
 * An object fits a composite type if each of its keys is a field of the type
 * and the value can be converted to the field's type, as
 * jsonb_populate_record() would.  A missing key is null, which only a domain
 * refuses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PAYLOAD_CHECK_H
#define DAYBOOK_PAYLOAD_CHECK_H

#include "schema/event_schema.h"
#include "utils/jsonb.h"

typedef struct PayloadCheck PayloadCheck;

/* An error unless payloads can be described by such a type. */
extern void CheckPayloadType(Oid type);

/*
 * Lives in the current memory context.  Where a schema is given, it depends
 * on the types that are met.
 */
extern PayloadCheck *MakePayloadCheck(Oid type, EventSchema *schema);

/* Does checking a payload run code of users, such as a domain's constraint? */
extern bool PayloadCheckRunsUserCode(const PayloadCheck *check);

/* Raises an error if the payload does not fit. */
extern void RunPayloadCheck(PayloadCheck *check, Jsonb *payload);

/* The field that was being looked at when an error was raised, NULL for none. */
extern char *PayloadCheckField(const PayloadCheck *check);

#endif							/* DAYBOOK_PAYLOAD_CHECK_H */

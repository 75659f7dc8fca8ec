/*-------------------------------------------------------------------------
 *
 * event_schema.h
 *	  What is registered for an event table: its event types and upcasters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_EVENT_SCHEMA_H
#define DAYBOOK_EVENT_SCHEMA_H

#include "utils/rel.h"

typedef enum CheckMode
{
	CHECK_OFF,
	CHECK_WARN,
	CHECK_REJECT
} CheckMode;

struct EventCheck;

/* A row of daybook.event_type. */
typedef struct EventType
{
	text	   *type;
	int32		schema_version;
	Oid			payload_type;	/* InvalidOid: none */
	char	   *check_function; /* NULL: none */
	CheckMode	mode;
	struct EventCheck *check;	/* made by the first event that is checked; NULL while it runs */
} EventType;

/* A row of daybook.upcaster. */
typedef struct UpcastStep
{
	text	   *type;
	int32		from_version;
	text	   *to_type;
	char	   *function;
	int32		place;
} UpcastStep;

/* Both lists are sorted by type and version, and steps then by place. */
typedef struct EventSchema
{
	Oid			relid;
	Oid			owner;			/* as whom functions run */
	MemoryContext context;
	int			pins;
	bool		stale;			/* to be freed with the last pin */
	int			type_count;
	EventType  *types;
	int			step_count;
	UpcastStep *steps;
	bool		parallel_safe;	/* all upcasters are known to be */
} EventSchema;

/*
 * NULL if nothing is registered for the table.  It stays as it is for as long
 * as it is pinned; who may fail in between sees to it that it is unpinned.
 */
extern EventSchema *PinEventSchema(Relation event_table);
extern void UnpinEventSchema(EventSchema *schema);

/* Pinned for as long as the current memory context lives, errors or not. */
extern EventSchema *HoldEventSchema(Relation event_table);

/* False: it would have to be read anew.  Else what PinEventSchema() would give. */
extern bool EventSchemaKnown(Oid event_table, EventSchema **schema);

/* Index of the first element not below (type, version) in its list. */
extern int	FindEventType(const EventSchema *schema, const text *type, int32 version);
extern int	FindUpcastStep(const EventSchema *schema, const text *type, int32 version);

/* By length, then by bytes: quick, and the same everywhere. */
extern int	CompareTypes(const text *a, const text *b);

/* Throws the schema away when one of its functions or types changes. */
extern void EventSchemaDependsOn(EventSchema *schema, int cache, Oid object);

#endif							/* DAYBOOK_EVENT_SCHEMA_H */

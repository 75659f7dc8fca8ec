/*-------------------------------------------------------------------------
 *
 * event_schema.c
 *	  What is registered for an event table, kept per backend.
 *
 * Whoever changes the two tables makes the event table's relcache entry
 * invalid, and with it what is kept here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "executor/spi.h"
#include "run_now.h"
#include "schema/event_schema.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(daybook_event_schema_changed);
PG_FUNCTION_INFO_V1(daybook_forget_event_table);

/* columns of daybook.event_type and daybook.upcaster */
enum
{
	EVENT_TYPE_EVENT_TABLE = 1,
	EVENT_TYPE_TYPE,
	EVENT_TYPE_SCHEMA_VERSION,
	EVENT_TYPE_PAYLOAD_TYPE,
	EVENT_TYPE_CHECK_FUNCTION,
	EVENT_TYPE_MODE
};

enum
{
	UPCASTER_EVENT_TABLE = 1,
	UPCASTER_TYPE,
	UPCASTER_FROM_VERSION,
	UPCASTER_TO_TYPE,
	UPCASTER_FUNCTION,
	UPCASTER_PLACE
};

/* A function, a type or a relation (RELOID) that a schema was made with. */
typedef struct Dependency
{
	int			cache;
	Oid			object;
	uint32		hash;
} Dependency;

typedef struct CacheEntry
{
	Oid			relid;			/* hash key */
	bool		valid;
	EventSchema *schema;		/* NULL: nothing is registered */
	List	   *dependencies;	/* in the schema's context */
} CacheEntry;

static HTAB *cache = NULL;
static uint64 invalidations = 0;

static void let_go(void *arg);
static void make_cache(void);
static void forget_relation(Datum arg, Oid relid);
static void forget_object(Datum arg, int cache_id, uint32 hash);
static void forget_roles(Datum arg, int cache_id, uint32 hash);
static bool depends_on(const CacheEntry *entry, int cache_id, Oid object, uint32 hash);
static EventSchema *load_schema(Relation event_table);
static SysScanDesc begin_scan(Relation rel, const char *index, Oid relid);
static void load_event_types(EventSchema *schema);
static void load_upcasters(EventSchema *schema);
static text *copy_text(Datum value);
static int	compare_event_types(const void *a, const void *b);
static int	compare_steps(const void *a, const void *b);
static void free_schema(EventSchema *schema);
static void invalidate_table(HeapTuple tuple, TupleDesc desc);
static TriggerData *check_trigger_call(FunctionCallInfo fcinfo);

EventSchema *
PinEventSchema(Relation event_table)
{
	Oid			relid = RelationGetRelid(event_table);
	CacheEntry *entry;
	bool		found;
	uint64		before;

	if (cache == NULL)
		make_cache();
	entry = hash_search(cache, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->schema = NULL;
		entry->dependencies = NIL;
	}
	while (!entry->valid)
	{
		EventSchema *old = entry->schema;

		entry->schema = NULL;
		entry->dependencies = NIL;
		if (old)
			free_schema(old);
		before = invalidations;
		entry->schema = load_schema(event_table);
		entry->valid = invalidations == before;
	}
	if (entry->schema)
		entry->schema->pins++;
	return entry->schema;
}

void
UnpinEventSchema(EventSchema *schema)
{
	schema->pins--;
	if (schema->stale && schema->pins == 0)
		MemoryContextDelete(schema->context);
}

EventSchema *
HoldEventSchema(Relation event_table)
{
	MemoryContextCallback *at_end = palloc(sizeof(MemoryContextCallback));
	EventSchema *schema = PinEventSchema(event_table);

	if (schema == NULL)
		return NULL;
	at_end->func = let_go;
	at_end->arg = schema;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, at_end);
	return schema;
}

static void
let_go(void *arg)
{
	UnpinEventSchema(arg);
}

bool
EventSchemaKnown(Oid event_table, EventSchema **schema)
{
	CacheEntry *entry = cache ? hash_search(cache, &event_table, HASH_FIND, NULL) : NULL;

	*schema = entry ? entry->schema : NULL;
	return entry && entry->valid;
}

/* Freed now, or with its last pin. */
static void
free_schema(EventSchema *schema)
{
	schema->stale = true;
	if (schema->pins == 0)
		MemoryContextDelete(schema->context);
}

static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CacheEntry);
	ctl.hcxt = CacheMemoryContext;
	cache = hash_create("daybook event schemas", 16, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_object, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_roles, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_roles, (Datum) 0);
}

/* Entries stay where they are: whoever looks next makes them anew. */
static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	invalidations++;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (!OidIsValid(relid) || entry->relid == relid ||
			depends_on(entry, RELOID, relid, 0))
			entry->valid = false;
}

static void
forget_object(Datum arg, int cache_id, uint32 hash)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (depends_on(entry, cache_id, InvalidOid, hash))
			entry->valid = false;
}

/* Who may act as an owner, on which search paths depend, can follow from any role. */
static void
forget_roles(Datum arg, int cache_id, uint32 hash)
{
	forget_relation(arg, InvalidOid);
}

static bool
depends_on(const CacheEntry *entry, int cache_id, Oid object, uint32 hash)
{
	ListCell   *lc;

	foreach(lc, entry->dependencies)
	{
		Dependency *dependency = lfirst(lc);

		if (dependency->cache != cache_id)
			continue;
		if (cache_id == RELOID ? dependency->object == object :
			(hash == 0 || dependency->hash == hash))
			return true;
	}
	return false;
}

void
EventSchemaDependsOn(EventSchema *schema, int cache_id, Oid object)
{
	CacheEntry *entry = hash_search(cache, &schema->relid, HASH_FIND, NULL);
	MemoryContext caller;
	Dependency *dependency;
	ListCell   *lc;

	if (entry == NULL || entry->schema != schema)
		return;					/* not used any more than this once */
	foreach(lc, entry->dependencies)
	{
		dependency = lfirst(lc);
		if (dependency->cache == cache_id && dependency->object == object)
			return;				/* what failed is prepared again */
	}
	caller = MemoryContextSwitchTo(schema->context);
	dependency = palloc(sizeof(Dependency));
	dependency->cache = cache_id;
	dependency->object = object;
	dependency->hash = cache_id == RELOID ? 0 :
		GetSysCacheHashValue1(cache_id, ObjectIdGetDatum(object));
	entry->dependencies = lappend(entry->dependencies, dependency);
	MemoryContextSwitchTo(caller);
}

static EventSchema *
load_schema(Relation event_table)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "daybook event schema",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EventSchema *schema = palloc0(sizeof(EventSchema));

	schema->relid = RelationGetRelid(event_table);
	schema->owner = event_table->rd_rel->relowner;
	schema->context = context;
	load_event_types(schema);
	load_upcasters(schema);
	MemoryContextSwitchTo(caller);
	if (schema->type_count == 0 && schema->step_count == 0)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	qsort(schema->types, schema->type_count, sizeof(EventType), compare_event_types);
	qsort(schema->steps, schema->step_count, sizeof(UpcastStep), compare_steps);
	MemoryContextSetParent(context, CacheMemoryContext);
	return schema;
}

static SysScanDesc
begin_scan(Relation rel, const char *index, Oid relid)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	return systable_beginscan(rel, DaybookRelation(index), true, NULL, 1, &key);
}

static void
load_event_types(EventSchema *schema)
{
	Relation	rel = table_open(DaybookRelation("event_type"), AccessShareLock);
	SysScanDesc scan = begin_scan(rel, "event_type_pkey", schema->relid);
	TupleDesc	desc = RelationGetDescr(rel);
	HeapTuple	tuple;
	int			room = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		EventType  *type;
		bool		is_null;
		Datum		value;
		char	   *mode;

		if (schema->type_count == room)
		{
			room = Max(8, room * 2);
			schema->types = schema->types ?
				repalloc(schema->types, room * sizeof(EventType)) :
				palloc(room * sizeof(EventType));
		}
		type = &schema->types[schema->type_count++];
		memset(type, 0, sizeof(EventType));
		type->type = copy_text(heap_getattr(tuple, EVENT_TYPE_TYPE, desc, &is_null));
		type->schema_version =
			DatumGetInt32(heap_getattr(tuple, EVENT_TYPE_SCHEMA_VERSION, desc, &is_null));
		value = heap_getattr(tuple, EVENT_TYPE_PAYLOAD_TYPE, desc, &is_null);
		if (!is_null)
			type->payload_type = DatumGetObjectId(value);
		value = heap_getattr(tuple, EVENT_TYPE_CHECK_FUNCTION, desc, &is_null);
		if (!is_null)
			type->check_function = TextDatumGetCString(value);
		mode = TextDatumGetCString(heap_getattr(tuple, EVENT_TYPE_MODE, desc, &is_null));
		type->mode = strcmp(mode, "reject") == 0 ? CHECK_REJECT :
			strcmp(mode, "warn") == 0 ? CHECK_WARN : CHECK_OFF;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static void
load_upcasters(EventSchema *schema)
{
	Relation	rel = table_open(DaybookRelation("upcaster"), AccessShareLock);
	SysScanDesc scan = begin_scan(rel, "upcaster_pkey", schema->relid);
	TupleDesc	desc = RelationGetDescr(rel);
	HeapTuple	tuple;
	int			room = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		UpcastStep *step;
		bool		is_null;

		if (schema->step_count == room)
		{
			room = Max(8, room * 2);
			schema->steps = schema->steps ?
				repalloc(schema->steps, room * sizeof(UpcastStep)) :
				palloc(room * sizeof(UpcastStep));
		}
		step = &schema->steps[schema->step_count++];
		step->type = copy_text(heap_getattr(tuple, UPCASTER_TYPE, desc, &is_null));
		step->from_version =
			DatumGetInt32(heap_getattr(tuple, UPCASTER_FROM_VERSION, desc, &is_null));
		step->to_type = copy_text(heap_getattr(tuple, UPCASTER_TO_TYPE, desc, &is_null));
		step->function =
			TextDatumGetCString(heap_getattr(tuple, UPCASTER_FUNCTION, desc, &is_null));
		step->place = DatumGetInt32(heap_getattr(tuple, UPCASTER_PLACE, desc, &is_null));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static text *
copy_text(Datum value)
{
	return DatumGetTextPCopy(value);
}

int
CompareTypes(const text *a, const text *b)
{
	if (VARSIZE_ANY_EXHDR(a) != VARSIZE_ANY_EXHDR(b))
		return VARSIZE_ANY_EXHDR(a) < VARSIZE_ANY_EXHDR(b) ? -1 : 1;
	return memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a));
}

static int
compare_event_types(const void *a, const void *b)
{
	const EventType *x = a;
	const EventType *y = b;
	int			order = CompareTypes(x->type, y->type);

	return order != 0 ? order : x->schema_version - y->schema_version;
}

static int
compare_steps(const void *a, const void *b)
{
	const UpcastStep *x = a;
	const UpcastStep *y = b;
	int			order = CompareTypes(x->type, y->type);

	if (order != 0)
		return order;
	if (x->from_version != y->from_version)
		return x->from_version < y->from_version ? -1 : 1;
	if (x->place != y->place)
		return x->place < y->place ? -1 : 1;
	return CompareTypes(x->to_type, y->to_type);
}

int
FindEventType(const EventSchema *schema, const text *type, int32 version)
{
	int			low = 0;
	int			high = schema->type_count;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			order = CompareTypes(schema->types[middle].type, type);

		if (order < 0 || (order == 0 && schema->types[middle].schema_version < version))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int
FindUpcastStep(const EventSchema *schema, const text *type, int32 version)
{
	int			low = 0;
	int			high = schema->step_count;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			order = CompareTypes(schema->steps[middle].type, type);

		if (order < 0 || (order == 0 && schema->steps[middle].from_version < version))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Row trigger of both tables. */
Datum
daybook_event_schema_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = check_trigger_call(fcinfo);
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	invalidate_table(trigger->tg_trigtuple, desc);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		invalidate_table(trigger->tg_newtuple, desc);
	return PointerGetDatum(NULL);
}

/* Both tables begin with the event table; it may be gone. */
static void
invalidate_table(HeapTuple tuple, TupleDesc desc)
{
	bool		is_null;
	Oid			relid = DatumGetObjectId(heap_getattr(tuple, EVENT_TYPE_EVENT_TABLE, desc,
													  &is_null));

	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		CacheInvalidateRelcacheByRelid(relid);
}

/* Row trigger of the registry; arguments name tables with a column event_table. */
Datum
daybook_forget_event_table(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = check_trigger_call(fcinfo);
	Oid			types[] = {REGCLASSOID};
	Datum		values[1];
	RunAs		caller;

	SPI_connect();
	values[0] = SPI_getbinval(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation),
							  SPI_fnumber(RelationGetDescr(trigger->tg_relation), "relation"),
							  &fcinfo->isnull);
	if (!fcinfo->isnull)
	{
		RunAsSuperuser(&caller);
		for (int i = 0; i < trigger->tg_trigger->tgnargs; i++)
			if (RunNow(psprintf("DELETE FROM daybook.%s WHERE event_table = $1",
								quote_identifier(trigger->tg_trigger->tgargs[i])),
					   1, types, values, NULL) != SPI_OK_DELETE)
				elog(ERROR, "could not delete from daybook.%s", trigger->tg_trigger->tgargs[i]);
		RunAsEnd(&caller);
	}
	SPI_finish();
	fcinfo->isnull = false;
	return PointerGetDatum(NULL);
}

/* Anyone can make triggers: these do their work on daybook's own tables only. */
static TriggerData *
check_trigger_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		RelationGetNamespace(trigger->tg_relation) != GetDaybookOids()->schema)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function is for row triggers of daybook's own tables")));
	return trigger;
}

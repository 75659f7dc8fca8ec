/*-------------------------------------------------------------------------
 *
 * event_table_cache.c
 *	  What an append needs to know of an event table, kept per backend.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/registry.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

static HTAB *cache = NULL;

static void make_cache(void);
static void forget_table(Datum arg, Oid relid);
static void fill_entry(EventTable *entry, Relation rel);
static bool has_event_trigger(Relation rel);
static void note_defaults(EventTable *entry, Relation rel);
static bool is_usual_default(const AttrDefault *column_default);
static void note_index(EventTable *entry, Oid index_oid);
static bool has_plain_keys(HeapTuple index);
static bool holds_given_event_ids(HeapTuple index);
static Datum index_attribute(HeapTuple index, AttrNumber number);

/*
 * Looks up what is known of a table; is_event_table is false where it is not
 * one.  The entry stays valid until the next catalog access.
 */
const EventTable *
LookUpEventTable(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	EventTable *entry;
	EventTable	fresh = {0};

	if (cache == NULL)
		make_cache();
	entry = hash_search(cache, &relid, HASH_FIND, NULL);
	if (entry)
		return entry;

	/* Filling reads catalogs, which may drop entries: enter it afterwards. */
	fresh.relid = relid;
	fill_entry(&fresh, rel);
	entry = hash_search(cache, &relid, HASH_ENTER, NULL);
	*entry = fresh;
	return entry;
}

/*
 * Is the table in the registry, without which its events would not get into
 * the log?  Only a yes is noted in the table's entry, since nothing tells of a
 * row that a restore adds to the registry.
 */
bool
EventTableIsLogged(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	EventTable *entry;

	if (!EventTableIsRegistered(relid))
		return false;
	(void) LookUpEventTable(rel);
	entry = hash_search(cache, &relid, HASH_FIND, NULL);
	entry->registered = true;
	return true;
}

/* The lock on a table is kept to the end of the transaction. */
bool
IsEventTable(Oid relid)
{
	Relation	rel;
	bool		result;

	if (get_rel_relkind(relid) != RELKIND_RELATION)
		return false;
	rel = try_table_open(relid, AccessShareLock);
	if (rel == NULL)
		return false;
	result = LookUpEventTable(rel)->is_event_table;
	table_close(rel, NoLock);
	return result;
}

/* LookUpEventTable(), with an error for a relation that is not an event table. */
const EventTable *
RequireEventTable(Relation rel)
{
	const EventTable *table = LookUpEventTable(rel);

	if (!table->is_event_table)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not an event table", RelationGetRelationName(rel)),
				 errhint("Create one with daybook.create_event_table().")));
	if (!OidIsValid(table->stream_index) || !OidIsValid(table->id_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event table \"%s\" lacks one of its keys",
						RelationGetRelationName(rel)),
				 errhint("It needs PRIMARY KEY (id) and UNIQUE (stream_id, version).")));
	return table;
}

/* RequireEventTable(), with an error for a table that is just being restored. */
const EventTable *
RequireVersionTrigger(Relation rel)
{
	const EventTable *table = RequireEventTable(rel);

	if (!table->has_trigger)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event table \"%s\" lacks its version trigger",
						RelationGetRelationName(rel)),
				 errhint("Restore it with its triggers.")));
	return table;
}

static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(EventTable);
	ctl.hcxt = CacheMemoryContext;
	cache = hash_create("daybook event tables", 16, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_table, (Datum) 0);
}

static void
forget_table(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	EventTable *entry;

	if (OidIsValid(relid))
	{
		hash_search(cache, &relid, HASH_REMOVE, NULL);
		return;
	}
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		hash_search(cache, &entry->relid, HASH_REMOVE, NULL);
}

static void
fill_entry(EventTable *entry, Relation rel)
{
	const DaybookOids *oids = GetDaybookOids();
	List	   *indexes;
	ListCell   *lc;

	entry->is_event_table = rel->rd_rel->relkind == RELKIND_RELATION &&
		OidIsValid(oids->event_type) &&
		rel->rd_rel->reloftype == oids->event_type &&
		rel->rd_rel->relam == oids->access_method;
	if (!entry->is_event_table)
		return;
	entry->has_trigger = has_event_trigger(rel);
	note_defaults(entry, rel);
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
		note_index(entry, lfirst_oid(lc));
	list_free(indexes);
}

static bool
has_event_trigger(Relation rel)
{
	Oid			function = GetDaybookOids()->event_trigger_function;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
		if (rel->trigdesc->triggers[i].tgfoid == function)
			return true;
	return false;
}

/*
 * Notes the defaults that append() has to evaluate.  It knows those that an
 * event table is made with.
 */
static void
note_defaults(EventTable *entry, Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr && i < constr->num_defval; i++)
	{
		int			column = constr->defval[i].adnum;

		if (TupleDescAttr(RelationGetDescr(rel), column - 1)->attgenerated == '\0' &&
			!is_usual_default(&constr->defval[i]))
			entry->own_defaults |= EVENT_COLUMN_BIT(column);
	}
}

static bool
is_usual_default(const AttrDefault *column_default)
{
	Const	   *value = stringToNode(column_default->adbin);
	Jsonb	   *data;

	if (!IsA(value, Const) || value->constisnull)
		return false;
	switch (column_default->adnum)
	{
		case EVENT_SCHEMA_VERSION:
			return DatumGetInt32(value->constvalue) == 1;
		case EVENT_DATA:
			data = DatumGetJsonbP(value->constvalue);
			return JB_ROOT_IS_OBJECT(data) && JB_ROOT_COUNT(data) == 0;
		default:
			return false;
	}
}

static void
note_index(EventTable *entry, Oid index_oid)
{
	switch (EventKeyOfIndex(index_oid))
	{
		case EVENT_KEY_ID:
			entry->id_index = index_oid;
			break;
		case EVENT_KEY_STREAM:
			entry->stream_index = index_oid;
			break;
		case EVENT_KEY_EVENT_ID:
			entry->event_id_index = index_oid;
			break;
		case EVENT_KEY_NONE:
			break;
	}
}

/*
 * Which of an event table's keys an index of it serves.  An index of the
 * user's on the same columns may sort or compare them otherwise, or hold other
 * rows: it is none of these.
 */
EventKey
EventKeyOfIndex(Oid index_oid)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index_oid));
	Form_pg_index index;
	EventKey	key = EVENT_KEY_NONE;
	bool		partial;

	if (!HeapTupleIsValid(tuple))
		return EVENT_KEY_NONE;
	index = (Form_pg_index) GETSTRUCT(tuple);
	partial = !heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
	if (index->indisunique && index->indisvalid && index->indimmediate)
	{
		int16	   *keys = index->indkey.values;

		if (index->indnkeyatts == 1 && keys[0] == EVENT_ID && !partial)
			key = EVENT_KEY_ID;
		else if (index->indnkeyatts == 2 && !partial &&
				 keys[0] == EVENT_STREAM_ID && keys[1] == EVENT_VERSION)
			key = EVENT_KEY_STREAM;
		else if (index->indnkeyatts == 2 && partial &&
				 keys[0] == EVENT_EVENT_ID && keys[1] == EVENT_STREAM_ID &&
				 holds_given_event_ids(tuple))
			key = EVENT_KEY_EVENT_ID;
	}
	if (key != EVENT_KEY_NONE && !has_plain_keys(tuple))
		key = EVENT_KEY_NONE;
	ReleaseSysCache(tuple);
	return key;
}

/* Does the index sort and compare its keys as their columns do, in ascending order? */
static bool
has_plain_keys(HeapTuple index)
{
	Form_pg_index form = (Form_pg_index) GETSTRUCT(index);
	int2vector *options = (int2vector *)
		DatumGetPointer(index_attribute(index, Anum_pg_index_indoption));
	oidvector  *collations = (oidvector *)
		DatumGetPointer(index_attribute(index, Anum_pg_index_indcollation));
	oidvector  *classes = (oidvector *)
		DatumGetPointer(index_attribute(index, Anum_pg_index_indclass));

	for (int i = 0; i < form->indnkeyatts; i++)
	{
		Oid			type;
		Oid			collation;
		int32		typmod;

		get_atttypetypmodcoll(form->indrelid, form->indkey.values[i], &type, &typmod, &collation);
		if (options->values[i] != 0 || collations->values[i] != collation ||
			classes->values[i] != GetDefaultOpClass(type, BTREE_AM_OID))
			return false;
	}
	return true;
}

/* Is the predicate daybook.event_id_given(event_id)? */
static bool
holds_given_event_ids(HeapTuple index)
{
	Datum		stored = index_attribute(index, Anum_pg_index_indpred);
	FuncExpr   *predicate = stringToNode(TextDatumGetCString(stored));
	Var		   *column;

	if (!IsA(predicate, FuncExpr) ||
		predicate->funcid != GetDaybookOids()->event_id_given_function)
		return false;
	column = linitial(predicate->args);
	return IsA(column, Var) && column->varattno == EVENT_EVENT_ID;
}

static Datum
index_attribute(HeapTuple index, AttrNumber number)
{
	bool		is_null;

	return SysCacheGetAttr(INDEXRELID, index, number, &is_null);
}

/*-------------------------------------------------------------------------
 *
 * event_reader.c
 *	  Reads the log together with the events it names.
 *
 * The log is taken in chunks, and each event table's index on id is swept in
 * its own order, which is nearly that of the heap.  Where the positions of a
 * chunk follow the ids, as they do unless transactions overlapped, events are
 * fetched as they are asked for.  Else the chunk is fetched in order of id,
 * and what passes the filter is copied and handed out in order of position.
 * Values stored out of line stay there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "error_class.h"
#include "event_table/event_source.h"
#include "miscadmin.h"
#include "replay/event_reader.h"
#include "schema/upcast.h"
#include "sequencer/log_scan.h"
#include "subtransaction.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Log entries that are read at a time. */
#define CHUNK_MAX_ENTRIES	256

/* Up to this far ahead a sweep steps to an id rather than searching for it. */
#define NEAR_IDS			64

/* A sweep over a table's index on id, upwards. */
typedef struct Sweep
{
	IndexScanDesc scan;
	ScanKeyData key;
	bool		started;
	bool		holds;			/* the index tuple of id has not been used yet */
	int64		id;
} Sweep;

/* An event table that the log named. */
typedef struct SourceTable
{
	int32		table_no;		/* hash key */
	Oid			relid;
	bool		wanted;			/* passes the filter, and exists */
	Relation	table;			/* NULL until needed */
	Relation	index;
	TupleTableSlot *slot;
	Sweep		sweep;
	int64		last_id;		/* met in the log last */
	Upcasting  *upcasting;		/* NULL: the table has no upcasters */
} SourceTable;

/* An entry of the present chunk. */
typedef struct ChunkEntry
{
	SourceTable *source;
	LogEntry	log;
	HeapTuple	tuple;			/* copy, where the chunk was fetched in advance */
	ErrorData  *error;			/* of its upcaster */
} ChunkEntry;

/* A set of strings, sorted by length and bytes. */
typedef struct StringSet
{
	bool		everything;
	int			count;
	text	  **strings;
} StringSet;

struct EventReader
{
	MemoryContext context;
	MemoryContext chunk_context;
	Snapshot	snapshot;
	bool		check_privileges;
	bool		as_stored;
	bool		ahead;
	bool		catches;		/* errors of upcasters are part of the event */
	bool		filters;		/* some filter is set */
	bool		filters_tables;
	int			event_table_count;
	Oid		   *event_tables;
	StringSet	categories;
	StringSet	types;
	int			shares;
	int			share;

	LogScan    *log;
	HTAB	   *sources;
	SourceTable *last_source;
	int64		position;		/* all up to here was delivered or filtered out */
	int64		limit;			/* position not to go beyond, 0 for none */
	int64		expected;		/* events the caller still wants, 0 for unknown */
	bool		at_end;

	ChunkEntry *entries;
	ChunkEntry **by_id;			/* entries of the chunk that are wanted */
	int			chunk_size;
	int			entry_count;
	int			next_entry;
	bool		fetched;		/* the chunk's events are in its entries */
	int			upcast_count;	/* entries whose events have been upcast */
	LogEvent	event;
};

/* Arguments of upcast_next(). */
typedef struct UpcastCall
{
	EventReader *reader;
	int64	   *wanted;
} UpcastCall;

static void end_reader(EventReader *reader, LOCKMODE unlock);
static void begin_log(EventReader *reader, int64 after);
static void set_event_tables(EventReader *reader, ArrayType *array);
static void make_string_set(StringSet *set, ArrayType *array);
static int	compare_strings(const void *a, const void *b);
static bool set_contains(const StringSet *set, const char *data, int len);
static bool read_chunk(EventReader *reader);
static int	choose_chunk_size(EventReader *reader);
static SourceTable *find_source(EventReader *reader, int32 table_no);
static bool wants_event_table(EventReader *reader, Oid relid);
static bool open_source(EventReader *reader, SourceTable *source);
static bool take_event(EventReader *reader, ChunkEntry *entry);
static void fetch_chunk(EventReader *reader, int count);
static int	compare_by_id(const void *a, const void *b);
static bool fetch_event(EventReader *reader, ChunkEntry *entry);
static void begin_sweep(EventReader *reader, SourceTable *source);
static bool sweep_to(SourceTable *source, int64 id);
static bool next_index_tuple(Sweep *sweep);
static void search_index(Sweep *sweep, int64 id);
static bool passes_filter(EventReader *reader, SourceTable *source);
static bool is_in_share(EventReader *reader, TupleTableSlot *slot);
static bool text_in_set(const StringSet *set, TupleTableSlot *slot, AttrNumber column,
						bool category);
static bool may_become_wanted(EventReader *reader, SourceTable *source);
static bool type_is_wanted(const text *type, void *types);
static void upcast_events(EventReader *reader);
static void upcast_next(EventReader *reader, int64 *wanted);
static bool upcast_next_wanted(void *arg);
static void upcast_or_catch(EventReader *reader, int64 *wanted);
static void forget_upcasting(EventReader *reader);
static HeapTuple upcast_event(EventReader *reader, SourceTable *source, HeapTuple tuple);

EventReader *
EventReaderBegin(Snapshot snapshot, int64 after, const EventFilter *filter,
				 bool check_privileges)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "event reader", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EventReader *reader = palloc0(sizeof(EventReader));
	HASHCTL		ctl = {
		.keysize = sizeof(int32),
		.entrysize = sizeof(SourceTable),
		.hcxt = context
	};

	reader->context = context;
	reader->chunk_context = AllocSetContextCreate(context, "event reader chunk",
												  ALLOCSET_DEFAULT_SIZES);
	reader->entries = palloc(sizeof(ChunkEntry) * CHUNK_MAX_ENTRIES);
	reader->by_id = palloc(sizeof(ChunkEntry *) * CHUNK_MAX_ENTRIES);
	reader->snapshot = snapshot;
	reader->check_privileges = check_privileges;
	reader->as_stored = filter && filter->as_stored;
	reader->ahead = filter && filter->ahead;
	set_event_tables(reader, filter ? filter->event_tables : NULL);
	make_string_set(&reader->categories, filter ? filter->categories : NULL);
	make_string_set(&reader->types, filter ? filter->types : NULL);
	reader->shares = filter ? filter->shares : 0;
	reader->share = filter ? filter->share : 0;
	reader->filters = reader->filters_tables || reader->shares > 1 ||
		!reader->categories.everything || !reader->types.everything;
	reader->sources = hash_create("event reader tables", 16, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	reader->position = Max(after, 0);
	begin_log(reader, after);
	MemoryContextSwitchTo(caller);
	return reader;
}

LogEvent *
EventReaderNext(EventReader *reader)
{
	/* index scans allocate as they go */
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	bool		found = false;

	do
	{
		while (!found && reader->next_entry < reader->entry_count)
		{
			ChunkEntry *entry = &reader->entries[reader->next_entry];

			if (reader->limit > 0 && entry->log.position > reader->limit)
				break;
			reader->next_entry++;
			reader->position = entry->log.position;
			found = take_event(reader, entry);
		}
	} while (!found && reader->next_entry == reader->entry_count && read_chunk(reader));

	MemoryContextSwitchTo(caller);
	return found ? &reader->event : NULL;
}

int64
EventReaderPosition(EventReader *reader)
{
	return reader->position;
}

void
EventReaderSeek(EventReader *reader, int64 after)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);

	LogScanEnd(reader->log);
	begin_log(reader, after);
	reader->position = Max(after, 0);
	reader->limit = 0;
	reader->at_end = false;
	reader->chunk_size = 0;
	reader->entry_count = 0;
	reader->next_entry = 0;
	MemoryContextSwitchTo(caller);
}

void
EventReaderLimit(EventReader *reader, int64 max_scanned)
{
	reader->limit = max_scanned > 0 ? reader->position + max_scanned : 0;
}

void
EventReaderExpect(EventReader *reader, int64 events)
{
	reader->expected = events;
}

void
EventReaderCatch(EventReader *reader)
{
	reader->catches = true;
}

/* Locks on the event tables are kept to the end of the transaction. */
void
EventReaderEnd(EventReader *reader)
{
	end_reader(reader, NoLock);
}

void
EventReaderDiscard(EventReader *reader)
{
	end_reader(reader, AccessShareLock);
}

static void
end_reader(EventReader *reader, LOCKMODE unlock)
{
	HASH_SEQ_STATUS status;
	SourceTable *source;

	hash_seq_init(&status, reader->sources);
	while ((source = hash_seq_search(&status)) != NULL)
	{
		if (source->table == NULL)
			continue;
		if (source->sweep.scan)
			index_endscan(source->sweep.scan);
		ExecDropSingleTupleTableSlot(source->slot);
		if (source->upcasting)
			UpcastingEnd(source->upcasting);
		index_close(source->index, unlock);
		table_close(source->table, unlock);
	}
	LogScanEnd(reader->log);
	MemoryContextDelete(reader->context);
}

void
LogEventValues(const LogEvent *event, TupleDesc event_desc, Datum *values, bool *nulls)
{
	values[0] = Int64GetDatum(event->entry.position);
	values[1] = ObjectIdGetDatum(event->event_table);
	nulls[0] = nulls[1] = false;
	heap_deform_tuple(event->tuple, event_desc, values + 2, nulls + 2);
}

static void
begin_log(EventReader *reader, int64 after)
{
	reader->log = reader->ahead ? LogScanBeginAhead(reader->snapshot, after) :
		LogScanBegin(reader->snapshot, after);
}

static void
set_event_tables(EventReader *reader, ArrayType *array)
{
	Datum	   *tables;

	if (array == NULL)
		return;
	deconstruct_array(array, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT,
					  &tables, NULL, &reader->event_table_count);
	reader->filters_tables = true;
	reader->event_tables = palloc(sizeof(Oid) * (reader->event_table_count + 1));
	for (int i = 0; i < reader->event_table_count; i++)
		reader->event_tables[i] = DatumGetObjectId(tables[i]);
}

static void
make_string_set(StringSet *set, ArrayType *array)
{
	Datum	   *strings;

	set->everything = array == NULL;
	if (set->everything)
		return;
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &strings, NULL, &set->count);
	set->strings = palloc(sizeof(text *) * (set->count + 1));
	for (int i = 0; i < set->count; i++)
		set->strings[i] = DatumGetTextPCopy(strings[i]);
	qsort(set->strings, set->count, sizeof(text *), compare_strings);
}

static int
compare_strings(const void *a, const void *b)
{
	const text *x = *(text *const *) a;
	const text *y = *(text *const *) b;

	if (VARSIZE_ANY_EXHDR(x) != VARSIZE_ANY_EXHDR(y))
		return VARSIZE_ANY_EXHDR(x) < VARSIZE_ANY_EXHDR(y) ? -1 : 1;
	return memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x));
}

static bool
set_contains(const StringSet *set, const char *data, int len)
{
	int			low = 0;
	int			high = set->count;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		const text *string = set->strings[middle];
		int			order = len - (int) VARSIZE_ANY_EXHDR(string);

		if (order == 0)
			order = memcmp(data, VARDATA_ANY(string), len);
		if (order == 0)
			return true;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

/* Reads the next chunk; false at the end of the log or at the limit. */
static bool
read_chunk(EventReader *reader)
{
	int			wanted = 0;
	bool		one_by_one = true;

	CHECK_FOR_INTERRUPTS();
	if (reader->at_end || (reader->limit > 0 && reader->position >= reader->limit))
		return false;

	reader->chunk_size = choose_chunk_size(reader);
	reader->entry_count = 0;
	reader->next_entry = 0;
	reader->upcast_count = 0;
	while (reader->entry_count < reader->chunk_size)
	{
		ChunkEntry *entry = &reader->entries[reader->entry_count];

		if (!LogScanNext(reader->log, &entry->log))
		{
			reader->at_end = true;
			break;
		}
		reader->entry_count++;
		entry->error = NULL;
		entry->source = find_source(reader, entry->log.table_no);
		if (!entry->source->wanted)
			continue;
		if (entry->log.id < entry->source->last_id || entry->source->upcasting)
			one_by_one = false;
		entry->source->last_id = entry->log.id;
		reader->by_id[wanted++] = entry;
	}
	reader->fetched = !one_by_one;
	if (!one_by_one)
		fetch_chunk(reader, wanted);
	return reader->entry_count > 0;
}

/*
 * As much as the caller wants; where a filter lets less through, twice as much
 * each time.
 */
static int
choose_chunk_size(EventReader *reader)
{
	int64		size = CHUNK_MAX_ENTRIES;

	if (reader->expected > 0)
		size = reader->filters ? Max(reader->expected, reader->chunk_size * 2) :
			reader->expected;
	if (reader->limit > 0)
		size = Min(size, reader->limit - reader->position);
	return Min(size, CHUNK_MAX_ENTRIES);
}

static SourceTable *
find_source(EventReader *reader, int32 table_no)
{
	SourceTable *source = reader->last_source;
	bool		found;

	if (source && source->table_no == table_no)
		return source;
	source = hash_search(reader->sources, &table_no, HASH_ENTER, &found);
	if (!found)
	{
		memset(source, 0, sizeof(SourceTable));
		source->table_no = table_no;
		source->relid = LogEventTable(reader->snapshot, table_no);
		source->wanted = OidIsValid(source->relid) &&
			wants_event_table(reader, source->relid) &&
			open_source(reader, source);
	}
	reader->last_source = source;
	return source;
}

static bool
wants_event_table(EventReader *reader, Oid relid)
{
	if (!reader->filters_tables)
		return true;
	for (int i = 0; i < reader->event_table_count; i++)
		if (reader->event_tables[i] == relid)
			return true;
	return false;
}

/* False if the table has been dropped since the snapshot was taken. */
static bool
open_source(EventReader *reader, SourceTable *source)
{
	source->table = try_relation_open(source->relid, AccessShareLock);
	if (source->table)
	{
		Oid			index = RequireEventTable(source->table)->id_index;

		if (reader->check_privileges)
			CheckEventTableReadable(source->relid);
		source->index = index_open(index, AccessShareLock);
		source->slot = table_slot_create(source->table, NULL);
		if (!reader->as_stored)
			source->upcasting = UpcastingBegin(source->table);
	}
	return source->table != NULL;
}

/* Makes an entry's event the present one; false if it is filtered out. */
static bool
take_event(EventReader *reader, ChunkEntry *entry)
{
	bool		should_free;

	if (reader->fetched && reader->next_entry > reader->upcast_count)
		upcast_events(reader);
	if (!entry->source->wanted ||
		!(reader->fetched ? entry->tuple != NULL : fetch_event(reader, entry)))
		return false;
	if (reader->expected > 0)
		reader->expected--;
	reader->event.entry = entry->log;
	reader->event.event_table = entry->source->relid;
	reader->event.tuple = reader->fetched ? entry->tuple :
		ExecFetchSlotHeapTuple(entry->source->slot, false, &should_free);
	reader->event.error = entry->error;
	return true;
}

/* Fetches the wanted events of a chunk in order of id and copies them. */
static void
fetch_chunk(EventReader *reader, int count)
{
	MemoryContextReset(reader->chunk_context);
	qsort(reader->by_id, count, sizeof(ChunkEntry *), compare_by_id);
	for (int i = 0; i < count; i++)
	{
		ChunkEntry *entry = reader->by_id[i];

		entry->tuple = NULL;
		if (fetch_event(reader, entry))
		{
			MemoryContextSwitchTo(reader->chunk_context);
			entry->tuple = ExecCopySlotHeapTuple(entry->source->slot);
			MemoryContextSwitchTo(reader->context);
		}
	}
}

static int
compare_by_id(const void *a, const void *b)
{
	const ChunkEntry *x = *(ChunkEntry *const *) a;
	const ChunkEntry *y = *(ChunkEntry *const *) b;

	if (x->log.table_no != y->log.table_no)
		return x->log.table_no < y->log.table_no ? -1 : 1;
	if (x->log.id != y->log.id)
		return x->log.id < y->log.id ? -1 : 1;
	return 0;
}

/* Puts an entry's event into its table's slot; false if it is filtered out. */
static bool
fetch_event(EventReader *reader, ChunkEntry *entry)
{
	SourceTable *source = entry->source;

	if (source->sweep.scan == NULL)
		begin_sweep(reader, source);
	if (!sweep_to(source, entry->log.id))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("event at position " INT64_FORMAT " is missing",
						entry->log.position),
				 errdetail("The log names id " INT64_FORMAT " of event table \"%s\".",
						   entry->log.id, RelationGetRelationName(source->table)),
				 errhint("The table was altered behind daybook's back, or restored without its newest events.")));
	return passes_filter(reader, source);
}

static void
begin_sweep(EventReader *reader, SourceTable *source)
{
	IndexScanDesc scan;

	scan = index_beginscan_compat(source->table, source->index, reader->snapshot, 1);
	/* ids come from the index, so that rows in between are not visited */
	scan->xs_want_itup = true;
	source->sweep.scan = scan;
}

/*
 * Moves to an id and puts its event into the source's slot.  Several index
 * tuples can have the id where an earlier insert of it was rolled back.
 */
static bool
sweep_to(SourceTable *source, int64 id)
{
	Sweep	   *sweep = &source->sweep;

	if (!sweep->started || id < sweep->id || id - sweep->id > NEAR_IDS)
		search_index(sweep, id);
	while (sweep->holds || next_index_tuple(sweep))
	{
		if (sweep->id > id)
			return false;
		sweep->holds = false;
		if (sweep->id == id && index_fetch_heap(sweep->scan, source->slot))
			return true;
	}
	return false;
}

static bool
next_index_tuple(Sweep *sweep)
{
	IndexScanDesc scan = sweep->scan;
	bool		isnull;

	if (index_getnext_tid(scan, ForwardScanDirection) == NULL)
		return false;
	sweep->id = DatumGetInt64(index_getattr(scan->xs_itup, 1, scan->xs_itupdesc, &isnull));
	sweep->holds = true;
	return true;
}

static void
search_index(Sweep *sweep, int64 id)
{
	ScanKeyInit(&sweep->key, 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(id));
	index_rescan(sweep->scan, &sweep->key, 1, NULL, 0);
	sweep->started = true;
	sweep->holds = false;
	sweep->id = id;
}

static bool
passes_filter(EventReader *reader, SourceTable *source)
{
	if (reader->shares > 1 && !is_in_share(reader, source->slot))
		return false;
	if (!text_in_set(&reader->categories, source->slot, EVENT_STREAM_ID, true))
		return false;
	if (source->upcasting && !reader->types.everything)
		return may_become_wanted(reader, source);
	return text_in_set(&reader->types, source->slot, EVENT_TYPE, false);
}

/* The hash is that of the subscriptions' partitions: bytes alone matter. */
static bool
is_in_share(EventReader *reader, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, EVENT_STREAM_ID, &isnull);
	text	   *stream_id = DatumGetTextPP(value);
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(stream_id),
										   VARSIZE_ANY_EXHDR(stream_id), 0);

	if ((Pointer) stream_id != DatumGetPointer(value))
		pfree(stream_id);
	return hash % reader->shares == reader->share;
}

/* Is a column's text, or the category it begins with, in the set? */
static bool
text_in_set(const StringSet *set, TupleTableSlot *slot, AttrNumber column, bool category)
{
	Datum		value;
	bool		isnull;
	text	   *string;
	int			len;
	bool		found;

	if (set->everything)
		return true;
	value = slot_getattr(slot, column, &isnull);
	if (isnull)
		return false;
	string = DatumGetTextPP(value);
	len = VARSIZE_ANY_EXHDR(string);
	if (category)
	{
		char	   *dash = memchr(VARDATA_ANY(string), '-', len);

		if (dash)
			len = dash - VARDATA_ANY(string);
	}
	found = set_contains(set, VARDATA_ANY(string), len);
	if ((Pointer) string != DatumGetPointer(value))
		pfree(string);
	return found;
}

/* Can the event in the source's slot be of a wanted type once it is upcast? */
static bool
may_become_wanted(EventReader *reader, SourceTable *source)
{
	slot_getsomeattrs(source->slot, EVENT_TYPE);
	return UpcastMayReach(source->upcasting,
						  DatumGetTextPP(source->slot->tts_values[EVENT_TYPE - 1]),
						  DatumGetInt32(source->slot->tts_values[EVENT_SCHEMA_VERSION - 1]),
						  type_is_wanted, &reader->types);
}

static bool
type_is_wanted(const text *type, void *types)
{
	return set_contains(types, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
}

/*
 * Upcasts the next events of a fetched chunk: as many as the caller wants, so
 * that an event that cannot be upcast does not keep those before it back, and
 * together, since the functions run as another role, and becoming one costs
 * more than most of them.
 */
static void
upcast_events(EventReader *reader)
{
	int64		wanted = reader->expected > 0 ? reader->expected : PG_INT64_MAX;

	MemoryContextSwitchTo(reader->chunk_context);
	while (reader->upcast_count < reader->entry_count && wanted > 0)
	{
		if (reader->catches)
			upcast_or_catch(reader, &wanted);
		else
			upcast_next(reader, &wanted);
	}
	MemoryContextSwitchTo(reader->context);
}

static void
upcast_next(EventReader *reader, int64 *wanted)
{
	Upcasting  *last = NULL;

	while (reader->upcast_count < reader->entry_count && *wanted > 0)
	{
		ChunkEntry *entry = &reader->entries[reader->upcast_count++];
		SourceTable *source = entry->source;

		if (!source->wanted || entry->tuple == NULL)
			continue;
		if (source->upcasting &&
			UpcastTupleApplies(source->upcasting, entry->tuple, RelationGetDescr(source->table)))
		{
			CHECK_FOR_INTERRUPTS();
			if (last && last != source->upcasting)
				UpcastRest(last);
			last = source->upcasting;
			entry->tuple = upcast_event(reader, source, entry->tuple);
		}
		*wanted -= entry->tuple != NULL;
	}
	if (last)
		UpcastRest(last);
}

static bool
upcast_next_wanted(void *arg)
{
	UpcastCall *call = arg;

	upcast_next(call->reader, call->wanted);
	return true;
}

/*
 * The same up to the first failure, which becomes part of its event.  One
 * subtransaction for many events: it costs more than most upcasters.
 */
static void
upcast_or_catch(EventReader *reader, int64 *wanted)
{
	UpcastCall	call = {reader, wanted};
	ErrorData  *error = RunInSubtransaction(upcast_next_wanted, &call);

	if (error == NULL)
		return;
	forget_upcasting(reader);
	if (ErrorIsTransient(error->sqlerrcode))
		ReThrowError(error);
	reader->entries[reader->upcast_count - 1].error = error;
	(*wanted)--;
}

/* No function runs as the owner of its table any more. */
static void
forget_upcasting(EventReader *reader)
{
	HASH_SEQ_STATUS status;
	SourceTable *source;

	hash_seq_init(&status, reader->sources);
	while ((source = hash_seq_search(&status)) != NULL)
		if (source->upcasting)
			UpcastAborted(source->upcasting);
}

/* NULL if the event is dropped, or is not of a wanted type after all. */
static HeapTuple
upcast_event(EventReader *reader, SourceTable *source, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(source->table);
	HeapTuple	result = UpcastTuple(source->upcasting, tuple, desc);
	bool		is_null;

	if (result == NULL || reader->types.everything ||
		type_is_wanted(DatumGetTextPP(heap_getattr(result, EVENT_TYPE, desc, &is_null)),
					   &reader->types))
		return result;
	return NULL;
}

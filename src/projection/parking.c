/*-------------------------------------------------------------------------
 *
 * parking.c
 *	  The queues of events that a projection could not apply: the rows of
 *	  daybook.projection_parked, and the set of streams that have any.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "daybook.h"
#include "miscadmin.h"
#include "projection/parking.h"
#include "projection/projection.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* columns of daybook.projection_parked, from 0 */
enum
{
	R_PROJECTION,
	R_POSITION,
	R_EVENT_TABLE,
	R_EVENT_ID,
	R_STREAM_ID,
	R_IS_CAUSE,
	R_SQLSTATE,
	R_MESSAGE,
	R_DETAIL,
	R_CONTEXT,
	R_PARKED_AT,
	R_ATTEMPTS,
	R_COLUMNS
};

/* columns of daybook.projection_discarded, from 0 */
enum
{
	D_PROJECTION,
	D_POSITION,
	D_EVENT_TABLE,
	D_EVENT_ID,
	D_STREAM_ID,
	D_SQLSTATE,
	D_MESSAGE,
	D_DETAIL,
	D_CONTEXT,
	D_PARKED_AT,
	D_ATTEMPTS,
	D_DISCARDED_AT,
	D_DISCARDED_BY,
	D_REASON,
	D_COLUMNS
};

/* where the columns of daybook.projection_discarded come from */
static const int discarded_from[] = {
	R_PROJECTION, R_POSITION, R_EVENT_TABLE, R_EVENT_ID, R_STREAM_ID,
	R_SQLSTATE, R_MESSAGE, R_DETAIL, R_CONTEXT, R_PARKED_AT, R_ATTEMPTS
};

typedef struct StreamKey
{
	Oid			event_table;
	const char *stream_id;
} StreamKey;

typedef struct StreamEntry
{
	StreamKey	key;
	uint32		hash;
	char		status;
} StreamEntry;

#define SH_PREFIX streams
#define SH_ELEMENT_TYPE StreamEntry
#define SH_KEY_TYPE StreamKey
#define SH_KEY key
#define SH_HASH_KEY(table, k) \
	hash_combine(murmurhash32((k).event_table), \
				 hash_bytes((const unsigned char *) (k).stream_id, strlen((k).stream_id)))
#define SH_EQUAL(table, a, b) \
	((a).event_table == (b).event_table && strcmp((a).stream_id, (b).stream_id) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) ((entry)->hash)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct ParkedStreams
{
	MemoryContext context;
	streams_hash *hash;
};

/* A scan of the rows of one projection, in the order of positions. */
typedef struct ParkedScan
{
	Relation	rel;
	Relation	index;
	Snapshot	snapshot;
	SysScanDesc scan;
} ParkedScan;

static void scan_begin(ParkedScan *scan, const char *name, int64 after);
static void scan_end(ParkedScan *scan);
static bool row_passes(const ParkedFilter *filter, const ParkedEvent *event);
static bool is_cause(HeapTuple tuple, TupleDesc desc);
static ParkedEvent parked_event(HeapTuple tuple, TupleDesc desc);
static void park(Relation rel, const char *name, const ParkedEvent *event,
				 const ProjectionError *error, int attempts);
static Datum text_or_null(const char *value, bool *isnull);

ParkedStreams *
ParkedStreamsCreate(MemoryContext context)
{
	ParkedStreams *streams = MemoryContextAlloc(context, sizeof(ParkedStreams));

	streams->context = context;
	streams->hash = streams_create(context, 64, NULL);
	return streams;
}

/* Adds the streams of which the projection has parked events. */
void
ParkedStreamsLoad(ParkedStreams *streams, const char *name)
{
	ParkedScan	scan;
	HeapTuple	tuple;

	scan_begin(&scan, name, 0);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan.scan, ForwardScanDirection)))
	{
		ParkedEvent event = parked_event(tuple, RelationGetDescr(scan.rel));

		ParkedStreamsAdd(streams, event.place.event_table, event.stream_id);
		pfree(event.stream_id);
	}
	scan_end(&scan);
}

bool
ParkedStreamsIsEmpty(const ParkedStreams *streams)
{
	return streams->hash->members == 0;
}

bool
ParkedStreamsHave(const ParkedStreams *streams, Oid event_table, const char *stream_id)
{
	StreamKey	key = {event_table, stream_id};

	return !ParkedStreamsIsEmpty(streams) && streams_lookup(streams->hash, key) != NULL;
}

void
ParkedStreamsAdd(ParkedStreams *streams, Oid event_table, const char *stream_id)
{
	StreamKey	key = {event_table, stream_id};

	if (streams_lookup(streams->hash, key) == NULL)
	{
		bool		found;

		key.stream_id = MemoryContextStrdup(streams->context, stream_id);
		(void) streams_insert(streams->hash, key, &found);
	}
}

/* Parks the event that failed. */
void
ParkCause(const char *name, const ParkedEvent *event, const ProjectionError *error, int attempts)
{
	Relation	rel = table_open(DaybookRelation("projection_parked"), RowExclusiveLock);

	park(rel, name, event, error, attempts);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Parks events behind earlier ones of their streams. */
void
ParkBehind(const char *name, List *events)
{
	Relation	rel;
	ListCell   *lc;

	if (events == NIL)
		return;
	rel = table_open(DaybookRelation("projection_parked"), RowExclusiveLock);
	foreach(lc, events)
		park(rel, name, lfirst(lc), NULL, 0);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Forgets all parked events of a projection. */
void
ParkedDelete(const char *name)
{
	ParkedScan	scan;
	HeapTuple	tuple;

	scan_begin(&scan, name, 0);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan.scan, ForwardScanDirection)))
		CatalogTupleDelete(scan.rel, &tuple->t_self);
	scan_end(&scan);
	CommandCounterIncrement();
}

/* Gives all parked events of a projection to another. */
void
ParkedMove(const char *from, const char *to)
{
	ParkedScan	scan;
	HeapTuple	tuple;

	scan_begin(&scan, from, 0);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan.scan, ForwardScanDirection)))
	{
		Datum		values[R_COLUMNS];
		bool		nulls[R_COLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(scan.rel), values, nulls);
		values[R_PROJECTION] = CStringGetTextDatum(to);
		CatalogTupleUpdate(scan.rel, &tuple->t_self,
						   heap_form_tuple(RelationGetDescr(scan.rel), values, nulls));
	}
	scan_end(&scan);
	CommandCounterIncrement();
}

List *
ParkedRowsLoad(const char *name, const ParkedFilter *filter, int64 limit)
{
	List	   *rows = NIL;
	ParkedScan	scan;
	HeapTuple	tuple;

	scan_begin(&scan, name, filter->position ? filter->position - 1 : filter->after);
	while (list_length(rows) < limit &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan.scan, ForwardScanDirection)))
	{
		ParkedEvent event = parked_event(tuple, RelationGetDescr(scan.rel));
		ParkedRow  *row;
		bool		alone;

		if (filter->position && event.place.position != filter->position)
			break;
		if (!row_passes(filter, &event))
		{
			pfree(event.stream_id);
			continue;
		}
		alone = filter->causes_alone && is_cause(tuple, RelationGetDescr(scan.rel));
		if (alone && rows != NIL)
			break;
		row = palloc(sizeof(ParkedRow));
		row->event = event;
		row->tuple = heap_copytuple(tuple);
		rows = lappend(rows, row);
		if (alone)
			break;
	}
	scan_end(&scan);
	return rows;
}

void
ParkedRowsDelete(List *rows)
{
	Relation	rel = table_open(DaybookRelation("projection_parked"), RowExclusiveLock);
	ListCell   *lc;

	foreach(lc, rows)
		CatalogTupleDelete(rel, &((ParkedRow *) lfirst(lc))->tuple->t_self);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Writes down that the event itself failed, once more or for the first time. */
void
ParkedRowSetError(ParkedRow *row, const ProjectionError *error)
{
	Relation	rel = table_open(DaybookRelation("projection_parked"), RowExclusiveLock);
	Datum		values[R_COLUMNS];
	bool		nulls[R_COLUMNS];
	HeapTuple	tuple;

	heap_deform_tuple(row->tuple, RelationGetDescr(rel), values, nulls);
	values[R_IS_CAUSE] = BoolGetDatum(true);
	values[R_SQLSTATE] = text_or_null(error->sqlstate, &nulls[R_SQLSTATE]);
	values[R_MESSAGE] = text_or_null(error->message, &nulls[R_MESSAGE]);
	values[R_DETAIL] = text_or_null(error->detail, &nulls[R_DETAIL]);
	values[R_CONTEXT] = text_or_null(error->context, &nulls[R_CONTEXT]);
	values[R_ATTEMPTS] = Int32GetDatum(DatumGetInt32(values[R_ATTEMPTS]) + 1);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleUpdate(rel, &row->tuple->t_self, tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Moves the row to daybook.projection_discarded. */
void
ParkedRowDiscard(ParkedRow *row, const char *reason)
{
	Relation	parked = table_open(DaybookRelation("projection_parked"), RowExclusiveLock);
	Relation	discarded = table_open(DaybookRelation("projection_discarded"), RowExclusiveLock);
	Datum		from[R_COLUMNS];
	bool		from_nulls[R_COLUMNS];
	Datum		values[D_COLUMNS];
	bool		nulls[D_COLUMNS] = {false};

	heap_deform_tuple(row->tuple, RelationGetDescr(parked), from, from_nulls);
	for (int i = 0; i < lengthof(discarded_from); i++)
	{
		values[i] = from[discarded_from[i]];
		nulls[i] = from_nulls[discarded_from[i]];
	}
	values[D_DISCARDED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[D_DISCARDED_BY] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	values[D_REASON] = CStringGetTextDatum(reason);
	CatalogTupleInsert(discarded, heap_form_tuple(RelationGetDescr(discarded), values, nulls));
	CatalogTupleDelete(parked, &row->tuple->t_self);
	table_close(discarded, NoLock);
	table_close(parked, NoLock);
	CommandCounterIncrement();
}

/* The rows with positions above after. */
static void
scan_begin(ParkedScan *scan, const char *name, int64 after)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	scan->rel = table_open(DaybookRelation("projection_parked"), RowExclusiveLock);
	scan->index = index_open(DaybookRelation("projection_parked_pkey"), AccessShareLock);
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan_ordered(scan->rel, scan->index, scan->snapshot,
											after > 0 ? 2 : 1, keys);
}

static void
scan_end(ParkedScan *scan)
{
	systable_endscan_ordered(scan->scan);
	UnregisterSnapshot(scan->snapshot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, NoLock);
}

static bool
row_passes(const ParkedFilter *filter, const ParkedEvent *event)
{
	return (!OidIsValid(filter->event_table) || filter->event_table == event->place.event_table) &&
		(filter->stream_id == NULL || strcmp(filter->stream_id, event->stream_id) == 0) &&
		(filter->except == NULL ||
		 !ParkedStreamsHave(filter->except, event->place.event_table, event->stream_id));
}

static bool
is_cause(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;

	return DatumGetBool(heap_getattr(tuple, R_IS_CAUSE + 1, desc, &isnull));
}

static ParkedEvent
parked_event(HeapTuple tuple, TupleDesc desc)
{
	ParkedEvent event;
	Datum		values[R_COLUMNS];
	bool		nulls[R_COLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	event.place.position = DatumGetInt64(values[R_POSITION]);
	event.place.event_table = DatumGetObjectId(values[R_EVENT_TABLE]);
	event.place.event_id = DatumGetInt64(values[R_EVENT_ID]);
	event.stream_id = TextDatumGetCString(values[R_STREAM_ID]);
	return event;
}

/* error NULL: the event was not tried. */
static void
park(Relation rel, const char *name, const ParkedEvent *event,
	 const ProjectionError *error, int attempts)
{
	static const ProjectionError no_error;
	Datum		values[R_COLUMNS];
	bool		nulls[R_COLUMNS] = {false};
	HeapTuple	tuple;

	values[R_PROJECTION] = CStringGetTextDatum(name);
	values[R_POSITION] = Int64GetDatum(event->place.position);
	values[R_EVENT_TABLE] = ObjectIdGetDatum(event->place.event_table);
	values[R_EVENT_ID] = Int64GetDatum(event->place.event_id);
	values[R_STREAM_ID] = CStringGetTextDatum(event->stream_id);
	values[R_IS_CAUSE] = BoolGetDatum(error != NULL);
	if (error == NULL)
		error = &no_error;
	values[R_SQLSTATE] = text_or_null(error->sqlstate, &nulls[R_SQLSTATE]);
	values[R_MESSAGE] = text_or_null(error->message, &nulls[R_MESSAGE]);
	values[R_DETAIL] = text_or_null(error->detail, &nulls[R_DETAIL]);
	values[R_CONTEXT] = text_or_null(error->context, &nulls[R_CONTEXT]);
	values[R_PARKED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[R_ATTEMPTS] = Int32GetDatum(attempts);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
}

static Datum
text_or_null(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

/*-------------------------------------------------------------------------
 *
 * log_scan.c
 *	  Reads the log's segments in order of position, in either direction.
 *
 * A scan finds the segment that holds its first position by the primary key,
 * so that where it starts costs the same at any place in the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "daybook.h"
#include "fmgr.h"
#include "sequencer/log_durable.h"
#include "sequencer/log_rows.h"
#include "sequencer/log_scan.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#define REGISTRY_KEY		"event_table_pkey"

#define Anum_event_table_table_no		1
#define Anum_event_table_relation		2

/* An ordered scan of daybook.log_segment. */
typedef struct SegmentScan
{
	Relation	table;
	Relation	index;
	SysScanDesc scan;
} SegmentScan;

/* One segment's row; payload lives until the scan moves on. */
typedef struct Segment
{
	int64		first_position;
	int32		event_count;
	bytea	   *payload;
} Segment;

struct LogScan
{
	MemoryContext context;		/* for what must outlive a row of the caller */
	SegmentScan segments;
	bool		open;			/* segments is open */
	bool		backward;
	int64		after;			/* forward: position given last */
	int64		upto;			/* backward: position to be given next */
	bool		reading;		/* reader is set */
	LogSegmentReader reader;
	LogEntry   *entries;		/* backward: the present segment, decoded */
	int			entries_room;
	int			entries_left;	/* of these, not given yet */
};

static LogScan *make_scan(void);
static void open_segments(SegmentScan *segments, Snapshot snapshot,
						  StrategyNumber strategy, int64 position);
static bool next_segment(SegmentScan *segments, ScanDirection direction, Segment *segment);
static void close_segments(SegmentScan *segments);
static bool find_segment(Snapshot snapshot, int64 position, Segment *segment);
static bool next_forward(LogScan *scan, LogEntry *entry);
static bool next_backward(LogScan *scan, LogEntry *entry);
static bool open_next_segment(LogScan *scan);
static bool decode_previous_segment(LogScan *scan);
static bool scan_segments(LogScan *scan, Segment *segment);
static void read_segment(LogSegmentReader *reader, const Segment *segment);

LogScan *
LogScanBegin(Snapshot snapshot, int64 after)
{
	MakeLogDurable();
	return LogScanBeginAhead(snapshot, after);
}

LogScan *
LogScanBeginAhead(Snapshot snapshot, int64 after)
{
	LogScan    *scan = make_scan();
	Segment		segment;

	scan->after = Max(after, 0);
	if (scan->after == PG_INT64_MAX)
		return scan;

	if (!find_segment(snapshot, scan->after + 1, &segment))
		segment.first_position = 1;
	else if (segment.first_position + segment.event_count <= scan->after)
		return scan;
	open_segments(&scan->segments, snapshot,
				  BTGreaterEqualStrategyNumber, segment.first_position);
	scan->open = true;
	return scan;
}

LogScan *
LogScanBeginBackward(Snapshot snapshot, int64 upto)
{
	LogScan    *scan = make_scan();

	MakeLogDurable();
	scan->backward = true;
	scan->upto = upto;
	if (upto < 1)
		return scan;
	open_segments(&scan->segments, snapshot, BTLessEqualStrategyNumber, upto);
	scan->open = true;
	return scan;
}

bool
LogScanNext(LogScan *scan, LogEntry *entry)
{
	return scan->backward ? next_backward(scan, entry) : next_forward(scan, entry);
}

void
LogScanEnd(LogScan *scan)
{
	if (scan->open)
		close_segments(&scan->segments);
	if (scan->entries)
		pfree(scan->entries);
	pfree(scan);
}

int64
LogHead(Snapshot snapshot)
{
	Segment		segment;

	MakeLogDurable();
	if (!find_segment(snapshot, PG_INT64_MAX, &segment))
		return 0;
	return segment.first_position + segment.event_count - 1;
}

int64
LogHeadNow(void)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		head = LogHead(snapshot);

	UnregisterSnapshot(snapshot);
	return head;
}

Oid
LogEventTable(Snapshot snapshot, int32 table_no)
{
	Relation	registry = table_open(GetDaybookOids()->event_table, AccessShareLock);
	Relation	index = index_open(DaybookRelation(REGISTRY_KEY), AccessShareLock);
	Oid			relation = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;

	ScanKeyInit(&key, Anum_event_table_table_no, BTEqualStrategyNumber,
				F_INT4EQ, Int32GetDatum(table_no));
	scan = systable_beginscan_ordered(registry, index, snapshot, 1, &key);
	row = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(row))
	{
		bool		isnull;
		Datum		value = heap_getattr(row, Anum_event_table_relation,
										 RelationGetDescr(registry), &isnull);

		if (!isnull)
			relation = DatumGetObjectId(value);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(registry, AccessShareLock);
	return relation;
}

static LogScan *
make_scan(void)
{
	LogScan    *scan = palloc0(sizeof(LogScan));

	scan->context = CurrentMemoryContext;
	return scan;
}

/* Opens a scan of the segments whose first position compares so. */
static void
open_segments(SegmentScan *segments, Snapshot snapshot,
			  StrategyNumber strategy, int64 position)
{
	ScanKeyData key;

	segments->table = table_open(DaybookRelation(LOG_SEGMENT_TABLE), AccessShareLock);
	segments->index = index_open(DaybookRelation(LOG_SEGMENT_INDEX), AccessShareLock);
	ScanKeyInit(&key, LOG_SEGMENT_FIRST_POSITION, strategy,
				strategy == BTLessEqualStrategyNumber ? F_INT8LE : F_INT8GE,
				Int64GetDatum(position));
	segments->scan = systable_beginscan_ordered(segments->table, segments->index,
												snapshot, 1, &key);
}

static bool
next_segment(SegmentScan *segments, ScanDirection direction, Segment *segment)
{
	HeapTuple	row = systable_getnext_ordered(segments->scan, direction);
	TupleDesc	desc = RelationGetDescr(segments->table);
	bool		isnull;

	if (!HeapTupleIsValid(row))
		return false;
	segment->first_position = DatumGetInt64(heap_getattr(row, LOG_SEGMENT_FIRST_POSITION,
														 desc, &isnull));
	segment->event_count = DatumGetInt32(heap_getattr(row, LOG_SEGMENT_EVENT_COUNT,
													  desc, &isnull));
	segment->payload = DatumGetByteaPP(heap_getattr(row, LOG_SEGMENT_ENTRIES,
													desc, &isnull));

	/* an event takes a byte or more */
	if (segment->event_count < 1 || segment->event_count > VARSIZE_ANY_EXHDR(segment->payload))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("log segment at position " INT64_FORMAT " cannot have %d events",
						segment->first_position, segment->event_count),
				 errdetail("It has %d bytes.", (int) VARSIZE_ANY_EXHDR(segment->payload))));
	return true;
}

static void
close_segments(SegmentScan *segments)
{
	systable_endscan_ordered(segments->scan);
	index_close(segments->index, AccessShareLock);
	table_close(segments->table, AccessShareLock);
}

/* Finds the last segment that begins at or before a position; no payload. */
static bool
find_segment(Snapshot snapshot, int64 position, Segment *segment)
{
	SegmentScan segments;
	bool		found;

	open_segments(&segments, snapshot, BTLessEqualStrategyNumber, position);
	found = next_segment(&segments, BackwardScanDirection, segment);
	close_segments(&segments);
	segment->payload = NULL;
	return found;
}

static bool
next_forward(LogScan *scan, LogEntry *entry)
{
	do
	{
		while (!scan->reading || !LogSegmentRead(&scan->reader, entry))
		{
			if (!scan->open || !open_next_segment(scan))
				return false;
		}
	} while (entry->position <= scan->after);
	scan->after = entry->position;
	return true;
}

static bool
open_next_segment(LogScan *scan)
{
	Segment		segment;

	if (!scan_segments(scan, &segment))
		return false;

	/* Positions are dense: the next segment holds the next position. */
	if (segment.first_position > scan->after + 1 ||
		(scan->reading && segment.first_position <= scan->after))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("log is broken after position " INT64_FORMAT, scan->after),
				 errdetail("The next segment begins at position " INT64_FORMAT ".",
						   segment.first_position)));
	read_segment(&scan->reader, &segment);
	scan->reading = true;
	return true;
}

static bool
next_backward(LogScan *scan, LogEntry *entry)
{
	do
	{
		while (scan->entries_left == 0)
		{
			if (!scan->open || !decode_previous_segment(scan))
				return false;
		}
		*entry = scan->entries[--scan->entries_left];
	} while (entry->position > scan->upto);
	scan->upto = entry->position - 1;
	return true;
}

static bool
decode_previous_segment(LogScan *scan)
{
	Segment		segment;
	LogSegmentReader reader;
	bool		first = scan->entries == NULL;

	if (!scan_segments(scan, &segment))
		return false;
	if (!first && segment.first_position + segment.event_count - 1 != scan->upto)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("log is broken before position " INT64_FORMAT, scan->upto + 1),
				 errdetail("The segment before ends at position " INT64_FORMAT ".",
						   segment.first_position + segment.event_count - 1)));
	if (segment.event_count > scan->entries_room)
	{
		if (!first)
			pfree(scan->entries);
		scan->entries = MemoryContextAlloc(scan->context,
										   segment.event_count * sizeof(LogEntry));
		scan->entries_room = segment.event_count;
	}
	read_segment(&reader, &segment);
	while (LogSegmentRead(&reader, &scan->entries[scan->entries_left]))
		scan->entries_left++;
	return true;
}

/* The index scan allocates as it goes: keep that out of the caller's context. */
static bool
scan_segments(LogScan *scan, Segment *segment)
{
	MemoryContext caller = MemoryContextSwitchTo(scan->context);
	bool		found = next_segment(&scan->segments,
									 scan->backward ? BackwardScanDirection : ForwardScanDirection,
									 segment);

	MemoryContextSwitchTo(caller);
	return found;
}

static void
read_segment(LogSegmentReader *reader, const Segment *segment)
{
	LogSegmentReaderInit(reader, segment->first_position, segment->event_count,
						 VARDATA_ANY(segment->payload),
						 VARSIZE_ANY_EXHDR(segment->payload));
}

/*-------------------------------------------------------------------------
 *
 * read_all.c
 *	  Reading the events of all streams in order of the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tupdesc.h"
#include "arguments.h"
#include "catalog/pg_type.h"
#include "daybook.h"
#include "event_table/event_source.h"
#include "replay/event_reader.h"
#include "replay/row_function.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(daybook_read_all);

#define LOG_EVENT_TYPE			"log_event"
#define LOG_EVENT_POSITION		1

/* Arguments of daybook.read_all. */
enum
{
	READ_ALL_AFTER,
	READ_ALL_MAX_EVENTS,
	READ_ALL_EVENT_TABLES,
	READ_ALL_CATEGORIES,
	READ_ALL_TYPES,
	READ_ALL_NARGS
};

/* A reader's events on their way. */
typedef struct LogRows
{
	RowSource	source;
	EventReader *reader;
	int64		rows_left;
	TupleDesc	event_desc;		/* daybook.event */
	TupleTableSlot *slot;		/* a row of daybook.log_event */
} LogRows;

static RowSource *begin_read_all(const RowCall *call);
static TupleTableSlot *next_row(RowSource *source);
static void end_rows(RowSource *source);
static ArrayType *array_argument(const NullableDatum *arg, const char *name);
static void check_event_tables(ArrayType *tables);

const RowFunction ReadAllFunction = {
	.name = "read_all",
	.nargs = READ_ALL_NARGS,
	.begin = begin_read_all,
	.order_column = LOG_EVENT_POSITION,
	.backwards_arg = -1
};

Datum
daybook_read_all(PG_FUNCTION_ARGS)
{
	return ReturnRows(&ReadAllFunction, fcinfo);
}

static RowSource *
begin_read_all(const RowCall *call)
{
	const NullableDatum *args = call->args;
	EventFilter filter = {0};
	EventReader *reader;
	int64		after;
	int32		max_events;

	RefuseNull(&args[READ_ALL_AFTER], "after");
	RefuseNull(&args[READ_ALL_MAX_EVENTS], "max_events");
	after = DatumGetInt64(args[READ_ALL_AFTER].value);
	max_events = DatumGetInt32(args[READ_ALL_MAX_EVENTS].value);
	if (after < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("after must not be negative"),
				 errdetail("The value given is " INT64_FORMAT ".", after),
				 errhint("Give the last position that was read, or 0 to begin with the first event.")));
	if (max_events < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events must be at least 1"),
				 errdetail("The value given is %d.", max_events)));
	filter.event_tables = array_argument(&args[READ_ALL_EVENT_TABLES], "event_tables");
	filter.categories = array_argument(&args[READ_ALL_CATEGORIES], "categories");
	filter.types = array_argument(&args[READ_ALL_TYPES], "types");
	check_event_tables(filter.event_tables);

	reader = EventReaderBegin(call->snapshot, after, &filter, true);
	EventReaderExpect(reader, max_events);
	return LogRowsBegin(reader, max_events);
}

RowSource *
LogRowsBegin(EventReader *reader, int64 max_rows)
{
	LogRows    *rows = palloc0(sizeof(LogRows));
	Oid			row_type = get_rel_type_id(DaybookRelation(LOG_EVENT_TYPE));

	rows->source.next = next_row;
	rows->source.end = end_rows;
	rows->reader = reader;
	rows->rows_left = max_rows;
	rows->event_desc = lookup_rowtype_tupdesc(GetDaybookOids()->event_type, -1);
	rows->slot = MakeSingleTupleTableSlot(lookup_rowtype_tupdesc_copy(row_type, -1),
										  &TTSOpsVirtual);
	return &rows->source;
}

/* Each event of a call leaves through here. */
static TupleTableSlot *
next_row(RowSource *source)
{
	LogRows    *rows = (LogRows *) source;
	TupleTableSlot *slot = rows->slot;
	LogEvent   *event;

	if (rows->rows_left == 0)
		return NULL;
	event = EventReaderNext(rows->reader);
	if (event == NULL)
		return NULL;
	rows->rows_left--;
	ExecClearTuple(slot);
	LogEventValues(event, rows->event_desc, slot->tts_values, slot->tts_isnull);
	return ExecStoreVirtualTuple(slot);
}

static void
end_rows(RowSource *source)
{
	LogRows    *rows = (LogRows *) source;

	EventReaderEnd(rows->reader);
	ExecDropSingleTupleTableSlot(rows->slot);
	ReleaseTupleDesc(rows->event_desc);
}

/* NULL when not given; its elements must not be. */
static ArrayType *
array_argument(const NullableDatum *arg, const char *name)
{
	ArrayType  *array;

	if (arg->isnull)
		return NULL;
	array = DatumGetArrayTypeP(arg->value);
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain nulls", name)));
	return array;
}

static void
check_event_tables(ArrayType *tables)
{
	Datum	   *relids;
	int			count;

	if (tables == NULL)
		return;
	deconstruct_array(tables, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT,
					  &relids, NULL, &count);
	for (int i = 0; i < count; i++)
		table_close(OpenReadableEventTable(DatumGetObjectId(relids[i])), NoLock);
}

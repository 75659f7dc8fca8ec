/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  verify_projection: comparing a projection's tables with what the events
 *	  say they should hold.
 *
 * Rows and position are those of one snapshot; the projection goes on
 * meanwhile.  Copies of the tables are filled from the events up to that
 * position, without those that were parked or discarded by then, and are gone
 * with the subtransaction that made them.  An inline projection has applied
 * what the snapshot sees, or what it saw when it was paused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "event_table/event_table.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "position_list.h"
#include "projection/projection.h"
#include "relation_text.h"
#include "replay/event_reader.h"
#include "subtransaction.h"
#include "user_function.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#define VERIFY_BATCH_SIZE	50000

/* Names a schema that only the verifying transaction ever sees. */
#define VERIFY_SCHEMA		"daybook_verify_%d"

typedef struct Verification
{
	const Projection *projection;
	Projection	copy;			/* the same over copies of the tables */
	Handler    *handler;		/* of that */
	Snapshot	snapshot;
	int64		end;			/* the projection's position, or of an inline one the last id */
	ArrayType  *left_out;		/* int8[]: parked and discarded events, in order */
	ArrayType  *ignore_columns;
	ArrayType  *streams;		/* NULL: all */
	char	   *stream_column;
	ReturnSetInfo *result;
} Verification;

static void verification_init(Verification *verification, FunctionCallInfo fcinfo);
static void check_ignored(Verification *verification);
static void require_column(Verification *verification, const char *column, const char *hint);
static void check_streams(Verification *verification, FunctionCallInfo fcinfo);
static void read_state(Verification *verification);
static bool build_and_compare(void *arg);
static void build(Verification *verification);
static void build_inline(Verification *verification);
static bool fill_batch(Verification *verification, EventReader *reader, EventBatch *batch,
					   ParkedStreams *sample);
static bool is_left_out(const Verification *verification, int64 position);
static void apply(Handler *handler, EventBatch *batch);
static ParkedStreams *stream_sample(const Verification *verification);
static void compare(Verification *verification, Oid live, Oid copy);

PG_FUNCTION_INFO_V1(daybook_verify_projection);
Datum
daybook_verify_projection(PG_FUNCTION_ARGS)
{
	Verification verification = {0};
	ErrorData  *error;

	PreventCommandIfReadOnly("daybook.verify_projection()");
	InitMaterializedSRF(fcinfo, 0);
	verification_init(&verification, fcinfo);
	/* functions keep plans, and a plan made for the table is none for its copy */
	ResetPlanCache();
	error = RunInSubtransaction(build_and_compare, &verification);
	ResetPlanCache();
	if (verification.handler != NULL)
		HandlerFree(verification.handler);
	if (error != NULL)
		ReThrowError(error);
	UnregisterSnapshot(verification.snapshot);
	return (Datum) 0;
}

static void
verification_init(Verification *verification, FunctionCallInfo fcinfo)
{
	char	   *name;
	char	   *obstacle;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and ignore_columns of verify_projection must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	verification->projection = ProjectionOwned(name);
	obstacle = CopiesObstacle(verification->projection);
	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("projection \"%s\" cannot be verified", name),
				 errdetail_internal("%s", obstacle)));
	/* it may have changed, and its rows with it, while this waited for the tables' locks */
	verification->projection = ProjectionOwned(name);
	verification->ignore_columns = PG_GETARG_ARRAYTYPE_P_COPY(1);
	check_ignored(verification);
	check_streams(verification, fcinfo);
	verification->result = (ReturnSetInfo *) fcinfo->resultinfo;

	verification->snapshot = RegisterSnapshot(GetLatestSnapshot());
	read_state(verification);
}

/* A name that was mistyped would leave the differences in that it was to hide. */
static void
check_ignored(Verification *verification)
{
	Datum	   *names;
	int			n;

	if (ARR_NDIM(verification->ignore_columns) > 1 ||
		array_contains_nulls(verification->ignore_columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ignore_columns of verify_projection must be a list without nulls")));
	deconstruct_array(verification->ignore_columns, TEXTOID, -1, false, TYPALIGN_INT,
					  &names, NULL, &n);
	for (int i = 0; i < n; i++)
		require_column(verification, TextDatumGetCString(names[i]),
					   "ignore_columns names columns whose values are no matter of events.");
}

static void
check_streams(Verification *verification, FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(2) != PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("streams and stream_column of verify_projection go together"),
				 errhint("stream_column names the column of the tables that holds a row's stream.")));
	if (PG_ARGISNULL(2))
		return;
	verification->streams = PG_GETARG_ARRAYTYPE_P_COPY(2);
	verification->stream_column = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (array_contains_nulls(verification->streams))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("streams of verify_projection must not contain nulls")));
	require_column(verification, verification->stream_column,
				   "stream_column names the column of the tables that holds a row's stream.");
}

/* A column of at least one of the tables. */
static void
require_column(Verification *verification, const char *column, const char *hint)
{
	Oid		   *tables;
	int			n = RelationArray(verification->projection->tables, &tables);

	for (int i = 0; i < n; i++)
		if (get_attnum(tables[i], column) != InvalidAttrNumber)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("no table of projection \"%s\" has a column \"%s\"",
					verification->projection->name, column),
			 errhint("%s", hint)));
}

/* How far the projection is in the snapshot, and what it has not applied. */
static void
read_state(Verification *verification)
{
	Oid			types[2] = {TEXTOID, TIMESTAMPTZOID};
	Datum		values[2];
	MemoryContext caller = CurrentMemoryContext;
	RunAs		superuser;
	bool		isnull;
	Datum		left_out;

	values[0] = CStringGetTextDatum(verification->projection->name);
	/* before that, another one of the name may have discarded some */
	values[1] = TimestampTzGetDatum(Max(verification->projection->rebuilt_at,
										verification->projection->created_at));
	PushActiveSnapshot(verification->snapshot);
	SPI_connect();
	RunAsSuperuser(&superuser);
	if (SPI_execute_with_args("SELECT CASE p.mode WHEN 'async' THEN q.position ELSE coalesce(q.paused_at_id, 9223372036854775807) END, ARRAY("
							  "SELECT k.position FROM daybook.projection_parked k WHERE k.projection = $1"
							  " UNION SELECT d.position FROM daybook.projection_discarded d"
							  " WHERE d.projection = $1 AND d.discarded_at > $2 ORDER BY 1)"
							  " FROM daybook.projection_position q JOIN daybook.projection p USING (name) WHERE q.name = $1",
							  2, types, values, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the state of projection \"%s\"", verification->projection->name);
	verification->end = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	left_out = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	MemoryContextSwitchTo(caller);
	verification->left_out = DatumGetArrayTypePCopy(left_out);
	RunAsEnd(&superuser);
	SPI_finish();
	PopActiveSnapshot();
}

/* Keeps nothing of what it makes. */
static bool
build_and_compare(void *arg)
{
	Verification *verification = arg;
	Oid		   *tables;
	Oid		   *copies;
	int			n = RelationArray(verification->projection->tables, &tables);

	verification->copy = *verification->projection;
	verification->copy.rebuild_of = verification->projection->name;
	verification->copy.live_tables = verification->projection->tables;
	verification->copy.batch_size = Max(verification->projection->batch_size, VERIFY_BATCH_SIZE);
	verification->copy.tables = CopiesCreate(verification->projection, psprintf(VERIFY_SCHEMA, MyProcPid), false);
	verification->handler = HandlerMake(&verification->copy);
	if (verification->projection->is_inline)
		build_inline(verification);
	else
		build(verification);
	(void) RelationArray(verification->copy.tables, &copies);
	for (int i = 0; i < n; i++)
		compare(verification, tables[i], copies[i]);
	return false;
}

/* Applies what the projection has applied. */
static void
build(Verification *verification)
{
	const Projection *projection = &verification->copy;
	EventFilter filter = {projection->sources, projection->categories, projection->types};
	ParkedStreams *sample = stream_sample(verification);
	int64		position = projection->from_position;
	MemoryContext batch_context = AllocSetContextCreate(CurrentMemoryContext, "daybook verification batch",
														ALLOCSET_DEFAULT_SIZES);
	bool		more = true;

	while (more)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch_context);
		OwnerContext owner;
		EventReader *reader;
		EventBatch	batch;

		CHECK_FOR_INTERRUPTS();
		PushActiveSnapshot(verification->snapshot);
		OwnerContextEnter(&owner, projection);
		EventBatchInit(&batch);
		reader = EventReaderBegin(GetActiveSnapshot(), position, &filter, true);
		/* of what is parked or not looked at, upcasters may fail */
		EventReaderCatch(reader);
		EventReaderLimit(reader, verification->end - position);
		more = verification->end > position && fill_batch(verification, reader, &batch, sample);
		position = EventReaderPosition(reader);
		EventReaderEnd(reader);
		OwnerContextLeave(&owner);
		PopActiveSnapshot();
		if (batch.count > 0)
			apply(verification->handler, &batch);
		EventBatchEnd(&batch);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(batch_context);
	}
	MemoryContextDelete(batch_context);
}

/* The same where the handler ran in the appending statements. */
static void
build_inline(Verification *verification)
{
	InlineEvents events = {
		.snapshot = verification->snapshot,
		.upto_id = verification->end,
		.streams = stream_sample(verification)
	};

	InlineApply(verification->handler, &events);
}

/* Returns whether there may be more. */
static bool
fill_batch(Verification *verification, EventReader *reader, EventBatch *batch, ParkedStreams *sample)
{
	LogEvent   *event;

	while (batch->count < verification->copy.batch_size)
	{
		bool		isnull;

		event = EventReaderNext(reader);
		if (event == NULL)
			return false;
		if (is_left_out(verification, event->entry.position))
			continue;
		if (sample != NULL)
		{
			char	   *stream_id = TextDatumGetCString(heap_getattr(event->tuple, EVENT_STREAM_ID,
																	 batch->event_desc, &isnull));
			bool		wanted = ParkedStreamsHave(sample, InvalidOid, stream_id);

			pfree(stream_id);
			if (!wanted)
				continue;
		}
		if (event->error != NULL)
			ReThrowError(event->error);
		EventBatchAdd(batch, event);
	}
	return true;
}

static bool
is_left_out(const Verification *verification, int64 position)
{
	ArrayType  *left_out = verification->left_out;

	return PositionIsAmong((int64 *) ARR_DATA_PTR(left_out),
						   ArrayGetNItems(ARR_NDIM(left_out), ARR_DIMS(left_out)), position);
}

static void
apply(Handler *handler, EventBatch *batch)
{
	PushActiveSnapshot(GetLatestSnapshot());
	SetConstraintsImmediate(handler->projection);
	HandlerRun(handler, batch);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/* The streams that the caller wants to look at, of whatever event table. */
static ParkedStreams *
stream_sample(const Verification *verification)
{
	ParkedStreams *sample;
	Datum	   *streams;
	int			n;

	if (verification->streams == NULL)
		return NULL;
	sample = ParkedStreamsCreate(CurrentMemoryContext);
	deconstruct_array(verification->streams, TEXTOID, -1, false, TYPALIGN_INT, &streams, NULL, &n);
	for (int i = 0; i < n; i++)
		ParkedStreamsAdd(sample, InvalidOid, TextDatumGetCString(streams[i]));
	return sample;
}

/* Adds the rows that only one of the two has to the result. */
static void
compare(Verification *verification, Oid live, Oid copy)
{
	Oid			types[3] = {TEXTARRAYOID, TEXTARRAYOID, TEXTOID};
	Datum		values[3];
	char		nulls[3] = {' ', ' ', ' '};
	/* t alone would be a column of that name, if there is one */
	const char *rows = "SELECT pg_catalog.to_jsonb(t.*) - $1 AS r FROM ONLY %s t"
		" WHERE $2 IS NULL OR pg_catalog.to_jsonb(t.*) ->> $3 = ANY ($2)";
	char	   *live_rows = psprintf(rows, RelationText(live));
	char	   *copy_rows = psprintf(rows, RelationText(copy));
	char	   *query = psprintf("SELECT r, 'missing' FROM (%s EXCEPT ALL %s) m"
								 " UNION ALL SELECT r, 'unexpected' FROM (%s EXCEPT ALL %s) u ORDER BY 1, 2",
								 copy_rows, live_rows, live_rows, copy_rows);
	RunAs		owner;

	if (verification->stream_column != NULL && get_attnum(live, verification->stream_column) == InvalidAttrNumber)
		return;
	values[0] = PointerGetDatum(verification->ignore_columns);
	values[1] = PointerGetDatum(verification->streams);
	values[2] = (Datum) 0;
	if (verification->streams == NULL)
		nulls[1] = nulls[2] = 'n';
	else
		values[2] = CStringGetTextDatum(verification->stream_column);

	/* of the live rows those of the snapshot, of the copy's all */
	PushCopiedSnapshot(verification->snapshot);
	UpdateActiveSnapshotCommandId();
	SPI_connect();
	RunAsRole(&owner, verification->projection->owner, "pg_catalog, pg_temp");
	if (SPI_execute_with_args(query, 3, types, values, nulls, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute: %s", query);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		row[3];
		bool		row_nulls[3] = {false, false, false};

		row[0] = ObjectIdGetDatum(live);
		row[1] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &row_nulls[1]);
		row[2] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &row_nulls[2]);
		tuplestore_putvalues(verification->result->setResult, verification->result->setDesc, row, row_nulls);
	}
	RunAsEnd(&owner);
	SPI_finish();
	PopActiveSnapshot();
}

/*-------------------------------------------------------------------------
 *
 * fold_call.c
 *	  daybook.fold(): the state of one stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "arguments.h"
#include "catalog/pg_type.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "fold/fold.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(daybook_fold);
PG_FUNCTION_INFO_V1(daybook_fold_typed);

/* What a call asks for. */
typedef struct FoldRequest
{
	text	   *stream_id;
	int64		to_version;		/* PG_INT64_MAX: all */
	TimestampTz until;			/* DT_NOEND: no bound */
} FoldRequest;

static bool read_arguments(FunctionCallInfo fcinfo, int to_version, FoldRequest *request);
static int64 version_argument(FunctionCallInfo fcinfo, int n);
static void fold_stream(FoldRun *run, const FoldRequest *request);
static Datum one_state_to_jsonb(FoldRun *run, Datum state);

/* daybook.fold(name, stream_id, to_version, until) */
Datum
daybook_fold(PG_FUNCTION_ARGS)
{
	FoldRequest request;
	FoldRun    *run;
	Datum		state;
	bool		is_null;

	if (!read_arguments(fcinfo, 2, &request))
		PG_RETURN_NULL();
	run = FoldRunAcquire(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	fold_stream(run, &request);
	state = FoldState(run, &is_null);
	if (!is_null)
		state = one_state_to_jsonb(run, state);
	FoldRunRelease(run);
	if (is_null)
		PG_RETURN_NULL();
	return state;
}

/* To become the owner costs time, and there is nothing to be run for a state of type jsonb. */
static Datum
one_state_to_jsonb(FoldRun *run, Datum state)
{
	if (FoldRunStateType(run)->oid == JSONBOID)
		return StateToJsonb(run, state);
	FoldEnter(run);
	state = StateToJsonb(run, state);
	FoldLeave(run);
	return state;
}

/* daybook.fold(name, stream_id, state_type, to_version, until) */
Datum
daybook_fold_typed(PG_FUNCTION_ARGS)
{
	FoldRequest request;
	FoldRun    *run;
	Datum		state;
	bool		is_null;

	if (!read_arguments(fcinfo, 3, &request))
		PG_RETURN_NULL();
	run = FoldRunAcquire(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	RequireStateType(run, get_fn_expr_argtype(fcinfo->flinfo, 2));
	fold_stream(run, &request);
	state = FoldState(run, &is_null);
	if (!is_null)
		state = datumCopy(state, FoldRunStateType(run)->by_value, FoldRunStateType(run)->len);
	FoldRunRelease(run);
	if (is_null)
		PG_RETURN_NULL();
	return state;
}

/* False where no stream is asked for. */
static bool
read_arguments(FunctionCallInfo fcinfo, int to_version, FoldRequest *request)
{
	RefuseNull(&fcinfo->args[0], "name");
	if (PG_ARGISNULL(1))
		return false;
	request->stream_id = PG_GETARG_TEXT_PP(1);
	request->to_version = PG_INT64_MAX;
	request->until = DT_NOEND;
	if (!PG_ARGISNULL(to_version))
		request->to_version = version_argument(fcinfo, to_version);
	if (request->to_version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("to_version must not be negative"),
				 errdetail("The value given is " INT64_FORMAT ".", request->to_version),
				 errhint("Version 0 is the state before the first event.")));
	if (PG_NARGS() > to_version + 1 && !PG_ARGISNULL(to_version + 1))
		request->until = PG_GETARG_TIMESTAMPTZ(to_version + 1);
	return true;
}

/* It comes in the width in which the caller has it. */
static int64
version_argument(FunctionCallInfo fcinfo, int n)
{
	switch (get_fn_expr_argtype(fcinfo->flinfo, n))
	{
		case INT2OID:
			return PG_GETARG_INT16(n);
		case INT4OID:
			return PG_GETARG_INT32(n);
		default:
			return PG_GETARG_INT64(n);
	}
}

static void
fold_stream(FoldRun *run, const FoldRequest *request)
{
	Relation	table = OpenReadableEventTable(FoldRunDefinition(run)->event_table);
	Snapshotted from;
	Snapshotted now;

	FoldStream(run, table, request->stream_id, request->to_version, request->until, 0,
			   &from, &now);
	table_close(table, NoLock);
}

void
FoldStream(FoldRun *run, Relation event_table, text *stream_id, int64 to_version,
		   TimestampTz until, int64 max_events, Snapshotted *from, Snapshotted *now)
{
	Snapshot	snapshot = GetActiveSnapshot();
	StreamReader *reader = StreamReaderBegin(event_table, snapshot, false);
	SnapshotScan *snapshots = SnapshotScanBegin(run, event_table, snapshot);
	int64		events = 0;
	TupleTableSlot *event;
	bool		is_null;

	FoldBegin(run);
	from->version = 0;
	from->recorded_at = DT_NOBEGIN;
	if (snapshots)
	{
		if (SnapshotFind(snapshots, stream_id, to_version, until, from))
			FoldBeginWith(run, from->state, from->is_null);
		SnapshotScanEnd(snapshots);
	}
	now->version = from->version;
	now->recorded_at = from->recorded_at;

	StreamReaderSeek(reader, stream_id, from->version + 1, to_version, ForwardScanDirection);
	StreamReaderUntil(reader, until);
	FoldEnter(run);
	while ((max_events == 0 || events++ < max_events) &&
		   (event = StreamReaderNext(reader)) != NULL)
	{
		now->version = DatumGetInt64(slot_getattr(event, EVENT_VERSION, &is_null));
		now->recorded_at = Max(now->recorded_at,
							   DatumGetTimestampTz(slot_getattr(event, EVENT_RECORDED_AT, &is_null)));
		FoldEvent(run, event);
	}
	FoldLeave(run);
	StreamReaderEnd(reader);
	now->state = FoldState(run, &now->is_null);
}

void
RequireStateType(const FoldRun *run, Oid type)
{
	if (type != FoldRunStateType(run)->oid)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("state of fold \"%s\" is of type %s, not %s",
						FoldRunDefinition(run)->name,
						format_type_be(FoldRunStateType(run)->oid),
						format_type_be(type)),
				 errhint("Ask for it with NULL::%s; give a version or a time by name, as to_version => or until =>.",
						 format_type_be(FoldRunStateType(run)->oid))));
}

/*
 * As to_jsonb() gives it, in the current memory context.  Unless the state is
 * jsonb, the caller is between FoldEnter() and FoldLeave(): casts of its type to
 * json are called, which run as the fold's owner, too.
 */
Datum
StateToJsonb(FoldRun *run, Datum state)
{
	const StateType *type = FoldRunStateType(run);
	FmgrInfo	function;
	LOCAL_FCINFO(fcinfo, 1);

	state = datumCopy(state, type->by_value, type->len);
	if (type->oid == JSONBOID)
		return state;
	fmgr_info(F_TO_JSONB, &function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(makeNullConst(type->oid, -1, InvalidOid)),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &function);
	InitFunctionCallInfoData(*fcinfo, &function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = state;
	fcinfo->args[0].isnull = false;
	return FunctionCallInvoke(fcinfo);
}

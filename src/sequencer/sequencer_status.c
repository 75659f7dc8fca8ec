/*-------------------------------------------------------------------------
 *
 * sequencer_status.c
 *	  What the sequencer reports of itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sequencer/log_durable.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"
#include "worker/worker_state.h"

PG_FUNCTION_INFO_V1(daybook_sequencer_state_now);

#define STATUS_NATTS	10

static const char *hint_of(const DatabaseState *db);
static bool database_is_template(void);
static const char *mode_name(SequencerMode mode);
static Datum time_or_null(TimestampTz time, bool *is_null);

/* daybook.sequencer_state_now(): one row, from shared memory */
Datum
daybook_sequencer_state_now(PG_FUNCTION_ARGS)
{
	DatabaseState *db = MyDatabaseState();
	TupleDesc	desc;
	Datum		values[STATUS_NATTS] = {0};
	bool		nulls[STATUS_NATTS];
	uint64		sequenced;
	const char *hint;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));
	values[1] = CStringGetTextDatum(mode_name(db ? db->mode : SEQUENCER_STOPPED));
	nulls[1] = false;
	hint = hint_of(db);
	if (hint[0] != '\0')
	{
		values[2] = CStringGetTextDatum(hint);
		nulls[2] = false;
	}
	if (db && db->worker_pid != 0)
	{
		MakeLogDurable();
		values[0] = Int32GetDatum(db->worker_pid);
		values[3] = Int64GetDatum(pg_atomic_read_u64(&db->head));
		values[4] = Int64GetDatum(db->low_water);
		values[5] = Int32GetDatum(db->open_gaps);
		sequenced = pg_atomic_read_u64(&db->sequenced_lsn);
		values[6] = LSNGetDatum(sequenced);
		values[7] = LSNGetDatum(db->decoded_lsn);
		nulls[0] = nulls[3] = nulls[4] = nulls[5] = false;
		nulls[6] = XLogRecPtrIsInvalid(sequenced);
		nulls[7] = XLogRecPtrIsInvalid(db->decoded_lsn);
		values[8] = time_or_null(db->started_at, &nulls[8]);
		values[9] = time_or_null(db->last_published_at, &nulls[9]);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

static const char *
hint_of(const DatabaseState *db)
{
	if (RecoveryInProgress())
		return "the server is in recovery; events are put in order on its primary";
	if (!WorkerStateAvailable())
		return "daybook is not in shared_preload_libraries";
	if (!LauncherHasCome())
		return "there is no launcher of workers; increase max_worker_processes and restart the server";
	if (db)
		return db->hint;
	if (database_is_template())
		return "the database is a template, which has no worker";
	if (WorkerStateIsFull())
		return "as many databases have a worker as daybook.max_databases says; increase it and restart the server";
	return "";
}

static bool
database_is_template(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return result;
}

static const char *
mode_name(SequencerMode mode)
{
	switch (mode)
	{
		case SEQUENCER_STARTING:
			return "starting";
		case SEQUENCER_SCANNING:
			return "scanning";
		case SEQUENCER_DECODING:
			return "decoding";
		case SEQUENCER_STOPPED:
			break;
	}
	return "stopped";
}

static Datum
time_or_null(TimestampTz time, bool *is_null)
{
	*is_null = time == 0;
	return TimestampTzGetDatum(time);
}

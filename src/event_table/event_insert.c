/*-------------------------------------------------------------------------
 *
 * event_insert.c
 *	  The version trigger: numbers a new event and says when and by whom it
 *	  was recorded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/insert_statement.h"
#include "event_table/tag_locks.h"
#include "excerpt.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "relation_text.h"
#include "replication/logicalworker.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/uuid.h"
#include "worker/worker_state.h"

PG_FUNCTION_INFO_V1(daybook_event_before_insert);

/* An event on its way. */
typedef struct NewEvent
{
	Relation	rel;
	Datum	   *values;			/* the table's columns */
	bool	   *nulls;
	bool		restoring;		/* keep what the row says of itself */
} NewEvent;

/* whose name session_user_name() holds */
static Oid	recorded_user = InvalidOid;

bool		event_append_running = false;

#define VALUE(event, column)	((event)->values[(column) - 1])
#define IS_NULL(event, column)	((event)->nulls[(column) - 1])
#define SET(event, column, datum) \
	(VALUE(event, column) = (datum), IS_NULL(event, column) = false)

static void check_trigger_call(FunctionCallInfo fcinfo);
static const EventTable *require_appendable(Relation rel);
static bool make_event(NewEvent *event, const EventTable *table, int depth);
static bool keeps_origin(int depth);
static const EventTable *require_registered(Relation rel);
static void check_columns(NewEvent *event);
static void refuse_empty(Relation rel);
static void check_subscription_owner(Relation rel);
static void check_restored_id(NewEvent *event);
static void refuse_given(NewEvent *event, int column, const char *name);
static bool number_event(NewEvent *event, int64 last_version, Oid stream_index,
						 int64 *version);
static void complete_event(NewEvent *event);
static text *session_user_name(void);
static void forget_user_name(Datum arg, int cacheid, uint32 hashvalue);
static void end_of_transaction(XactEvent event, void *arg);
static void end_of_subtransaction(SubXactEvent event, SubTransactionId subid,
								  SubTransactionId parent, void *arg);

void
AppendCallbacksInit(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
	CacheRegisterSyscacheCallback(AUTHOID, forget_user_name, (Datum) 0);
	InsertStatementInit();
}

/*
 * daybook.event_before_insert(): BEFORE INSERT FOR EACH ROW on an event table.
 */
Datum
daybook_event_before_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Datum		values[EVENT_NATTS];
	bool		nulls[EVENT_NATTS];
	NewEvent	event = {.values = values, .nulls = nulls};
	const EventTable *table;

	check_trigger_call(fcinfo);
	event.rel = trigger->tg_relation;
	table = require_appendable(event.rel);
	heap_deform_tuple(trigger->tg_trigtuple, RelationGetDescr(event.rel), values, nulls);
	if (!make_event(&event, table, DatumGetInt32(pg_trigger_depth(fcinfo))))
		return PointerGetDatum(NULL);
	return PointerGetDatum(heap_form_tuple(RelationGetDescr(event.rel), values, nulls));
}

/*
 * Does the trigger's work where no other trigger can see the row before it:
 * the slot is empty, and its columns are set.
 */
void
MakeEventRow(Relation rel, TupleTableSlot *slot)
{
	NewEvent	event = {.rel = rel, .values = slot->tts_values, .nulls = slot->tts_isnull};
	const EventTable *table = require_appendable(rel);

	if (!make_event(&event, table, DatumGetInt32(pg_trigger_depth(NULL)) + 1))
		elog(ERROR, "row for event table \"%s\" was passed over", RelationGetRelationName(rel));
	/* the session's, which users' code may change before the row is stored */
	VALUE(&event, EVENT_RECORDED_BY) = datumCopy(VALUE(&event, EVENT_RECORDED_BY), false, -1);
	ExecStoreVirtualTuple(slot);
}

/*
 * Numbers and completes the event.  False if it is to be passed over.  depth
 * is that of the trigger.
 */
static bool
make_event(NewEvent *event, const EventTable *table, int depth)
{
	Relation	rel = event->rel;
	Oid			stream_index;
	text	   *stream_id;
	int64		last_version;
	int64		version;
	bool		locked;

	EventTicketsLapse(depth);
	event->restoring = keeps_origin(depth);
	check_columns(event);
	if (!event->restoring && !table->registered)
		table = require_registered(rel);
	stream_index = table->stream_index;
	stream_id = DatumGetTextPP(VALUE(event, EVENT_STREAM_ID));
	SET(event, EVENT_STREAM_ID, PointerGetDatum(stream_id));

	last_version = StreamTailLock(rel, table, stream_id, &locked);
	if (!number_event(event, last_version, stream_index, &version))
	{
		EventTicketsSettle();
		return false;
	}
	SET(event, EVENT_VERSION, Int64GetDatum(version));

	/* before the id is taken, so that ids rise in the order of these locks too */
	if (!IS_NULL(event, EVENT_TAGS))
		LockEventTags(RelationGetRelid(rel), DatumGetArrayTypeP(VALUE(event, EVENT_TAGS)));
	complete_event(event);
	EventTicketIssue(rel, depth, event->values, event->nulls, version == last_version + 1,
					 locked);
	WakeDatabaseWorkerAtCommit();
	return true;
}

/*
 * Rows that a superuser loads, and that replication brings, keep what they say
 * of themselves.  Those that triggers and other functions append meanwhile, in
 * the process that applies changes, are their owners', and appended as ever.
 */
static bool
keeps_origin(int depth)
{
	if (daybook_restore)
		return true;
	return SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA &&
		!(IsLogicalWorker() && (depth > 1 || event_append_running || StatementIsRun()));
}

static void
check_trigger_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("daybook.event_before_insert must be called by a BEFORE INSERT trigger for each row")));
}

/* Anybody can have the trigger on a table of his own, of as many columns as he likes. */
static const EventTable *
require_appendable(Relation rel)
{
	const EventTable *table;

	if (!WorkerStateAvailable())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot append to event table \"%s\": daybook is not loaded by the server",
						RelationGetRelationName(rel)),
				 errhint("Add daybook to shared_preload_libraries and restart the server.")));
	if (event_row_check_running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot append to event table \"%s\" while another event is being checked",
						RelationGetRelationName(rel)),
				 errdetail("The check function of an event type may look at the event and nothing else.")));
	RefuseIfBusy(RelationGetRelid(rel));
	table = RequireEventTable(rel);
	if (RelationGetNumberOfAttributes(rel) != EVENT_NATTS)
		elog(ERROR, "event table \"%s\" has %d columns, not %d", RelationGetRelationName(rel),
			 RelationGetNumberOfAttributes(rel), EVENT_NATTS);
	return table;
}

/* A table is not after a restore of it alone, or of the schema without the data. */
static const EventTable *
require_registered(Relation rel)
{
	if (EventTableIsLogged(rel))
		return RequireEventTable(rel);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("event table \"%s\" is not registered in this database",
					RelationGetRelationName(rel)),
			 errdetail("Its events would be missing from daybook.log."),
			 errhint("A superuser can register it with daybook.register_event_table('%s').",
					 RelationText(RelationGetRelid(rel))),
			 errtable(rel)));
}

/* Refuses what the table's constraints would not, or not in time. */
static void
check_columns(NewEvent *event)
{
	if (IS_NULL(event, EVENT_STREAM_ID))
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in column \"stream_id\" of event table \"%s\"",
						RelationGetRelationName(event->rel)),
				 errtablecol(event->rel, EVENT_STREAM_ID)));
	if (VARSIZE_ANY_EXHDR(DatumGetTextPP(VALUE(event, EVENT_STREAM_ID))) == 0)
		refuse_empty(event->rel);
	CheckEventType(event->rel, event->values, event->nulls);
	if (event->restoring)
	{
		if (IsLogicalWorker())
		{
			check_subscription_owner(event->rel);
			/* another database's numbers, in the order of its commits: ours are given here */
			IS_NULL(event, EVENT_ID) = true;
		}
		check_restored_id(event);
		return;
	}
	refuse_given(event, EVENT_ID, "id");
	refuse_given(event, EVENT_RECORDED_AT, "recorded_at");
	refuse_given(event, EVENT_RECORDED_BY, "recorded_by");
}

/*
 * Refuses a type and a schema version that readers could make nothing of.
 * Another trigger may change them once more, so it is called again for the
 * row that is about to be stored.
 */
void
CheckEventType(Relation rel, const Datum *values, const bool *nulls)
{
	int32		schema_version;

	if (!nulls[EVENT_TYPE - 1] &&
		VARSIZE_ANY_EXHDR(DatumGetTextPP(values[EVENT_TYPE - 1])) == 0)
		refuse_empty(rel);
	if (nulls[EVENT_SCHEMA_VERSION - 1])
		return;
	schema_version = DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]);
	if (schema_version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema_version of an event must be 1 or more"),
				 errdetail("The schema_version given is %d.", schema_version),
				 errtablecol(rel, EVENT_SCHEMA_VERSION)));
}

static void
refuse_empty(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("stream_id and type of an event must not be empty"),
			 errtable(rel)));
}

/*
 * As of PostgreSQL 16 others than superusers can have subscriptions, to a
 * database in which they can say of an event what they like.
 */
static void
check_subscription_owner(Relation rel)
{
	if (!superuser_arg(GetSessionUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to replicate into event table \"%s\"",
						RelationGetRelationName(rel)),
				 errdetail("Replicated events keep what they say of when and by whom they were recorded, which only a superuser may give."),
				 errhint("Have a superuser own the subscription."),
				 errtable(rel)));
}

static void
check_restored_id(NewEvent *event)
{
	if (!IS_NULL(event, EVENT_ID) && DatumGetInt64(VALUE(event, EVENT_ID)) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id of an event must be 1 or more"),
				 errdetail("The id given is " INT64_FORMAT ".",
						   DatumGetInt64(VALUE(event, EVENT_ID))),
				 errtablecol(event->rel, EVENT_ID)));
}

static void
refuse_given(NewEvent *event, int column, const char *name)
{
	if (IS_NULL(event, column))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_GENERATED_ALWAYS),
			 errmsg("cannot insert a value into column \"%s\" of event table \"%s\"",
					name, RelationGetRelationName(event->rel)),
			 errdetail("The column says what the database saw at the append."),
			 errhint("Leave the column out. A superuser who loads a dump can set daybook.restore."),
			 errtablecol(event->rel, column)));
}

/*
 * Decides the event's version.  False: the row is to be passed over, since
 * ON CONFLICT DO NOTHING was said and the version is taken.
 */
static bool
number_event(NewEvent *event, int64 last_version, Oid stream_index, int64 *version)
{
	if (IS_NULL(event, EVENT_VERSION))
	{
		if (last_version == PG_INT64_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("stream \"%s\" of event table \"%s\" cannot have another event",
							ExcerptOfText(DatumGetTextPP(VALUE(event, EVENT_STREAM_ID))),
							RelationGetRelationName(event->rel)),
					 errdetail("Its last version is " INT64_FORMAT ", the highest that there is.",
							   last_version),
					 errtable(event->rel)));
		*version = last_version + 1;
		return true;
	}
	*version = DatumGetInt64(VALUE(event, EVENT_VERSION));
	if (*version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version of an event must be 1 or more"),
				 errdetail("The version given is " INT64_FORMAT ".", *version)));
	if (event->restoring || *version == last_version + 1)
		return true;
	if (*version <= last_version && InsertIgnoresConflicts(event->rel, stream_index))
		return false;
	ReportVersionConflict(event->rel, DatumGetTextPP(VALUE(event, EVENT_STREAM_ID)),
						  *version - 1, last_version);
}

/* The losing side of a race, and whoever was wrong about a stream. */
void
ReportVersionConflict(Relation rel, text *stream_id, int64 expected, int64 actual)
{
	char	   *shown = ExcerptOfText(stream_id);

	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("stream \"%s\" of event table \"%s\" is not at the expected version",
					shown, RelationGetRelationName(rel)),
			 errdetail("Stream \"%s\": expected version " INT64_FORMAT ", actual version " INT64_FORMAT ".",
					   shown, expected, actual),
			 errhint("Read the stream again, decide anew, and append with its present version."),
			 errtable(rel)));
}

/*
 * Fills what the database says of an event.  The transaction takes its xid
 * before the event takes its id: the sequencer relies on an id's transaction
 * being known to all when a higher id can be seen.
 */
static void
complete_event(NewEvent *event)
{
	TimestampTz now = GetCurrentTimestamp();

	(void) GetCurrentTransactionId();
	if (!IS_NULL(event, EVENT_ID))
		RestoredIdTaken(DatumGetInt64(VALUE(event, EVENT_ID)));
	else
		SET(event, EVENT_ID,
			Int64GetDatum(nextval_internal(GetDaybookOids()->event_id_seq, false)));
	if (IS_NULL(event, EVENT_RECORDED_AT))
		SET(event, EVENT_RECORDED_AT, TimestampTzGetDatum(now));
	if (IS_NULL(event, EVENT_RECORDED_BY))
		SET(event, EVENT_RECORDED_BY, PointerGetDatum(session_user_name()));
	if (IS_NULL(event, EVENT_SCHEMA_VERSION))
		SET(event, EVENT_SCHEMA_VERSION, Int32GetDatum(1));
	if (IS_NULL(event, EVENT_EVENT_ID))
	{
		pg_uuid_t  *event_id = palloc(sizeof(pg_uuid_t));

		MakeEventId(event_id->data, now);
		SET(event, EVENT_EVENT_ID, UUIDPGetDatum(event_id));
	}
	if (!event->restoring &&
		MergeSessionMetadata(&VALUE(event, EVENT_METADATA), IS_NULL(event, EVENT_METADATA)))
		IS_NULL(event, EVENT_METADATA) = false;
}

/* session_user, looked up once as long as it stays the same. */
static text *
session_user_name(void)
{
	static text *name = NULL;

	if (recorded_user != GetSessionUserId())
	{
		text	   *fresh = cstring_to_text(GetUserNameFromId(GetSessionUserId(), false));
		text	   *kept = MemoryContextAlloc(TopMemoryContext, VARSIZE(fresh));

		memcpy(kept, fresh, VARSIZE(fresh));
		if (name)
			pfree(name);
		name = kept;
		recorded_user = GetSessionUserId();
	}
	return name;
}

/* A role may have been renamed. */
static void
forget_user_name(Datum arg, int cacheid, uint32 hashvalue)
{
	recorded_user = InvalidOid;
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			EventTicketsForget();
			StreamTailsEnd();
			RestoredIdsForget();
			TagLocksEnd();
			break;
		default:
			break;
	}
}

static void
end_of_subtransaction(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && !event_row_check_running)
	{
		EventTicketsVoid(subid);
		StreamTailsForget();
		TagLocksForget();
		RestoredIdsForget();
	}
}

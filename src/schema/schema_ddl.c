/*-------------------------------------------------------------------------
 *
 * schema_ddl.c
 *	  Registers event types and upcasters.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "arguments.h"
#include "catalog/pg_type.h"
#include "event_table/event_table.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "run_now.h"
#include "schema/event_check.h"
#include "schema/payload_check.h"
#include "schema/schema_ddl.h"
#include "schema/upcast.h"
#include "tcop/utility.h"
#include "user_function.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(daybook_register_event_type);
PG_FUNCTION_INFO_V1(daybook_drop_event_type);
PG_FUNCTION_INFO_V1(daybook_create_upcaster);
PG_FUNCTION_INFO_V1(daybook_drop_upcaster);

/* What was found out about stored events of one type and version. */
typedef struct StoredMisfits
{
	int64		events;
	int64		misfits;
	char	   *first;			/* where, and what is wrong */
} StoredMisfits;

static Relation open_own_event_table(Oid relid, LOCKMODE lock);
static void check_version(int32 version, const char *name);
static void check_mode(const char *mode);
static void check_check_function(Oid function, Oid owner);
static void check_upcaster_function(Oid function, Oid owner);
static void check_function(Oid function, Oid owner, bool (*fits) (Oid function),
						   const char *what, const char *detail);
static void check_stored_events(Relation rel, text *type, int32 version,
								StoredMisfits *result);
static void refuse_gaps(Relation rel);
static void refuse_gap_behind(Relation rel, const text *type, int32 version);
static void refuse_gap_at(const EventSchema *schema, Relation rel, const text *type,
						  int32 version);

/*
 * daybook.register_event_type(event_table, type, schema_version, payload_type,
 * check, mode).  A type that is registered already is registered anew.
 */
Datum
daybook_register_event_type(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, TEXTOID, INT4OID, REGTYPEOID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	StoredMisfits stored = {0};
	Relation	rel;
	text	   *type;
	int32		version;

	PreventCommandIfReadOnly("daybook.register_event_type()");
	RefuseNull(&fcinfo->args[0], "event_table");
	type = RequireTypeArgument(fcinfo, 1, "type");
	RefuseNull(&fcinfo->args[2], "schema_version");
	RefuseNull(&fcinfo->args[5], "mode");
	version = PG_GETARG_INT32(2);
	check_version(version, "schema_version");
	check_mode(text_to_cstring(PG_GETARG_TEXT_PP(5)));
	if (!PG_ARGISNULL(3))
		CheckPayloadType(PG_GETARG_OID(3));

	/* Nobody appends until the check of what is stored has become final. */
	rel = open_own_event_table(PG_GETARG_OID(0), ShareRowExclusiveLock);
	if (!PG_ARGISNULL(4))
		check_check_function(PG_GETARG_OID(4), rel->rd_rel->relowner);
	values[0] = PG_GETARG_DATUM(0);
	values[1] = PointerGetDatum(type);
	values[2] = PG_GETARG_DATUM(2);
	values[3] = PG_GETARG_DATUM(3);
	nulls[3] = PG_ARGISNULL(3) ? 'n' : ' ';
	values[4] = PG_ARGISNULL(4) ? (Datum) 0 :
		CStringGetTextDatum(FunctionText(PG_GETARG_OID(4)));
	nulls[4] = PG_ARGISNULL(4) ? 'n' : ' ';
	values[5] = PG_GETARG_DATUM(5);
	RunOnOwnTables("INSERT INTO daybook.event_type"
				   " (event_table, type, schema_version, payload_type, check_function, mode)"
				   " VALUES ($1, $2, $3, $4, $5, $6)"
				   " ON CONFLICT (event_table, type, schema_version) DO UPDATE SET"
				   " payload_type = EXCLUDED.payload_type, check_function = EXCLUDED.check_function,"
				   " mode = EXCLUDED.mode, registered_at = EXCLUDED.registered_at",
				   6, types, values, nulls);
	refuse_gaps(rel);
	if (!PG_ARGISNULL(3) || !PG_ARGISNULL(4))
		check_stored_events(rel, type, version, &stored);
	if (stored.misfits > 0)
		ereport(WARNING,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg(INT64_FORMAT " of " INT64_FORMAT " stored events of type \"%s\", schema version %d, do not fit in event table \"%s\"",
						stored.misfits, stored.events, text_to_cstring(type), version,
						RelationGetRelationName(rel)),
				 errdetail("%s", stored.first),
				 errhint("They stay as they are. The type is registered for events to come.")));
	table_close(rel, NoLock);
	PG_RETURN_INT64(stored.misfits);
}

/* daybook.drop_event_type(event_table, type, schema_version) */
Datum
daybook_drop_event_type(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, TEXTOID, INT4OID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	Relation	rel;

	PreventCommandIfReadOnly("daybook.drop_event_type()");
	rel = open_own_event_table(PG_GETARG_OID(0), ShareUpdateExclusiveLock);
	if (RunOnOwnTables("DELETE FROM daybook.event_type"
					   " WHERE event_table = $1 AND type = $2 AND schema_version = $3",
					   3, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("event type \"%s\", schema version %d, is not registered for event table \"%s\"",
						text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_INT32(2),
						RelationGetRelationName(rel))));
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* daybook.create_upcaster(event_table, type, from_version, function, to_type) */
Datum
daybook_create_upcaster(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, TEXTOID, INT4OID, TEXTOID, TEXTOID};
	Datum		values[5];
	Relation	rel;
	text	   *type;

	PreventCommandIfReadOnly("daybook.create_upcaster()");
	RefuseNull(&fcinfo->args[0], "event_table");
	type = RequireTypeArgument(fcinfo, 1, "type");
	RefuseNull(&fcinfo->args[2], "from_version");
	RefuseNull(&fcinfo->args[3], "function");
	check_version(PG_GETARG_INT32(2), "from_version");
	rel = open_own_event_table(PG_GETARG_OID(0), ShareUpdateExclusiveLock);
	check_upcaster_function(PG_GETARG_OID(3), rel->rd_rel->relowner);

	values[0] = PG_GETARG_DATUM(0);
	values[1] = PointerGetDatum(type);
	values[2] = PG_GETARG_DATUM(2);
	values[3] = CStringGetTextDatum(FunctionText(PG_GETARG_OID(3)));
	values[4] = PG_ARGISNULL(4) ? PointerGetDatum(type) :
		PointerGetDatum(RequireTypeArgument(fcinfo, 4, "to_type"));
	if (RunOnOwnTables("INSERT INTO daybook.upcaster"
					   " (event_table, type, from_version, function, to_type, place)"
					   " SELECT $1, $2, $3, $4, $5, coalesce(max(u.place), 0) + 1"
					   " FROM daybook.upcaster u"
					   " WHERE u.event_table = $1 AND u.type = $2 AND u.from_version = $3"
					   " ON CONFLICT DO NOTHING",
					   5, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("an upcaster of event type \"%s\" from schema version %d to type \"%s\" exists for event table \"%s\"",
						text_to_cstring(type), PG_GETARG_INT32(2),
						TextDatumGetCString(values[4]), RelationGetRelationName(rel)),
				 errhint("Replace its function with CREATE OR REPLACE FUNCTION, or use daybook.drop_upcaster() first.")));
	refuse_gaps(rel);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* daybook.drop_upcaster(event_table, type, from_version, to_type) */
Datum
daybook_drop_upcaster(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, TEXTOID, INT4OID, TEXTOID};
	Datum		values[4];
	Relation	rel;

	PreventCommandIfReadOnly("daybook.drop_upcaster()");
	RefuseNull(&fcinfo->args[0], "event_table");
	values[1] = PointerGetDatum(RequireTypeArgument(fcinfo, 1, "type"));
	RefuseNull(&fcinfo->args[2], "from_version");
	rel = open_own_event_table(PG_GETARG_OID(0), ShareUpdateExclusiveLock);
	values[0] = PG_GETARG_DATUM(0);
	values[2] = PG_GETARG_DATUM(2);
	values[3] = PG_ARGISNULL(3) ? values[1] : PG_GETARG_DATUM(3);
	if (RunOnOwnTables("DELETE FROM daybook.upcaster WHERE event_table = $1 AND type = $2"
					   " AND from_version = $3 AND to_type = $4",
					   4, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no upcaster of event type \"%s\" from schema version %d to type \"%s\" exists for event table \"%s\"",
						TextDatumGetCString(values[1]), PG_GETARG_INT32(2),
						TextDatumGetCString(values[3]), RelationGetRelationName(rel))));
	refuse_gap_behind(rel, DatumGetTextPP(values[1]), PG_GETARG_INT32(2));
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* Opens an event table of the current user's, with the lock to change its schema. */
static Relation
open_own_event_table(Oid relid, LOCKMODE lock)
{
	Relation	rel = OpenTableIfAllowed(relid, lock, RequireOwner);

	(void) RequireEventTable(rel);
	return rel;
}

text *
RequireTypeArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	text	   *type;

	RefuseNull(&fcinfo->args[n], name);
	type = PG_GETARG_TEXT_PP(n);
	if (VARSIZE_ANY_EXHDR(type) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	return type;
}

uint64
RunOnOwnTables(const char *command, int nargs, Oid *types, Datum *values, const char *nulls)
{
	RunAs		caller;
	uint64		rows;
	int			result;

	RunAsSuperuser(&caller);
	SPI_connect();
	result = RunNow(command, nargs, types, values, nulls);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", command, SPI_result_code_string(result));
	rows = SPI_processed;
	SPI_finish();
	RunAsEnd(&caller);
	return rows;
}

static void
check_version(int32 version, const char *name)
{
	if (version < 1 || version == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 1 and %d", name, PG_INT32_MAX - 1),
				 errdetail("The value given is %d.", version)));
}

static void
check_mode(const char *mode)
{
	if (strcmp(mode, "reject") != 0 && strcmp(mode, "warn") != 0 && strcmp(mode, "off") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a mode of an event type", mode),
				 errhint("Modes are \"reject\", \"warn\" and \"off\".")));
}

static void
check_check_function(Oid function, Oid owner)
{
	check_function(function, owner, IsCheckFunction, "check an event type",
				   "A check function takes the payload as jsonb, or the event as daybook.event, and returns boolean.");
}

static void
check_upcaster_function(Oid function, Oid owner)
{
	check_function(function, owner, IsUpcasterFunction, "be an upcaster",
				   "An upcaster takes a payload as jsonb and returns jsonb.");
}

/* Whatever would be wrong with it later is wrong with it now. */
static void
check_function(Oid function, Oid owner, bool (*fits) (Oid function), const char *what,
			   const char *detail)
{
	if (get_func_name(function) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	if (!fits(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s cannot %s", FunctionText(function), what),
				 errdetail("%s", detail)));
	RefuseTemporaryFunction(function);
	CheckMayRun(function, owner);
	(void) FunctionByText(FunctionText(function), owner);
}

/* The table is locked, so the latest snapshot sees all there is. */
static void
check_stored_events(Relation rel, text *type, int32 version, StoredMisfits *result)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	EventSchema *schema = HoldEventSchema(rel);
	EventType  *event_type = EventTypeOf(schema, type, version);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "stored event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(row_context);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		char	   *misfit;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		if (DatumGetInt32(slot->tts_values[EVENT_SCHEMA_VERSION - 1]) != version ||
			CompareTypes(DatumGetTextPP(slot->tts_values[EVENT_TYPE - 1]), event_type->type) != 0)
			continue;
		result->events++;
		misfit = EventMisfitUndone(schema, event_type, rel, slot->tts_values, slot->tts_isnull);
		if (misfit && result->misfits++ == 0)
			result->first = MemoryContextStrdup(caller,
												psprintf("The first is version " INT64_FORMAT " of stream \"%s\". %s",
														 DatumGetInt64(slot->tts_values[EVENT_VERSION - 1]),
														 TextDatumGetCString(slot->tts_values[EVENT_STREAM_ID - 1]),
														 misfit));
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row_context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}

/* Every version that is known must have a way to the newest, or be the newest. */
static void
refuse_gaps(Relation rel)
{
	EventSchema *schema = HoldEventSchema(rel);

	if (schema == NULL)
		return;
	for (int i = 0; i < schema->step_count; i++)
		refuse_gap_at(schema, rel, schema->steps[i].to_type, schema->steps[i].from_version + 1);
	for (int i = 0; i < schema->type_count; i++)
		refuse_gap_at(schema, rel, schema->types[i].type, schema->types[i].schema_version);
}

/* The last upcasters of a type can go, and those that have one beside them. */
static void
refuse_gap_behind(Relation rel, const text *type, int32 version)
{
	EventSchema *schema = HoldEventSchema(rel);

	if (schema == NULL)
		return;
	refuse_gap_at(schema, rel, type, version);
}

static void
refuse_gap_at(const EventSchema *schema, Relation rel, const text *type, int32 version)
{
	int			i = FindUpcastStep(schema, type, version);

	if (i >= schema->step_count || CompareTypes(schema->steps[i].type, type) != 0 ||
		schema->steps[i].from_version == version)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("upcasters of event type \"%s\" in event table \"%s\" would have a gap",
					text_to_cstring(type), RelationGetRelationName(rel)),
			 errdetail("No upcaster leads on from schema version %d, and the next begins at version %d.",
					   version, schema->steps[i].from_version),
			 errhint("Create upcasters in the order of their versions, and drop them from the last one back.")));
}

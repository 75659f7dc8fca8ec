/*-------------------------------------------------------------------------
 *
 * schema_status.c
 *	  What versions of events are stored, and where their upcasters lead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "event_table/event_table.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "replay/event_source.h"
#include "schema/event_check.h"
#include "schema/upcast.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(daybook_stored_types);
PG_FUNCTION_INFO_V1(daybook_upcast_path);

#define STORED_TYPES_NATTS	5

static void append_path(const EventSchema *schema, const text *type, int32 version,
						StringInfo path, StringInfo mismatch);
static void note_mismatch(StringInfo mismatch, const char *problem);

/* daybook.stored_types(event_table): read as the caller. */
Datum
daybook_stored_types(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			relid = PG_GETARG_OID(0);
	char	   *table;

	table_close(OpenReadableEventTable(relid), NoLock);
	table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									   get_rel_name(relid));
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (SPI_execute(psprintf("SELECT type, schema_version, pg_catalog.count(*),"
							 " pg_catalog.min(recorded_at), pg_catalog.max(recorded_at)"
							 " FROM ONLY %s GROUP BY type, schema_version", table),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the types of %s", table);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		values[STORED_TYPES_NATTS];
		bool		nulls[STORED_TYPES_NATTS];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}

/* daybook.upcast_path(event_table, type, schema_version) */
Datum
daybook_upcast_path(PG_FUNCTION_ARGS)
{
	Relation	table = table_open(PG_GETARG_OID(0), AccessShareLock);
	EventSchema *schema;
	StringInfoData path;
	StringInfoData mismatch;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	(void) RequireEventTable(table);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	initStringInfo(&path);
	initStringInfo(&mismatch);
	schema = PinEventSchema(table);
	if (schema)
	{
		append_path(schema, PG_GETARG_TEXT_PP(1), PG_GETARG_INT32(2), &path, &mismatch);
		UnpinEventSchema(schema);
	}
	else
		appendStringInfo(&path, "%s %d", text_to_cstring(PG_GETARG_TEXT_PP(1)),
						 PG_GETARG_INT32(2));
	table_close(table, AccessShareLock);
	values[0] = CStringGetTextDatum(path.data);
	values[1] = CStringGetTextDatum(mismatch.data);
	nulls[1] = mismatch.len == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* As in "OrderPlaced 1 -> OrderPlaced 2", or "Moved 1 -> (Shipped 2 | Returned 2)". */
static void
append_path(const EventSchema *schema, const text *type, int32 version,
			StringInfo path, StringInfo mismatch)
{
	int			first = FindUpcastStep(schema, type, version);
	int			end = first;
	Oid			function;

	appendStringInfo(path, "%s %d", text_to_cstring(type), version);
	while (end < schema->step_count && schema->steps[end].from_version == version &&
		   CompareTypes(schema->steps[end].type, type) == 0)
		end++;
	if (end == first)
	{
		note_mismatch(mismatch, UpcastDeadEnd(schema, type, version));
		return;
	}
	appendStringInfoString(path, end - first > 1 ? " -> (" : " -> ");
	for (int i = first; i < end; i++)
	{
		if (i > first)
			appendStringInfoString(path, " | ");
		function = FunctionByText(schema->steps[i].function, schema->owner);
		if (!OidIsValid(function))
			note_mismatch(mismatch, psprintf("upcaster function %s does not exist",
											 schema->steps[i].function));
		else if (!IsUpcasterFunction(function))
			note_mismatch(mismatch, psprintf("upcaster function %s is not a function that returns jsonb",
											 schema->steps[i].function));
		else if (!FunctionIsTrusted(function, schema->owner))
			note_mismatch(mismatch, psprintf("upcaster function %s belongs to somebody else",
											 schema->steps[i].function));
		append_path(schema, schema->steps[i].to_type, version + 1, path, mismatch);
	}
	if (end - first > 1)
		appendStringInfoChar(path, ')');
}

static void
note_mismatch(StringInfo mismatch, const char *problem)
{
	if (problem)
		appendStringInfo(mismatch, "%s%s", mismatch->len > 0 ? "; " : "", problem);
}

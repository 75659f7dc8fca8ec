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
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "event_table/event_source.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "relation_text.h"
#include "schema/distinct_names.h"
#include "schema/upcast.h"
#include "user_function.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(daybook_stored_types);
PG_FUNCTION_INFO_V1(daybook_upcast_path);

#define STORED_TYPES_NATTS	5

/* The steps from a type and version on, as they are written down. */
typedef struct UpcastPath
{
	const EventSchema *schema;
	bool	   *shown;			/* of the schema's steps, the first from each place */
	StringInfoData path;
	List	   *mismatches;		/* char * */
} UpcastPath;

static void append_path(UpcastPath *path, const text *type, int32 version);
static void append_steps(UpcastPath *path, int first, int end);
static char *function_problem(const EventSchema *schema, const char *text);
static void note_mismatch(UpcastPath *path, const char *problem);

/* daybook.stored_types(event_table): read as the caller. */
Datum
daybook_stored_types(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			relid = PG_GETARG_OID(0);
	char	   *table;

	table_close(OpenReadableEventTable(relid), NoLock);
	table = RelationText(relid);
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
	Relation	table = OpenReadableEventTable(PG_GETARG_OID(0));
	UpcastPath	path = {0};
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	initStringInfo(&path.path);
	path.schema = HoldEventSchema(table);
	if (path.schema)
	{
		path.shown = palloc0(path.schema->step_count * sizeof(bool));
		append_path(&path, PG_GETARG_TEXT_PP(1), PG_GETARG_INT32(2));
	}
	else
		appendStringInfo(&path.path, "%s %d", text_to_cstring(PG_GETARG_TEXT_PP(1)),
						 PG_GETARG_INT32(2));
	table_close(table, AccessShareLock);
	values[0] = CStringGetTextDatum(path.path.data);
	nulls[1] = path.mismatches == NIL;
	values[1] = nulls[1] ? (Datum) 0 : JoinNames(path.mismatches, "; ");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/*
 * As in "OrderPlaced 1 -> OrderPlaced 2", or "Moved 1 -> (Shipped 2 | Returned 2)".
 * Where ways meet again, what follows is written once, and "..." after that:
 * there can be as many ways as 2 to the power of the versions.
 */
static void
append_path(UpcastPath *path, const text *type, int32 version)
{
	const EventSchema *schema = path->schema;
	int			first = FindUpcastStep(schema, type, version);
	int			end = first;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	appendStringInfo(&path->path, "%s %d", text_to_cstring(type), version);
	while (end < schema->step_count && schema->steps[end].from_version == version &&
		   CompareTypes(schema->steps[end].type, type) == 0)
		end++;
	if (end == first)
		note_mismatch(path, UpcastDeadEnd(schema, type, version));
	else if (path->shown[first])
		appendStringInfoString(&path->path, " ...");
	else
	{
		path->shown[first] = true;
		append_steps(path, first, end);
	}
}

static void
append_steps(UpcastPath *path, int first, int end)
{
	appendStringInfoString(&path->path, end - first > 1 ? " -> (" : " -> ");
	for (int i = first; i < end; i++)
	{
		const UpcastStep *step = &path->schema->steps[i];

		if (i > first)
			appendStringInfoString(&path->path, " | ");
		note_mismatch(path, function_problem(path->schema, step->function));
		append_path(path, step->to_type, step->from_version + 1);
	}
	if (end - first > 1)
		appendStringInfoChar(&path->path, ')');
}

/*
 * Why an upcaster's function will not be run, NULL if it will.  A schema that
 * is closed to the table's owner is one of the reasons, and no error here.
 */
static char *
function_problem(const EventSchema *schema, const char *text)
{
	Oid			function = FunctionByText(text, BOOTSTRAP_SUPERUSERID);

	if (!OidIsValid(function))
		return psprintf("upcaster function %s does not exist", text);
	if (!IsUpcasterFunction(function))
		return psprintf("upcaster function %s is not a function that returns jsonb", text);
	if (schema_aclcheck_compat(get_func_namespace(function), schema->owner, ACL_USAGE) != ACLCHECK_OK ||
		function_aclcheck_compat(function, schema->owner, ACL_EXECUTE) != ACLCHECK_OK)
		return psprintf("upcaster function %s is closed to the owner of the event table", text);
	if (!FunctionIsTrusted(function, schema->owner))
		return psprintf("upcaster function %s belongs to somebody else", text);
	return NULL;
}

/* NULL is no problem, and the same one is noted once. */
static void
note_mismatch(UpcastPath *path, const char *problem)
{
	if (problem)
		path->mismatches = AddDistinctName(path->mismatches, problem, CurrentMemoryContext);
}

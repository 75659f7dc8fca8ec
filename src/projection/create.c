/*-------------------------------------------------------------------------
 *
 * create.c
 *	  create_projection: everything that can be wrong with a projection is
 *	  looked at before anything is written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "arguments.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "projection/projection.h"
#include "relation_text.h"
#include "sequencer/log_scan.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

/* arguments of create_projection */
enum
{
	ARG_NAME,
	ARG_SOURCES,
	ARG_HANDLER,
	ARG_TABLES,
	ARG_MODE,
	ARG_TYPES,
	ARG_CATEGORIES,
	ARG_BATCH_SIZE,
	ARG_ON_ERROR,
	ARG_FROM_POSITION,
	ARG_INDEPENDENT_STREAMS,
	ARG_COUNT
};

static const char *const argument_names[ARG_COUNT] = {
	"name", "sources", "handler", "tables", "mode", "types", "categories",
	"batch_size", "on_error", "from_position", "independent_streams"
};

static void check_not_null(FunctionCallInfo fcinfo);
static Projection *projection_from_arguments(FunctionCallInfo fcinfo);
static bool choice_of_two(const char *argument, const char *value,
						  const char *first, const char *second);
static ArrayType *list_argument(FunctionCallInfo fcinfo, int arg);
static void check_sources(const Projection *projection);
static void check_tables(const Projection *projection);
static void check_not_of_system(Oid table);
static void check_no_duplicates(const char *argument, const Oid *relations, int n);
static void check_is_new(const char *name);
static void store_projection(Projection *projection);

PG_FUNCTION_INFO_V1(daybook_create_projection);
Datum
daybook_create_projection(PG_FUNCTION_ARGS)
{
	Projection *projection;

	PreventCommandIfReadOnly("daybook.create_projection()");
	check_not_null(fcinfo);
	projection = projection_from_arguments(fcinfo);
	CheckName("projection", projection->name);
	ProjectionCheckSettings(projection);
	check_sources(projection);
	check_tables(projection);
	HandlerCheck(projection);

	check_is_new(projection->name);	/* that one's worker may have the lock for long */
	ProjectionLock(projection->name);
	check_is_new(projection->name);
	store_projection(projection);
	if (projection->is_inline)
		InlineAttach(projection);
	else
		SuperviseAtCommit();
	PG_RETURN_VOID();
}

static void
check_is_new(const char *name)
{
	if (ProjectionLoad(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists", name)));
}

static void
check_not_null(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < ARG_COUNT; i++)
	{
		if (PG_ARGISNULL(i) && i != ARG_TYPES && i != ARG_CATEGORIES)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" of create_projection must not be null",
							argument_names[i])));
	}
}

static Projection *
projection_from_arguments(FunctionCallInfo fcinfo)
{
	Projection *projection = palloc0(sizeof(Projection));
	char	   *mode = text_to_cstring(PG_GETARG_TEXT_PP(ARG_MODE));

	projection->name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME));
	projection->owner = GetUserId();
	projection->is_inline = choice_of_two("mode", mode, "inline", "async");
	ProjectionSetHandler(projection, fcinfo, ARG_HANDLER);
	projection->sources = list_argument(fcinfo, ARG_SOURCES);
	projection->tables = list_argument(fcinfo, ARG_TABLES);
	projection->types = list_argument(fcinfo, ARG_TYPES);
	projection->categories = list_argument(fcinfo, ARG_CATEGORIES);
	projection->batch_size = PG_GETARG_INT32(ARG_BATCH_SIZE);
	projection->on_error = text_to_cstring(PG_GETARG_TEXT_PP(ARG_ON_ERROR));
	projection->from_position = PG_GETARG_INT64(ARG_FROM_POSITION);
	projection->independent_streams = PG_GETARG_BOOL(ARG_INDEPENDENT_STREAMS);
	projection->shares = 1;
	projection->created_at = GetCurrentTimestamp();
	return projection;
}

/* The handler is SQL text or a function, as the argument's type says. */
void
ProjectionSetHandler(Projection *projection, FunctionCallInfo fcinfo, int arg)
{
	projection->has_function = get_fn_expr_argtype(fcinfo->flinfo, arg) == REGPROCEDUREOID;
	projection->handler = projection->has_function ?
		format_procedure_qualified(PG_GETARG_OID(arg)) :
		text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* True for the first, false for the second, an error for anything else. */
static bool
choice_of_two(const char *argument, const char *value, const char *first, const char *second)
{
	bool		is_first = strcmp(value, first) == 0;

	if (!is_first && strcmp(value, second) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a valid %s of a projection", value, argument),
				 errhint("Valid are \"%s\" and \"%s\".", first, second)));
	return is_first;
}

static ArrayType *
list_argument(FunctionCallInfo fcinfo, int arg)
{
	return ListArgument(fcinfo, arg, argument_names[arg], "create_projection");
}

void
ProjectionCheckBatchSize(int batch_size)
{
	if (batch_size < 1 || batch_size > PROJECTION_MAX_BATCH_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch size of a projection must be between 1 and %d",
						PROJECTION_MAX_BATCH_SIZE),
				 errdetail("It is %d.", batch_size)));
}

void
ProjectionCheckSettings(const Projection *projection)
{
	int64		head = LogHeadNow();

	(void) choice_of_two("on_error setting", projection->on_error, "park", "stop");
	ProjectionCheckBatchSize(projection->batch_size);
	if (projection->is_inline && projection->from_position != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inline projection cannot start from a position"),
				 errdetail("Its events have no position yet when they are applied."),
				 errhint("Leave from_position out, or use mode \"async\".")));
	if (projection->from_position < 0 || projection->from_position > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a projection cannot start from position " INT64_FORMAT,
						projection->from_position),
				 errdetail("The log ends at position " INT64_FORMAT ".", head),
				 errhint("Give 0 for all events, or daybook.head() for those to come.")));
}

/* Sources must be event tables that the owner may read, and hook into if inline. */
static void
check_sources(const Projection *projection)
{
	AclMode		needed = ACL_SELECT | (projection->is_inline ? ACL_TRIGGER : 0);
	Oid		   *sources;
	int			n = RelationArray(projection->sources, &sources);

	check_no_duplicates("sources", sources, n);
	for (int i = 0; i < n; i++)
	{
		AclMode		missing;

		if (!IsEventTable(sources[i]))
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("%s is not an event table", RelationText(sources[i])),
					 errhint("Make event tables with daybook.create_event_table().")));
		missing = needed & ~pg_class_aclmask(sources[i], projection->owner, needed, ACLMASK_ALL);
		if (missing != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for table %s", get_rel_name(sources[i])),
					 errdetail("Projection \"%s\" needs the %s privilege on its sources.",
							   projection->name, (missing & ACL_SELECT) ? "SELECT" : "TRIGGER")));
	}
}

/* Tables must be ordinary ones that the owner may write to. */
static void
check_tables(const Projection *projection)
{
	const AclMode writes = ACL_INSERT | ACL_UPDATE | ACL_DELETE;
	Oid		   *tables;
	int			n = RelationArray(projection->tables, &tables);

	check_no_duplicates("tables", tables, n);
	for (int i = 0; i < n; i++)
	{
		char		relkind = get_rel_relkind(tables[i]);

		if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("%s is not a table", RelationText(tables[i]))));
		check_not_of_system(tables[i]);
		if (IsEventTable(tables[i]))
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("event table %s cannot be the table of a projection", RelationText(tables[i])),
					 errdetail("A rebuild empties a projection's tables, and events are never removed.")));
		if (get_rel_persistence(tables[i]) != RELPERSISTENCE_PERMANENT)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("table %s of a projection must be permanent", RelationText(tables[i])),
					 errdetail("A crash would lose the rows of an unlogged or temporary table and keep the projection's position.")));
		if (pg_class_aclmask(tables[i], projection->owner, writes, ACLMASK_ANY) == 0)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(tables[i]));
	}
}

/* Superusers have the right to write to these, and would not want them to be emptied. */
static void
check_not_of_system(Oid table)
{
	bool		of_system = table < FirstNormalObjectId;

	if (of_system ||
		getExtensionOfObject(RelationRelationId, table) == GetDaybookOids()->extension)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s table %s cannot be the table of a projection",
						of_system ? "system" : "daybook's own", RelationText(table)),
				 errdetail("A rebuild empties a projection's tables.")));
}

static void
check_no_duplicates(const char *argument, const Oid *relations, int n)
{
	for (int i = 0; i < n; i++)
		for (int j = 0; j < i; j++)
			if (relations[i] == relations[j])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("%s is listed twice in argument \"%s\" of create_projection",
								RelationText(relations[i]), argument)));
}

static void
store_projection(Projection *projection)
{
	ProjectionProgress progress;

	memset(&progress, 0, sizeof(progress));
	progress.position = projection->from_position;
	ProjectionInsert(projection);
	ProgressInsert(projection, &progress);
}

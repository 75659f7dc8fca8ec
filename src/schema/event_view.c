/*-------------------------------------------------------------------------
 *
 * event_view.c
 *	  Views that show the events of a type with the payload's fields as columns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "arguments.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "daybook.h"
#include "event_table/event_source.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "relation_text.h"
#include "rewrite/rewriteHandler.h"
#include "schema/event_schema.h"
#include "schema/schema_ddl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(daybook_create_event_view);

/* Events of other types pass through the view's scan: no condition of a reader may see them. */
#define DEFAULT_OPTIONS		"security_barrier"

/* The columns of an event table that the view shows. */
static const char *const shown_columns[] = {
	"id", "stream_id", "version", "recorded_at", "recorded_by", "event_id", "metadata", "tags"
};

/* What is_view_of() looks for. */
typedef struct EventViewOf
{
	Oid			event_table;
	const text *type;
} EventViewOf;

static void create_view(Relation event_table, text *type, int32 version, const char *name,
						const char *query);
static const char *replaced_options(Relation event_table, text *type, Oid view);
static bool calls_payload_as(Node *node, void *arg);
static void hint_at_drop(void *arg);
static Oid	newest_payload_type(Relation event_table, text *type, int32 *version);
static char *view_name(Relation event_table, text *type);
static char *snake_case(text *type);
static char *view_query(Relation event_table, text *type, Oid payload_type);
static char *null_of_type(Oid type);
static void append_fields(StringInfo query, Oid payload_type);
static const char *column_name(TupleDesc fields, const char *field);
static bool is_shown(const char *column);
static bool has_field(TupleDesc fields, const char *name);

/* daybook.create_event_view(event_table, type) */
Datum
daybook_create_event_view(PG_FUNCTION_ARGS)
{
	text	   *type = RequireTypeArgument(fcinfo, 1, "type");
	Relation	table;
	char	   *name;
	char	   *query;
	int32		version;
	Oid			view;

	PreventCommandIfReadOnly("daybook.create_event_view()");
	RefuseNull(&fcinfo->args[0], "event_table");
	table = OpenReadableEventTable(PG_GETARG_OID(0));
	query = view_query(table, type, newest_payload_type(table, type, &version));
	name = view_name(table, type);
	create_view(table, type, version, name, query);
	view = get_relname_relid(name, RelationGetNamespace(table));
	table_close(table, NoLock);
	PG_RETURN_OID(view);
}

/* Replaces the view that is there only if it was made for the same type of the same table. */
static void
create_view(Relation event_table, text *type, int32 version, const char *name, const char *query)
{
	Oid			schema = RelationGetNamespace(event_table);
	Oid			present = get_relname_relid(name, schema);
	const char *view = quote_qualified_identifier(get_namespace_name(schema), name);
	const char *options = OidIsValid(present) ? replaced_options(event_table, type, present) :
		DEFAULT_OPTIONS;
	ErrorContextCallback callback;

	callback.callback = hint_at_drop;
	callback.arg = unconstify(char *, view);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	SPI_connect();
	if (SPI_execute(psprintf("CREATE %sVIEW %s WITH (%s) AS %s",
							 OidIsValid(present) ? "OR REPLACE " : "", view, options, query),
					false, 0) != SPI_OK_UTILITY ||
		SPI_execute(psprintf("COMMENT ON VIEW %s IS %s", view,
							 quote_literal_cstr(psprintf("events of type %s, schema version %d",
														 text_to_cstring(type), version))),
					false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create view %s", view);
	SPI_finish();
	error_context_stack = callback.previous;
}

/*
 * The options of a view that is to be replaced, which may have been changed
 * since; an error unless it calls payload_as() for the table and the type, as
 * no other does.
 */
static const char *
replaced_options(Relation event_table, text *type, Oid view)
{
	Relation	present = relation_open(view, AccessShareLock);
	EventViewOf wanted = {RelationGetRelid(event_table), type};
	const char *options = DEFAULT_OPTIONS;

	if (present->rd_rel->relkind != RELKIND_VIEW ||
		!calls_payload_as((Node *) get_view_query(present), &wanted))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", RelationGetRelationName(present)),
				 errdetail("It is not the view of events of type \"%s\" of event table \"%s\".",
						   text_to_cstring(type), RelationGetRelationName(event_table)),
				 errhint("Give what is there another name, or drop it.")));
	if (present->rd_options)
		options = psprintf("security_barrier = %s, security_invoker = %s",
						   RelationIsSecurityView(present) ? "true" : "false",
						   RelationHasSecurityInvoker(present) ? "true" : "false");
	relation_close(present, NoLock);
	return options;
}

static bool
calls_payload_as(Node *node, void *arg)
{
	EventViewOf *wanted = arg;
	FuncExpr   *call = (FuncExpr *) node;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, calls_payload_as, arg, 0);
	if (IsA(node, FuncExpr) && get_func_namespace(call->funcid) == GetDaybookOids()->schema &&
		strcmp(get_func_name(call->funcid), "payload_as") == 0)
	{
		Const	   *event_table = linitial(call->args);
		Const	   *type = lthird(call->args);

		if (IsA(event_table, Const) && !event_table->constisnull &&
			DatumGetObjectId(event_table->constvalue) == wanted->event_table &&
			IsA(type, Const) && !type->constisnull &&
			CompareTypes(DatumGetTextPP(type->constvalue), wanted->type) == 0)
			return true;
	}
	return expression_tree_walker(node, calls_payload_as, arg);
}

/* PostgreSQL's own hint, to rename columns of the view, leads nowhere. */
static void
hint_at_drop(void *arg)
{
	if (geterrcode() == ERRCODE_INVALID_TABLE_DEFINITION)
		errhint("Only new columns at the end can be added to a view. Drop view %s, and create it again.",
				(char *) arg);
}

/* What the newest registered version of the type looks like. */
static Oid
newest_payload_type(Relation event_table, text *type, int32 *version)
{
	EventSchema *schema = HoldEventSchema(event_table);
	Oid			result = InvalidOid;

	for (int i = schema ? FindEventType(schema, type, 1) : 0;
		 schema && i < schema->type_count && CompareTypes(schema->types[i].type, type) == 0; i++)
	{
		result = schema->types[i].payload_type;
		*version = schema->types[i].schema_version;
	}
	if (!OidIsValid(result) || get_typtype(getBaseType(result)) != TYPTYPE_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no columns are known for events of type \"%s\" of event table \"%s\"",
						text_to_cstring(type), RelationGetRelationName(event_table)),
				 errdetail("The newest registered version of the type has no composite payload type."),
				 errhint("Use daybook.register_event_type() with a composite type.")));
	return result;
}

/* The table's name and the type's, as in orders_order_placed. */
static char *
view_name(Relation event_table, text *type)
{
	return makeObjectName(RelationGetRelationName(event_table), snake_case(type), NULL);
}

/* OrderPlaced and order-placed become order_placed. */
static char *
snake_case(text *type)
{
	const char *string = text_to_cstring(type);
	StringInfoData result;

	initStringInfo(&result);
	for (const char *p = string; *p; p++)
	{
		bool		upper = *p >= 'A' && *p <= 'Z';
		bool		after_lower = p > string &&
			((p[-1] >= 'a' && p[-1] <= 'z') || (p[-1] >= '0' && p[-1] <= '9'));

		if (upper && after_lower)
			appendStringInfoChar(&result, '_');
		if (upper)
			appendStringInfoChar(&result, *p + ('a' - 'A'));
		else if ((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || IS_HIGHBIT_SET(*p))
			appendStringInfoChar(&result, *p);
		else
			appendStringInfoChar(&result, '_');
	}
	return result.data;
}

/*
 * The event table is scanned as the query around the view wants it, by index
 * or in parallel; what has become of each event's type is seen when its
 * payload has been upcast.
 */
static char *
view_query(Relation event_table, text *type, Oid payload_type)
{
	char	   *table = RelationText(RelationGetRelid(event_table));
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT ");
	for (int i = 0; i < lengthof(shown_columns); i++)
		appendStringInfo(&query, "%se.%s", i == 0 ? "" : ", ", shown_columns[i]);
	append_fields(&query, payload_type);
	appendStringInfo(&query,
					 " FROM ONLY %s e"
					 " CROSS JOIN LATERAL (SELECT daybook.payload_as(%s::pg_catalog.regclass, e, %s) AS data OFFSET 0) d"
					 " CROSS JOIN LATERAL daybook.payload_record(%s, d.data, e.stream_id, e.version) p"
					 " WHERE d.data IS NOT NULL",
					 table, quote_literal_cstr(table), quote_literal_cstr(text_to_cstring(type)),
					 null_of_type(payload_type));
	return query.data;
}

/* A domain may refuse to be null, but not that an array of it is empty. */
static char *
null_of_type(Oid type)
{
	return psprintf(get_typtype(type) == TYPTYPE_DOMAIN ? "('{}'::%s[])[1]" : "NULL::%s",
					format_type_be_qualified(type));
}

static void
append_fields(StringInfo query, Oid payload_type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_domain(payload_type, -1, false);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute field = TupleDescAttr(desc, i);
		const char *name = NameStr(field->attname);

		if (field->attisdropped)
			continue;
		appendStringInfo(query, ", p.%s AS %s", quote_identifier(name),
						 quote_identifier(column_name(desc, name)));
	}
	ReleaseTupleDesc(desc);
}

/*
 * A field with the name of an event's column is shown as data_ and its name,
 * once more if there is a field of that name.
 */
static const char *
column_name(TupleDesc fields, const char *field)
{
	const char *name = field;

	if (!is_shown(field))
		return field;
	do
		name = psprintf("data_%s", name);
	while (has_field(fields, name));
	return name;
}

static bool
has_field(TupleDesc fields, const char *name)
{
	for (int i = 0; i < fields->natts; i++)
		if (!TupleDescAttr(fields, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(fields, i)->attname), name) == 0)
			return true;
	return false;
}

static bool
is_shown(const char *column)
{
	for (int i = 0; i < lengthof(shown_columns); i++)
		if (strcmp(shown_columns[i], column) == 0)
			return true;
	return false;
}

/*-------------------------------------------------------------------------
 *
 * event_view.c
 *	  Views that show the events of a type with the payload's fields as columns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "event_table/event_table.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "replay/event_source.h"
#include "schema/event_schema.h"
#include "schema/schema_ddl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(daybook_create_event_view);

/* The columns of an event table that the view shows. */
static const char *const shown_columns[] = {
	"id", "stream_id", "version", "recorded_at", "recorded_by", "event_id", "metadata", "tags"
};

static Oid	newest_payload_type(Relation event_table, text *type, int32 *version);
static char *view_name(Relation event_table, text *type);
static char *snake_case(text *type);
static char *view_query(Relation event_table, text *type, Oid payload_type);
static void append_fields(StringInfo query, Oid payload_type);
static bool is_shown(const char *column);

/* daybook.create_event_view(event_table, type) */
Datum
daybook_create_event_view(PG_FUNCTION_ARGS)
{
	text	   *type = RequireTypeArgument(fcinfo, 1, "type");
	Relation	table;
	char	   *name;
	char	   *schema;
	char	   *query;
	int32		version;

	RequireArgument(fcinfo, 0, "event_table");
	table = OpenReadableEventTable(PG_GETARG_OID(0));
	query = view_query(table, type, newest_payload_type(table, type, &version));
	name = view_name(table, type);
	schema = get_namespace_name(RelationGetNamespace(table));

	SPI_connect();
	if (SPI_execute(psprintf("CREATE OR REPLACE VIEW %s AS %s",
							 quote_qualified_identifier(schema, name), query),
					false, 0) != SPI_OK_UTILITY ||
		SPI_execute(psprintf("COMMENT ON VIEW %s IS %s",
							 quote_qualified_identifier(schema, name),
							 quote_literal_cstr(psprintf("events of type %s, schema version %d",
														 text_to_cstring(type), version))),
					false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create view \"%s\"", name);
	SPI_finish();
	table_close(table, NoLock);
	PG_RETURN_OID(get_relname_relid(name, get_namespace_oid(schema, false)));
}

/* What the newest registered version of the type looks like. */
static Oid
newest_payload_type(Relation event_table, text *type, int32 *version)
{
	EventSchema *schema = PinEventSchema(event_table);
	Oid			result = InvalidOid;

	for (int i = schema ? FindEventType(schema, type, 1) : 0;
		 schema && i < schema->type_count && CompareTypes(schema->types[i].type, type) == 0; i++)
	{
		result = schema->types[i].payload_type;
		*version = schema->types[i].schema_version;
	}
	if (schema)
		UnpinEventSchema(schema);
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
	char	   *table = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(event_table)),
												   RelationGetRelationName(event_table));
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT ");
	for (int i = 0; i < lengthof(shown_columns); i++)
		appendStringInfo(&query, "%se.%s", i == 0 ? "" : ", ", shown_columns[i]);
	append_fields(&query, payload_type);
	appendStringInfo(&query,
					 " FROM ONLY %s e"
					 " CROSS JOIN LATERAL (SELECT daybook.payload_as(%s::pg_catalog.regclass, e, %s) AS data OFFSET 0) d"
					 " CROSS JOIN LATERAL daybook.payload_record(NULL::%s, d.data, e.stream_id, e.version) p"
					 " WHERE d.data IS NOT NULL",
					 table, quote_literal_cstr(table), quote_literal_cstr(text_to_cstring(type)),
					 format_type_be_qualified(payload_type));
	return query.data;
}

/* A field with the name of an event's column is shown as data_ and its name. */
static void
append_fields(StringInfo query, Oid payload_type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_domain(payload_type, -1, false);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute field = TupleDescAttr(desc, i);
		char	   *name = NameStr(field->attname);

		if (field->attisdropped)
			continue;
		appendStringInfo(query, ", p.%s", quote_identifier(name));
		if (is_shown(name))
			appendStringInfo(query, " AS %s", quote_identifier(psprintf("data_%s", name)));
	}
	ReleaseTupleDesc(desc);
}

static bool
is_shown(const char *column)
{
	for (int i = 0; i < lengthof(shown_columns); i++)
		if (strcmp(shown_columns[i], column) == 0)
			return true;
	return false;
}

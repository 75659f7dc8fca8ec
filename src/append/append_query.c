/*-------------------------------------------------------------------------
 *
 * append_query.c
 *	  Queries by type and tags, for conditional appends.
 *
 * A query is an object {"types": [...], "tags": [...]} or an array of them.
 * An event matches an object if it has one of its types, or none are given,
 * and all of its tags; it matches the query if it matches one of its objects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "append/append_query.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "excerpt.h"
#include "executor/spi.h"
#include "relation_text.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

static void parse_item(AppendQuery *query, JsonbContainer *object, int number);
static char *parse_names(AppendQuery *query, JsonbValue *value, const char *key,
						 int number, bool tags);
static void add_condition(AppendQuery *query, const char *types, const char *tags);
pg_noreturn static void wrong_query(const char *what);

AppendQuery *
ParseQuery(Jsonb *json)
{
	AppendQuery *query = palloc0(sizeof(AppendQuery));
	char	   *image = JsonbToCString(NULL, &json->root, VARSIZE(json));
	int			items;

	query->hash = hash_bytes((unsigned char *) image, strlen(image)) & MARKER_HASH_MASK;
	initStringInfo(&query->condition);
	if (JB_ROOT_IS_OBJECT(json))
	{
		parse_item(query, &json->root, 1);
		return query;
	}
	items = JB_ROOT_IS_SCALAR(json) ? 0 : JB_ROOT_COUNT(json);
	if (items == 0)
		wrong_query("must be a JSON object or an array of at least one");
	for (int i = 0; i < items; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(&json->root, i);

		if (item->type != jbvBinary || !JsonContainerIsObject(item->val.binary.data))
			wrong_query("must be an array of JSON objects");
		parse_item(query, item->val.binary.data, i + 1);
	}
	return query;
}

static void
parse_item(AppendQuery *query, JsonbContainer *object, int number)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;
	char	   *types = NULL;
	char	   *tags = NULL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && strcmp(key, "types") == 0)
			types = parse_names(query, &value, key, number, false);
		else if (token == WJB_VALUE && strcmp(key, "tags") == 0)
			tags = parse_names(query, &value, key, number, true);
		else if (token == WJB_VALUE)
			wrong_query(psprintf("has an unknown key \"%s\" in object %d",
								 Excerpt(key, strlen(key)), number));
	}
	if (types == NULL && tags == NULL)
		wrong_query(psprintf("has neither types nor tags in object %d", number));
	if (tags == NULL)
		query->untagged = true;
	add_condition(query, types, tags);
}

/* An array of names, as a quoted literal; NULL if it is empty or null. */
static char *
parse_names(AppendQuery *query, JsonbValue *value, const char *key, int number, bool tags)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;
	StringInfoData list;
	int			count = 0;

	if (value->type == jbvNull)
		return NULL;
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		wrong_query(psprintf("has a value of \"%s\" in object %d that is not an array of strings", key, number));
	initStringInfo(&list);
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_ELEM)
			continue;
		if (element.type != jbvString || element.val.string.len == 0)
			wrong_query(psprintf("has a value of \"%s\" in object %d that is not an array of strings", key, number));
		name = pnstrdup(element.val.string.val, element.val.string.len);
		appendStringInfo(&list, "%s%s", count++ > 0 ? "," : "", quote_literal_cstr(name));
		if (tags)
		{
			TagUse	   *use = palloc(sizeof(TagUse));

			use->tag = name;
			use->length = strlen(name);
			use->uses = TAG_QUERY;
			query->tags = lappend(query->tags, use);
		}
	}
	return count > 0 ? psprintf("ARRAY[%s]::pg_catalog.text[]", list.data) : NULL;
}

static void
add_condition(AppendQuery *query, const char *types, const char *tags)
{
	StringInfo	condition = &query->condition;

	appendStringInfoString(condition, condition->len > 0 ? " OR (" : "(");
	if (tags)
		appendStringInfo(condition, "tags OPERATOR(pg_catalog.@>) %s", tags);
	if (types)
		appendStringInfo(condition, "%stype OPERATOR(pg_catalog.=) ANY (%s)",
						 tags ? " AND " : "", types);
	appendStringInfoChar(condition, ')');
}

static void
wrong_query(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("query %s", what),
			 errhint("A query looks like {\"types\": [\"StudentEnrolled\"], \"tags\": [\"course:c1\"]}, or is an array of such.")));
}

/*
 * Counts the events that match, as they are committed now, and those of this
 * transaction.  What the query locks cover cannot change any more.
 */
int64
CountMatching(Oid relid, const AppendQuery *query)
{
	char	   *statement = psprintf("SELECT pg_catalog.count(*) FROM ONLY %s WHERE %s",
									 RelationText(relid),
									 query->condition.data);
	int			guc_level = NewGUCNestLevel();
	SPIPlanPtr	plan;
	bool		is_null;
	int64		count;

	/* a search for words may do with some of what matches */
	(void) set_config_option("gin_fuzzy_search_limit", "0", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	CommandCounterIncrement();
	SPI_connect();
	plan = SPI_prepare(statement, 0, NULL);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, NULL, NULL, GetLatestSnapshot(), InvalidSnapshot,
							 true, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\"", statement);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
										1, &is_null));
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	return count;
}

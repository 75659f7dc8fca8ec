/*-------------------------------------------------------------------------
 *
 * append_parse.c
 *	  Events described in JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "append/append.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "excerpt.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

static void parse_event(AppendEvent *event, JsonbContainer *object, text *stream_id,
						int number);
static bool parse_key(AppendEvent *event, const char *key, JsonbValue *value, int number);
static text *string_value(JsonbValue *value, const char *key, int number);
static int32 schema_version_value(JsonbValue *value, int number);
static pg_uuid_t *uuid_value(JsonbValue *value, int number);
static void say_which_event(void *number);
static ArrayType *tags_value(JsonbValue *value, int number);
pg_noreturn static void wrong_value(const char *key, int number, const char *wanted);

/*
 * Takes one event, an object, or an array of them.  With stream_id NULL each
 * names its own stream.  Errors name the element, counted from 1.
 */
AppendEvent *
ParseEvents(Jsonb *events, text *stream_id, int *count)
{
	AppendEvent *parsed;

	if (JB_ROOT_IS_OBJECT(events))
	{
		parsed = palloc0(sizeof(AppendEvent));
		*count = 1;
		parse_event(parsed, &events->root, stream_id, 1);
		return parsed;
	}
	*count = JB_ROOT_IS_SCALAR(events) ? 0 : JB_ROOT_COUNT(events);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must be a JSON object or an array of at least one"),
				 errdetail("The value is %s.", ExcerptOfJsonb(events))));
	parsed = palloc0(*count * sizeof(AppendEvent));
	for (int i = 0; i < *count; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(&events->root, i);

		if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event %d is not a JSON object", i + 1)));
		parse_event(&parsed[i], element->val.binary.data, stream_id, i + 1);
	}
	return parsed;
}

static void
parse_event(AppendEvent *event, JsonbContainer *object, text *stream_id, int number)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && strcmp(key, "stream_id") == 0 && stream_id == NULL)
			event->stream_id = string_value(&value, key, number);
		else if (token == WJB_VALUE && !parse_key(event, key, &value, number))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event %d has an unknown key \"%s\"", number,
							Excerpt(key, strlen(key))),
					 errhint("Keys are %stype, data, metadata, event_id, schema_version and tags.",
							 stream_id ? "" : "stream_id, ")));
	}
	if (stream_id)
		event->stream_id = stream_id;
	if (event->stream_id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event %d has no stream_id", number),
				 errhint("Every event of this call names its stream, such as {\"stream_id\": \"order-1\", \"type\": \"OrderPlaced\"}.")));
	if (event->type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event %d has no type", number),
				 errhint("Every event needs a key \"type\", such as {\"type\": \"OrderPlaced\"}.")));
}

/* False if there is no such key. */
static bool
parse_key(AppendEvent *event, const char *key, JsonbValue *value, int number)
{
	/* null says the same as leaving the key out, except as the payload */
	if (strcmp(key, "data") == 0)
		event->data = JsonbValueToJsonb(value);
	else if (strcmp(key, "type") == 0)
		event->type = string_value(value, key, number);
	else if (strcmp(key, "metadata") == 0)
	{
		if (value->type != jbvNull)
		{
			if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
				wrong_value(key, number, "an object");
			event->metadata = JsonbValueToJsonb(value);
		}
	}
	else if (strcmp(key, "event_id") == 0)
		event->event_id = value->type == jbvNull ? NULL : uuid_value(value, number);
	else if (strcmp(key, "schema_version") == 0)
		event->schema_version = value->type == jbvNull ? 0 : schema_version_value(value, number);
	else if (strcmp(key, "tags") == 0)
		event->tags = value->type == jbvNull ? NULL : tags_value(value, number);
	else
		return false;
	return true;
}

static text *
string_value(JsonbValue *value, const char *key, int number)
{
	if (value->type != jbvString || value->val.string.len == 0)
		wrong_value(key, number, "a string that is not empty");
	return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
}

static int32
schema_version_value(JsonbValue *value, int number)
{
	int32		version = 0;
	bool		error = true;

	if (value->type == jbvNumeric)
		version = numeric_int4_opt_error(value->val.numeric, &error);
	if (error || version < 1 ||
		!DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(value->val.numeric),
										  NumericGetDatum(int64_to_numeric(version)))))
		wrong_value("schema_version", number, "an integer of 1 or more");
	return version;
}

static pg_uuid_t *
uuid_value(JsonbValue *value, int number)
{
	text	   *string = string_value(value, "event_id", number);
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = say_which_event,
		.arg = &number
	};
	Datum		uuid;

	error_context_stack = &context;
	uuid = DirectFunctionCall1(uuid_in, CStringGetDatum(text_to_cstring(string)));
	error_context_stack = context.previous;
	return DatumGetUUIDP(uuid);
}

static void
say_which_event(void *number)
{
	errcontext("key \"event_id\" of event %d", *(int *) number);
}

static ArrayType *
tags_value(JsonbValue *value, int number)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;
	Datum	   *tags;
	int			count = 0;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		wrong_value("tags", number, "an array of strings");
	tags = palloc((JsonContainerSize(value->val.binary.data) + 1) * sizeof(Datum));
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (element.type != jbvString || element.val.string.len == 0)
			wrong_value("tags", number, "an array of strings that are not empty");
		tags[count++] = PointerGetDatum(string_value(&element, "tags", number));
	}
	return construct_array(tags, count, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
wrong_value(const char *key, int number, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("key \"%s\" of event %d must be %s", key, number, wanted)));
}

/*-------------------------------------------------------------------------
 *
 * payload_check.c
 *	  Whether a JSON payload fits a composite type or a domain.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "schema/payload_check.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

typedef enum ValueKind
{
	VALUE_ANY,					/* json and jsonb */
	VALUE_JSON_DOMAIN,			/* a domain over one of them */
	VALUE_SCALAR,				/* what has its own input function, domains included */
	VALUE_ARRAY,
	VALUE_COMPOSITE
} ValueKind;

typedef struct ValueCheck ValueCheck;

/* An attribute of a composite type. */
typedef struct FieldCheck
{
	char	   *name;
	ValueCheck *value;
} FieldCheck;

struct ValueCheck
{
	ValueKind	kind;
	Oid			type;
	char	   *type_name;
	Oid			base_type;		/* of a domain over json or jsonb */
	int32		typmod;
	bool		is_domain;
	FmgrInfo	input;
	Oid			input_param;
	void	   *domain_info;	/* domain_check()'s own */
	ValueCheck *element;
	int			nfields;
	FieldCheck *fields;
};

/* A step from the payload to the value that is looked at. */
typedef struct PathStep
{
	const char *field;			/* NULL: an element of an array */
	int			index;
} PathStep;

/* The dimensions of an array, as far as they are known: 0 for none. */
typedef struct ArrayShape
{
	int			ndims;
	bool		known[MAXDIM];
	int			dims[MAXDIM];
} ArrayShape;

struct PayloadCheck
{
	MemoryContext context;
	EventSchema *schema;
	ValueCheck *root;
	bool		needs_record;	/* some domain needs the converted value */
	bool		runs_user_code;
	FmgrInfo	to_record;
	int			depth;
	int			room;
	PathStep   *path;
};

static ValueCheck *make_value_check(PayloadCheck *check, Oid type, int32 typmod);
static void make_field_checks(PayloadCheck *check, ValueCheck *value, Oid type);
static void prepare_record(PayloadCheck *check, Oid type);
static void check_value(PayloadCheck *check, ValueCheck *value, JsonbValue *json);
static void check_null(PayloadCheck *check, ValueCheck *value);
static void check_scalar(ValueCheck *value, JsonbValue *json);
static void check_json_domain(PayloadCheck *check, ValueCheck *value, JsonbValue *json);
static void check_object(PayloadCheck *check, ValueCheck *value, JsonbValue *json);
static void refuse_other_keys(PayloadCheck *check, ValueCheck *value, JsonbContainer *object);
static void check_array(PayloadCheck *check, ValueCheck *value, JsonbValue *json);
static void check_dimension(PayloadCheck *check, ValueCheck *value, ArrayShape *shape,
							JsonbValue *json, int level);
static bool is_array(const JsonbValue *json);
static char *scalar_string(JsonbValue *json);
static void push_step(PayloadCheck *check, const char *field, int index);

void
CheckPayloadType(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	char		kind;
	Oid			schema;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type with OID %u does not exist", type)));
	schema = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
	ReleaseSysCache(tuple);
	if (isAnyTempNamespace(schema))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("type %s is temporary", format_type_be(type)),
				 errdetail("It ends with its session."),
				 errhint("Create it in a schema that stays.")));
	kind = get_typtype(type);
	if (kind != TYPTYPE_COMPOSITE && kind != TYPTYPE_DOMAIN)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("type %s cannot describe a payload", format_type_be(type)),
				 errdetail("A payload is described by a composite type, whose fields are its keys, or by a domain over jsonb or over a composite type."),
				 errhint("Use CREATE TYPE ... AS (...) or CREATE DOMAIN ... AS jsonb CHECK (...).")));
	kind = get_typtype(getBaseType(type));
	if (kind != TYPTYPE_COMPOSITE && getBaseType(type) != JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("domain %s cannot describe a payload", format_type_be(type)),
				 errdetail("It is over type %s.", format_type_be(getBaseType(type))),
				 errhint("Use a domain over jsonb or over a composite type.")));
}

PayloadCheck *
MakePayloadCheck(Oid type, EventSchema *schema)
{
	PayloadCheck *check = palloc0(sizeof(PayloadCheck));

	CheckPayloadType(type);
	check->context = CurrentMemoryContext;
	check->schema = schema;
	check->root = make_value_check(check, type, -1);
	if (check->needs_record)
		prepare_record(check, type);
	return check;
}

static ValueCheck *
make_value_check(PayloadCheck *check, Oid type, int32 typmod)
{
	ValueCheck *value = palloc0(sizeof(ValueCheck));
	Oid			base = getBaseTypeAndTypmod(type, &typmod);
	Oid			element = get_element_type(base);
	Oid			input;

	check_stack_depth();
	value->type = type;
	value->type_name = format_type_be_qualified(type);
	value->base_type = base;
	value->typmod = typmod;
	value->is_domain = base != type;
	if (check->schema && type >= FirstNormalObjectId)
		EventSchemaDependsOn(check->schema, TYPEOID, type);

	if (base == JSONBOID || base == JSONOID)
		value->kind = value->is_domain ? VALUE_JSON_DOMAIN : VALUE_ANY;
	else if (OidIsValid(element))
	{
		value->kind = VALUE_ARRAY;
		value->element = make_value_check(check, element, typmod);
		check->needs_record |= value->is_domain;
	}
	else if (get_typtype(base) == TYPTYPE_COMPOSITE)
	{
		value->kind = VALUE_COMPOSITE;
		make_field_checks(check, value, base);
		check->needs_record |= value->is_domain;
	}
	else
	{
		value->kind = VALUE_SCALAR;
		if (value->is_domain)
			value->typmod = -1;
		getTypeInputInfo(type, &input, &value->input_param);
		fmgr_info(input, &value->input);
		check->runs_user_code |= input >= FirstNormalObjectId;
	}
	check->runs_user_code |= value->is_domain;
	return value;
}

static void
make_field_checks(PayloadCheck *check, ValueCheck *value, Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);

	if (check->schema)
		EventSchemaDependsOn(check->schema, RELOID, get_typ_typrelid(type));
	value->fields = palloc0(desc->natts * sizeof(FieldCheck));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		FieldCheck *field;

		if (attribute->attisdropped)
			continue;
		field = &value->fields[value->nfields++];
		field->name = pstrdup(NameStr(attribute->attname));
		field->value = make_value_check(check, attribute->atttypid, attribute->atttypmod);
	}
	ReleaseTupleDesc(desc);
}

/* The whole payload is converted where only a converted value can be checked. */
static void
prepare_record(PayloadCheck *check, Oid type)
{
	FuncExpr   *call;

	call = makeFuncExpr(F_JSONB_POPULATE_RECORD, type,
						list_make2(makeNullConst(type, -1, InvalidOid),
								   makeNullConst(JSONBOID, -1, InvalidOid)),
						InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	fmgr_info(F_JSONB_POPULATE_RECORD, &check->to_record);
	fmgr_info_set_expr((Node *) call, &check->to_record);
}

void
RunPayloadCheck(PayloadCheck *check, Jsonb *payload)
{
	JsonbValue	json;

	json.type = jbvBinary;
	json.val.binary.data = &payload->root;
	json.val.binary.len = VARSIZE(payload) - VARHDRSZ;
	check->depth = 0;
	if (JB_ROOT_IS_SCALAR(payload))
	{
		JsonbValue	scalar;

		(void) JsonbExtractScalar(&payload->root, &scalar);
		json = scalar;
	}
	check_value(check, check->root, &json);
	if (check->needs_record)
	{
		LOCAL_FCINFO(fcinfo, 2);

		InitFunctionCallInfoData(*fcinfo, &check->to_record, 2, InvalidOid, NULL, NULL);
		fcinfo->args[0].isnull = true;
		fcinfo->args[1].value = JsonbPGetDatum(payload);
		fcinfo->args[1].isnull = false;
		(void) FunctionCallInvoke(fcinfo);
	}
}

bool
PayloadCheckRunsUserCode(const PayloadCheck *check)
{
	return check->runs_user_code;
}

/* As in "items[2].price". */
char *
PayloadCheckField(const PayloadCheck *check)
{
	StringInfoData name;

	if (check->depth == 0)
		return NULL;
	initStringInfo(&name);
	for (int i = 0; i < check->depth; i++)
	{
		const PathStep *step = &check->path[i];

		if (step->field == NULL)
			appendStringInfo(&name, "[%d]", step->index);
		else
			appendStringInfo(&name, "%s%s", i == 0 ? "" : ".", step->field);
	}
	return name.data;
}

static void
check_value(PayloadCheck *check, ValueCheck *value, JsonbValue *json)
{
	if (json == NULL || json->type == jbvNull)
	{
		check_null(check, value);
		return;
	}
	switch (value->kind)
	{
		case VALUE_ANY:
			break;
		case VALUE_JSON_DOMAIN:
			check_json_domain(check, value, json);
			break;
		case VALUE_SCALAR:
			check_scalar(value, json);
			break;
		case VALUE_ARRAY:
			check_array(check, value, json);
			break;
		case VALUE_COMPOSITE:
			check_object(check, value, json);
			break;
	}
}

/* Only a domain can refuse null; one over a composite type is left to the record. */
static void
check_null(PayloadCheck *check, ValueCheck *value)
{
	if (check->depth == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the payload is null")));
	if (value->is_domain)
		domain_check((Datum) 0, true, value->type, &value->domain_info, check->context);
}

/* As jsonb_populate_record() does: what stands in the string is the input. */
static void
check_scalar(ValueCheck *value, JsonbValue *json)
{
	(void) InputFunctionCall(&value->input, scalar_string(json), value->input_param,
							 value->typmod);
}

static char *
scalar_string(JsonbValue *json)
{
	switch (json->type)
	{
		case jbvString:
			return pnstrdup(json->val.string.val, json->val.string.len);
		case jbvBool:
			return pstrdup(json->val.boolean ? "true" : "false");
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(json->val.numeric)));
		case jbvBinary:
			return JsonbToCString(NULL, json->val.binary.data, json->val.binary.len);
		default:
			elog(ERROR, "unexpected jsonb value of type %d", (int) json->type);
	}
}

static void
check_json_domain(PayloadCheck *check, ValueCheck *value, JsonbValue *json)
{
	Jsonb	   *jsonb = JsonbValueToJsonb(json);
	Datum		datum = JsonbPGetDatum(jsonb);

	if (value->base_type == JSONOID)
		datum = CStringGetTextDatum(JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
	domain_check(datum, false, value->type, &value->domain_info, check->context);
}

static void
check_object(PayloadCheck *check, ValueCheck *value, JsonbValue *json)
{
	JsonbContainer *object = json->val.binary.data;
	int			found = 0;

	if (json->type != jbvBinary || !JsonContainerIsObject(object))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("an object is needed for type %s", value->type_name)));
	for (int i = 0; i < value->nfields; i++)
	{
		FieldCheck *field = &value->fields[i];
		JsonbValue	buffer;
		JsonbValue *member;

		push_step(check, field->name, 0);
		member = getKeyJsonValueFromContainer(object, field->name, strlen(field->name), &buffer);
		found += member != NULL;
		check_value(check, field->value, member);
		check->depth--;
	}
	if (found < JsonContainerSize(object))
		refuse_other_keys(check, value, object);
}

static void
refuse_other_keys(PayloadCheck *check, ValueCheck *value, JsonbContainer *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbValue	json;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&iterator, &json, true)) != WJB_DONE)
	{
		char	   *key;
		bool		known = false;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(json.val.string.val, json.val.string.len);
		for (int i = 0; i < value->nfields && !known; i++)
			known = strcmp(value->fields[i].name, key) == 0;
		if (known)
			continue;
		push_step(check, MemoryContextStrdup(check->context, key), 0);
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type %s has no such field", value->type_name)));
	}
}

static void
check_array(PayloadCheck *check, ValueCheck *value, JsonbValue *json)
{
	ArrayShape	shape = {0};

	check_dimension(check, value, &shape, json, 1);
}

/*
 * As jsonb_populate_record() does: arrays in an array are further dimensions of
 * it, as many as its first elements have.
 */
static void
check_dimension(PayloadCheck *check, ValueCheck *value, ArrayShape *shape,
				JsonbValue *json, int level)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	member;
	int			i = 0;

	if (!is_array(json))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("an array is needed for type %s", value->type_name)));
	if (level > MAXDIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an array has at most %d dimensions", MAXDIM)));
	iterator = JsonbIteratorInit(json->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &member, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		push_step(check, NULL, i++);
		if (shape->ndims == 0 && !is_array(&member))
			shape->ndims = level;
		if (level == shape->ndims)
			check_value(check, value->element, &member);
		else
			check_dimension(check, value, shape, &member, level + 1);
		check->depth--;
	}
	if (shape->ndims == 0)
		shape->ndims = level;
	if (shape->known[level - 1] && shape->dims[level - 1] != i)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("an array of %d elements is needed for type %s, as beside it",
						shape->dims[level - 1], value->type_name)));
	shape->known[level - 1] = true;
	shape->dims[level - 1] = i;
}

static bool
is_array(const JsonbValue *json)
{
	return json->type == jbvBinary && JsonContainerIsArray(json->val.binary.data);
}

static void
push_step(PayloadCheck *check, const char *field, int index)
{
	if (check->depth == check->room)
	{
		check->room = Max(8, check->room * 2);
		check->path = check->path ?
			repalloc(check->path, check->room * sizeof(PathStep)) :
			MemoryContextAlloc(check->context, check->room * sizeof(PathStep));
	}
	check->path[check->depth].field = field;
	check->path[check->depth].index = index;
	check->depth++;
}

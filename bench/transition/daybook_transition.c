/*-------------------------------------------------------------------------
 *
 * daybook_transition.c
 *	  A transition in C, to measure folds with: the balance of an account as
 *	  {"events": ..., "balance": ...}.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_balance);
PG_FUNCTION_INFO_V1(bench_sum);

#define EVENT_TYPE	8
#define EVENT_DATA	9

static Numeric
member(Jsonb *object, const char *key, JsonbValue *buffer)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), buffer);

	if (value == NULL || value->type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no number \"%s\"", key)));
	return value->val.numeric;
}

static void
put(JsonbParseState **state, const char *key, Numeric number)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) key;
	value.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &value);
	value.type = jbvNumeric;
	value.val.numeric = number;
	pushJsonbValue(state, WJB_VALUE, &value);
}

/* The amount of an event, with its sign. */
static Numeric
amount_of(HeapTupleHeader event)
{
	bool		is_null;
	text	   *type = DatumGetTextPP(GetAttributeByNum(event, EVENT_TYPE, &is_null));
	Jsonb	   *data = DatumGetJsonbP(GetAttributeByNum(event, EVENT_DATA, &is_null));
	JsonbValue	buffer;
	Numeric		amount = member(data, "amount", &buffer);

	if (VARDATA_ANY(type)[0] == 'W')
		amount = DatumGetNumeric(DirectFunctionCall1(numeric_uminus, NumericGetDatum(amount)));
	return amount;
}

/* bench_balance(jsonb, daybook.event) returns jsonb */
Datum
bench_balance(PG_FUNCTION_ARGS)
{
	Jsonb	   *state = PG_GETARG_JSONB_P(0);
	Numeric		amount = amount_of(PG_GETARG_HEAPTUPLEHEADER(1));
	JsonbParseState *parse = NULL;
	JsonbValue	buffer;
	Numeric		balance;
	Numeric		events;

	balance = numeric_add_opt_error(member(state, "balance", &buffer), amount, NULL);
	events = numeric_add_opt_error(member(state, "events", &buffer), int64_to_numeric(1), NULL);
	pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	put(&parse, "events", events);
	put(&parse, "balance", balance);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_OBJECT, NULL)));
}

/* bench_sum(numeric, daybook.event) returns numeric */
Datum
bench_sum(PG_FUNCTION_ARGS)
{
	PG_RETURN_NUMERIC(numeric_add_opt_error(PG_GETARG_NUMERIC(0),
											amount_of(PG_GETARG_HEAPTUPLEHEADER(1)), NULL));
}

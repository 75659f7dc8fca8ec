/*-------------------------------------------------------------------------
 *
 * fold_definition.c
 *	  Defining folds: daybook.fold_definition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "arguments.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "daybook.h"
#include "event_table/event_source.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "fold/fold.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "schema/schema_ddl.h"
#include "user_function.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "worker/worker_state.h"

PG_FUNCTION_INFO_V1(daybook_create_fold);
PG_FUNCTION_INFO_V1(daybook_drop_fold);
PG_FUNCTION_INFO_V1(daybook_fold_changed);

/* columns of daybook.fold_definition */
enum
{
	FOLD_NAME = 1,
	FOLD_OWNER,
	FOLD_EVENT_TABLE,
	FOLD_TRANSITION,
	FOLD_INITIAL,
	FOLD_SNAPSHOT_EVERY
};

/* arguments of daybook.create_fold */
enum
{
	ARG_NAME,
	ARG_EVENT_TABLE,
	ARG_TRANSITION,
	ARG_INITIAL,
	ARG_SNAPSHOT_EVERY
};

static Oid	check_transition(Oid function);
static char *initial_text(FunctionCallInfo fcinfo, Oid state_type);
static Const *convert_initial(Datum value, Oid type, Oid state_type);
static char *print_portably(Datum value, Oid type);
static void store_definition(const FoldDefinition *definition);

/* daybook.create_fold(name, event_table, transition, initial, snapshot_every) */
Datum
daybook_create_fold(PG_FUNCTION_ARGS)
{
	FoldDefinition definition = {0};
	Oid			state_type;

	PreventCommandIfReadOnly("daybook.create_fold()");
	RefuseNull(&fcinfo->args[ARG_NAME], "name");
	RefuseNull(&fcinfo->args[ARG_EVENT_TABLE], "event_table");
	RefuseNull(&fcinfo->args[ARG_TRANSITION], "transition");
	definition.name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME));
	CheckName("fold", definition.name);
	definition.owner = GetUserId();
	definition.event_table = PG_GETARG_OID(ARG_EVENT_TABLE);
	definition.snapshot_every = PG_ARGISNULL(ARG_SNAPSHOT_EVERY) ? 0 :
		PG_GETARG_INT32(ARG_SNAPSHOT_EVERY);
	if (definition.snapshot_every < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot_every must not be negative"),
				 errdetail("The value given is %d.", definition.snapshot_every),
				 errhint("Give 0 for a fold without snapshots.")));

	table_close(OpenReadableEventTable(definition.event_table), NoLock);
	state_type = check_transition(PG_GETARG_OID(ARG_TRANSITION));
	definition.transition = FunctionText(PG_GETARG_OID(ARG_TRANSITION));
	definition.initial = initial_text(fcinfo, state_type);

	/* Whatever would be wrong with it later is wrong with it now. */
	(void) FoldRunMake(&definition, CurrentMemoryContext);
	store_definition(&definition);
	PG_RETURN_VOID();
}

/* daybook.drop_fold(name) */
Datum
daybook_drop_fold(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			types[] = {TEXTOID, REGROLEOID};
	Datum		values[] = {PG_GETARG_DATUM(0), (Datum) 0};
	FoldDefinition *definition;

	PreventCommandIfReadOnly("daybook.drop_fold()");
	/* the one found can be dropped, and another created, before its row is locked */
	do
	{
		definition = RequireFoldDefinition(name);
		RequireFoldOwner(definition);
		values[1] = ObjectIdGetDatum(definition->owner);
	} while (RunOnOwnTables("DELETE FROM daybook.fold_definition WHERE name = $1 AND owner = $2",
							2, types, values, NULL) == 0);
	PG_RETURN_VOID();
}

/* A plain function of the state and an event that returns the state. */
bool
IsTransition(Oid function)
{
	Oid		   *arguments;
	int			count;
	Oid			result = get_func_signature(function, &arguments, &count);

	return count == 2 && arguments[0] == result &&
		arguments[1] == GetDaybookOids()->event_type &&
		get_typtype(result) != TYPTYPE_PSEUDO &&
		get_func_prokind(function) == PROKIND_FUNCTION &&
		!get_func_retset(function);
}

/* Returns the type of the state. */
static Oid
check_transition(Oid function)
{
	if (get_func_name(function) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	if (!IsTransition(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s cannot be the transition of a fold", FunctionText(function)),
				 errdetail("It returns %s. A transition takes the state and a daybook.event, and returns a state of the same type.",
						   format_type_be(get_func_rettype(function)))));
	RefuseTemporaryFunction(function);
	CheckMayRun(function, GetUserId());
	return get_func_rettype(function);
}

/*
 * The initial state as text.  A value of another type will do if it converts
 * to the state's by itself, such as 0 to numeric.
 */
static char *
initial_text(FunctionCallInfo fcinfo, Oid state_type)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, ARG_INITIAL);
	Datum		value;

	if (PG_ARGISNULL(ARG_INITIAL))
		return NULL;
	value = PG_GETARG_DATUM(ARG_INITIAL);
	if (type != state_type && type == TEXTOID)
	{
		Oid			input;
		Oid			param;

		getTypeInputInfo(state_type, &input, &param);
		value = OidInputFunctionCall(input, TextDatumGetCString(value), param, -1);
	}
	else if (type != state_type)
	{
		Const	   *converted = convert_initial(value, type, state_type);

		if (converted->constisnull)
			return NULL;
		value = converted->constvalue;
	}
	return print_portably(value, state_type);
}

/* Its text will not do: a date, say, stands for a time of the present time zone. */
static Const *
convert_initial(Datum value, Oid type, Oid state_type)
{
	int16		len;
	bool		by_value;
	Oid			collation = get_typcollation(type);
	Node	   *expression;

	get_typlenbyval(type, &len, &by_value);
	expression = coerce_to_target_type(NULL,
									   (Node *) makeConst(type, -1, collation, len, value, false, by_value),
									   type, state_type, -1, COERCION_IMPLICIT,
									   COERCE_IMPLICIT_CAST, -1);
	if (expression == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("initial state of type %s is not of the state's type %s",
						format_type_be(type), format_type_be(state_type)),
				 errhint("Cast it to %s.", format_type_be(state_type))));
	return castNode(Const, evaluate_expr((Expr *) expression, state_type, -1,
										 get_typcollation(state_type)));
}

static char *
print_portably(Datum value, Oid type)
{
	Oid			output;
	bool		is_varlena;
	int			level = BeginPortableText();
	char	   *result;

	getTypeOutputInfo(type, &output, &is_varlena);
	result = OidOutputFunctionCall(output, value);
	AtEOXact_GUC(false, level);
	return result;
}

int
BeginPortableText(void)
{
	static const char *const settings[][2] = {
		{"datestyle", "ISO"}, {"intervalstyle", "postgres"}, {"extra_float_digits", "1"},
		{"array_nulls", "on"}, {"xmloption", "content"}, {"lc_monetary", "C"}
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
store_definition(const FoldDefinition *definition)
{
	Oid			types[] = {TEXTOID, REGROLEOID, REGCLASSOID, TEXTOID, TEXTOID, INT4OID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};

	values[0] = CStringGetTextDatum(definition->name);
	values[1] = ObjectIdGetDatum(definition->owner);
	values[2] = ObjectIdGetDatum(definition->event_table);
	values[3] = CStringGetTextDatum(definition->transition);
	values[4] = definition->initial ? CStringGetTextDatum(definition->initial) : (Datum) 0;
	nulls[4] = definition->initial ? ' ' : 'n';
	values[5] = Int32GetDatum(definition->snapshot_every);
	if (RunOnOwnTables("INSERT INTO daybook.fold_definition"
					   " (name, owner, event_table, transition, initial, snapshot_every)"
					   " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
					   6, types, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("fold \"%s\" already exists", definition->name),
				 errhint("Use daybook.drop_fold() first, or CREATE OR REPLACE FUNCTION to change its transition.")));
}

/* As it is defined now, whatever the transaction's snapshot sees. */
FoldDefinition *
LoadFoldDefinition(const char *name)
{
	Relation	rel = table_open(DaybookRelation("fold_definition"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	FoldDefinition *definition = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, FOLD_NAME, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
	scan = systable_beginscan(rel, DaybookRelation("fold_definition_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		is_null;
		Datum		value;

		definition = palloc(sizeof(FoldDefinition));
		definition->name = pstrdup(name);
		definition->owner = DatumGetObjectId(heap_getattr(tuple, FOLD_OWNER, desc, &is_null));
		definition->event_table =
			DatumGetObjectId(heap_getattr(tuple, FOLD_EVENT_TABLE, desc, &is_null));
		definition->transition =
			TextDatumGetCString(heap_getattr(tuple, FOLD_TRANSITION, desc, &is_null));
		value = heap_getattr(tuple, FOLD_INITIAL, desc, &is_null);
		definition->initial = is_null ? NULL : TextDatumGetCString(value);
		definition->snapshot_every =
			DatumGetInt32(heap_getattr(tuple, FOLD_SNAPSHOT_EVERY, desc, &is_null));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return definition;
}

FoldDefinition *
RequireFoldDefinition(const char *name)
{
	FoldDefinition *definition = LoadFoldDefinition(name);

	if (definition == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("fold \"%s\" does not exist", name),
				 errhint("daybook.fold_definition lists the folds.")));
	return definition;
}

void
RequireFoldOwner(const FoldDefinition *definition)
{
	if (!has_privs_of_role(GetUserId(), definition->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of fold \"%s\"", definition->name)));
}

/* Statement trigger of daybook.fold_definition, for sessions and the snapshot worker. */
Datum
daybook_fold_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("daybook.fold_changed must be called by a trigger")));
	CacheInvalidateRelcache(trigger->tg_relation);
	SuperviseAtCommit();
	return PointerGetDatum(NULL);
}

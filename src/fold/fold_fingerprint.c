/*-------------------------------------------------------------------------
 *
 * fold_fingerprint.c
 *	  What a fold's states depend on besides the events, as a hash.
 *
 * A snapshot is used only where the hash it was taken with is the present
 * one.  So the hash takes in too much rather than too little: functions are
 * followed by the dependencies that PostgreSQL records and, in bodies that are
 * kept as text, by every word and operator that is the name of some function
 * or operator outside pg_catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_language.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "commands/proclang.h"
#include "daybook.h"
#include "fold/fold.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/scansup.h"
#include "schema/event_schema.h"
#include "user_function.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* Raised when states of the same fold are computed or stored in another way. */
#define FINGERPRINT_FORMAT	1

#define OPERATOR_CHARACTERS	"+-*/<>=~!@#%^&|`?"

/* What a function that is not immutable may look at. */
static const char *const settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output",
	"lc_monetary", "lc_numeric", "lc_time", "default_text_search_config", "xmlbinary",
	"xmloption", "array_nulls", "transform_null_equals", "standard_conforming_strings",
	"server_encoding"
};

/* Everything that is to be hashed, and the functions that are still to be read. */
typedef struct Fingerprint
{
	StringInfoData text;
	List	   *functions;		/* Oid, in the order in which they were met */
} Fingerprint;

static void add_text(Fingerprint *fingerprint, const char *text);
static void add_number(Fingerprint *fingerprint, int64 number);
static void add_type(Fingerprint *fingerprint, Oid type);
static bool add_event_schema(Fingerprint *fingerprint, Relation event_table);
static void meet_function(Fingerprint *fingerprint, Oid function);
static void add_function(Fingerprint *fingerprint, Oid function);
static void add_aggregate(Fingerprint *fingerprint, Oid function);
static void add_attribute(Fingerprint *fingerprint, int cache, HeapTuple tuple,
						  AttrNumber column);
static void meet_recorded(Fingerprint *fingerprint, Oid function);
static void meet_named(Fingerprint *fingerprint, const char *body);
static const char *meet_word(Fingerprint *fingerprint, const char *p);
static bool is_escaped_identifier(const char *word, const char *end);
static void meet_all_functions(Fingerprint *fingerprint);
static const char *meet_quoted(Fingerprint *fingerprint, const char *p);
static const char *meet_operator_sign(Fingerprint *fingerprint, const char *p);
static void meet_functions_called(Fingerprint *fingerprint, const char *name);
static void meet_operators_called(Fingerprint *fingerprint, const char *name);
static bool is_word_start(char c);
static void hash_text(const char *data, Size len, uint8 *result);

/*
 * The fingerprint apart from settings; *looks_at_settings tells whether they
 * can matter.
 */
void
FoldFingerprint(const FoldRun *run, Relation event_table, const char *search_path,
				uint8 *result, bool *looks_at_settings)
{
	const FoldDefinition *definition = FoldRunDefinition(run);
	Fingerprint fingerprint;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "fold fingerprint",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);

	initStringInfo(&fingerprint.text);
	fingerprint.functions = NIL;
	add_number(&fingerprint, FINGERPRINT_FORMAT);
	add_number(&fingerprint, PG_VERSION_NUM / 10000);
	add_text(&fingerprint, definition->transition);
	add_text(&fingerprint, definition->initial);
	add_text(&fingerprint, search_path);
	add_type(&fingerprint, FoldRunStateType(run)->oid);
	add_type(&fingerprint, GetDaybookOids()->event_type);
	meet_function(&fingerprint, FoldRunTransition(run));
	*looks_at_settings = func_volatile(FoldRunTransition(run)) != PROVOLATILE_IMMUTABLE;
	*looks_at_settings |= !add_event_schema(&fingerprint, event_table);

	/* reading a function adds those that it calls */
	for (int i = 0; i < list_length(fingerprint.functions); i++)
	{
		CHECK_FOR_INTERRUPTS();
		add_function(&fingerprint, list_nth_oid(fingerprint.functions, i));
	}
	hash_text(fingerprint.text.data, fingerprint.text.len, result);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* The fingerprint together with the present settings. */
void
FoldFingerprintWithSettings(const uint8 *fingerprint, uint8 *result)
{
	StringInfoData text;

	initStringInfo(&text);
	appendBinaryStringInfo(&text, (const char *) fingerprint, FINGERPRINT_LENGTH);
	for (int i = 0; i < lengthof(settings); i++)
	{
		const char *value = GetConfigOption(settings[i], true, false);

		appendStringInfoString(&text, value ? value : "");
		appendStringInfoChar(&text, '\0');
	}
	hash_text(text.data, text.len, result);
	pfree(text.data);
}

/* Texts are told apart by their ends, and null from the empty text. */
static void
add_text(Fingerprint *fingerprint, const char *text)
{
	appendStringInfoChar(&fingerprint->text, text ? 't' : 'n');
	if (text)
		appendStringInfoString(&fingerprint->text, text);
	appendStringInfoChar(&fingerprint->text, '\0');
}

static void
add_number(Fingerprint *fingerprint, int64 number)
{
	appendStringInfo(&fingerprint->text, INT64_FORMAT ";", number);
}

/* Snapshots hold values as they are stored, with the OIDs of their types. */
static void
add_type(Fingerprint *fingerprint, Oid type)
{
	Oid			base = getBaseType(type);
	Oid			element = StateElementType(base);

	check_stack_depth();
	add_number(fingerprint, type);
	add_text(fingerprint, format_type_be_qualified(type));
	if (base != type)
		add_type(fingerprint, base);
	if (OidIsValid(element))
		add_type(fingerprint, element);
	if (get_typtype(base) == TYPTYPE_COMPOSITE)
	{
		TupleDesc	desc = lookup_rowtype_tupdesc_copy(base, -1);

		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute attribute = TupleDescAttr(desc, i);

			add_text(fingerprint, NameStr(attribute->attname));
			add_number(fingerprint, attribute->attisdropped);
			add_number(fingerprint, attribute->atttypmod);
			if (!attribute->attisdropped)
				add_type(fingerprint, attribute->atttypid);
		}
	}
}

/* Returns whether all upcasters are immutable. */
static bool
add_event_schema(Fingerprint *fingerprint, Relation event_table)
{
	EventSchema *schema = HoldEventSchema(event_table);
	bool		immutable = true;

	if (schema == NULL)
		return true;
	for (int i = 0; i < schema->type_count; i++)
	{
		EventType  *type = &schema->types[i];

		add_text(fingerprint, text_to_cstring(type->type));
		add_number(fingerprint, type->schema_version);
		add_number(fingerprint, type->payload_type);
		add_text(fingerprint, type->check_function);
		add_number(fingerprint, type->mode);
	}
	for (int i = 0; i < schema->step_count; i++)
	{
		UpcastStep *step = &schema->steps[i];
		Oid			function = FunctionByText(step->function, schema->owner);

		add_text(fingerprint, text_to_cstring(step->type));
		add_number(fingerprint, step->from_version);
		add_text(fingerprint, text_to_cstring(step->to_type));
		add_text(fingerprint, step->function);
		if (!OidIsValid(function))
			continue;			/* reading the events will tell */
		add_text(fingerprint, FunctionSearchPath(function, schema->owner));
		meet_function(fingerprint, function);
		immutable &= func_volatile(function) == PROVOLATILE_IMMUTABLE;
	}
	return immutable;
}

/* Those of pg_catalog change with the server's version only. */
static void
meet_function(Fingerprint *fingerprint, Oid function)
{
	if (function >= FirstNormalObjectId)
		fingerprint->functions = list_append_unique_oid(fingerprint->functions, function);
}

static void
add_function(Fingerprint *fingerprint, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		is_null;
	Datum		body;

	if (!HeapTupleIsValid(tuple))
		return;					/* dropped meanwhile */
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	add_text(fingerprint, FunctionText(function));
	add_text(fingerprint, format_type_be_qualified(proc->prorettype));
	add_text(fingerprint, get_language_name(proc->prolang, false));
	add_number(fingerprint, proc->prokind);
	add_number(fingerprint, proc->proisstrict);
	add_number(fingerprint, proc->provolatile);
	add_number(fingerprint, proc->proretset);
	add_number(fingerprint, proc->prosecdef ? proc->proowner : InvalidOid);
	add_attribute(fingerprint, PROCOID, tuple, Anum_pg_proc_prosrc);
	add_attribute(fingerprint, PROCOID, tuple, Anum_pg_proc_probin);
	add_attribute(fingerprint, PROCOID, tuple, Anum_pg_proc_prosqlbody);
	add_attribute(fingerprint, PROCOID, tuple, Anum_pg_proc_proconfig);
	add_attribute(fingerprint, PROCOID, tuple, Anum_pg_proc_proargnames);
	add_attribute(fingerprint, PROCOID, tuple, Anum_pg_proc_proargdefaults);
	if (proc->prokind == PROKIND_AGGREGATE)
		add_aggregate(fingerprint, function);
	body = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &is_null);
	if (proc->prolang != INTERNALlanguageId && proc->prolang != ClanguageId)
		meet_named(fingerprint, TextDatumGetCString(body));
	meet_recorded(fingerprint, function);
	ReleaseSysCache(tuple);
}

/* The functions that it is made of, and what it begins with. */
static void
add_aggregate(Fingerprint *fingerprint, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));

	if (!HeapTupleIsValid(tuple))
		return;					/* dropped meanwhile */
	appendBinaryStringInfo(&fingerprint->text, (const char *) GETSTRUCT(tuple),
						   sizeof(FormData_pg_aggregate));
	add_attribute(fingerprint, AGGFNOID, tuple, Anum_pg_aggregate_agginitval);
	add_attribute(fingerprint, AGGFNOID, tuple, Anum_pg_aggregate_aggminitval);
	ReleaseSysCache(tuple);
}

static void
add_attribute(Fingerprint *fingerprint, int cache, HeapTuple tuple, AttrNumber column)
{
	bool		is_null;
	Datum		value = SysCacheGetAttr(cache, tuple, column, &is_null);
	struct varlena *flat;

	add_number(fingerprint, is_null);
	if (is_null)
		return;
	flat = PG_DETOAST_DATUM(value);
	add_number(fingerprint, VARSIZE(flat));
	appendBinaryStringInfo(&fingerprint->text, VARDATA(flat), VARSIZE(flat) - VARHDRSZ);
}

/* Functions and operators that PostgreSQL knows a function to use. */
static void
meet_recorded(Fingerprint *fingerprint, Oid function)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(ProcedureRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(function));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend depend = (Form_pg_depend) GETSTRUCT(tuple);

		if (depend->refclassid == ProcedureRelationId)
			meet_function(fingerprint, depend->refobjid);
		else if (depend->refclassid == OperatorRelationId)
			meet_function(fingerprint, get_opcode(depend->refobjid));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* Functions and operators that a body may mean, comments and literals included. */
static void
meet_named(Fingerprint *fingerprint, const char *body)
{
	const char *p = body;

	while (*p)
	{
		if (is_word_start(*p))
			p = meet_word(fingerprint, p);
		else if (*p == '"')
			p = meet_quoted(fingerprint, p);
		else if (strchr(OPERATOR_CHARACTERS, *p))
			p = meet_operator_sign(fingerprint, p);
		else
			p++;
	}
}

static bool
is_word_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || IS_HIGHBIT_SET(c);
}

static const char *
meet_word(Fingerprint *fingerprint, const char *p)
{
	const char *end = p;

	while (is_word_start(*end) || (*end >= '0' && *end <= '9') || *end == '$')
		end++;
	if (is_escaped_identifier(p, end))
		meet_all_functions(fingerprint);
	meet_functions_called(fingerprint, downcase_truncate_identifier(p, end - p, false));
	return end;
}

/* The word of U&"...". */
static bool
is_escaped_identifier(const char *word, const char *end)
{
	return end - word == 1 && (*word == 'U' || *word == 'u') && end[0] == '&' && end[1] == '"';
}

/*
 * The name of a function in Unicode escapes can be any.  To read them it would
 * take the escape character, which stands behind the name, perhaps in a literal.
 */
static void
meet_all_functions(Fingerprint *fingerprint)
{
	Relation	rel = table_open(ProcedureRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_proc_oid, BTGreaterEqualStrategyNumber, F_OIDGE,
				ObjectIdGetDatum(FirstNormalObjectId));
	scan = systable_beginscan(rel, ProcedureOidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		meet_function(fingerprint, ((Form_pg_proc) GETSTRUCT(tuple))->oid);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static const char *
meet_quoted(Fingerprint *fingerprint, const char *p)
{
	StringInfoData name;

	initStringInfo(&name);
	for (p++; *p && (*p != '"' || p[1] == '"'); p++)
	{
		appendStringInfoChar(&name, *p);
		if (*p == '"')
			p++;
	}
	meet_functions_called(fingerprint, name.data);
	return *p ? p + 1 : p;
}

/* Longer names of operators are not looked for. */
#define OPERATOR_LENGTH		8

/* An operator may end before the signs do: each part of them is looked at. */
static const char *
meet_operator_sign(Fingerprint *fingerprint, const char *p)
{
	int			len = strspn(p, OPERATOR_CHARACTERS);

	for (int from = 0; from < len; from++)
		for (int to = from + 1; to <= Min(len, from + OPERATOR_LENGTH); to++)
			meet_operators_called(fingerprint, pnstrdup(p + from, to - from));
	return p + len;
}

static void
meet_functions_called(Fingerprint *fingerprint, const char *name)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));

	for (int i = 0; i < list->n_members; i++)
		meet_function(fingerprint,
					  ((Form_pg_proc) GETSTRUCT(&list->members[i]->tuple))->oid);
	ReleaseSysCacheList(list);
}

static void
meet_operators_called(Fingerprint *fingerprint, const char *name)
{
	CatCList   *list = SearchSysCacheList1(OPERNAMENSP, CStringGetDatum(name));

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_operator operator = (Form_pg_operator) GETSTRUCT(&list->members[i]->tuple);

		/* one of a user's can come to mean another function of pg_catalog */
		if (operator->oid >= FirstNormalObjectId)
			add_number(fingerprint, operator->oprcode);
		meet_function(fingerprint, operator->oprcode);
	}
	ReleaseSysCacheList(list);
}

static void
hash_text(const char *data, Size len, uint8 *result)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	StaticAssertStmt(FINGERPRINT_LENGTH == PG_SHA256_DIGEST_LENGTH,
					 "a fingerprint is a SHA-256 digest");
	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, len) < 0 ||
		pg_cryptohash_final(context, result, FINGERPRINT_LENGTH) < 0)
		elog(ERROR, "could not compute a hash: %s", pg_cryptohash_error(context));
	pg_cryptohash_free(context);
}

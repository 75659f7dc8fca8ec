/*-------------------------------------------------------------------------
 *
 * trust.c
 *	  Where a handler's names are looked up, and whose objects it may find
 *	  there.
 *
 * A handler runs with the rights of the projection's owner, so nobody else may
 * slip something of theirs under one of its names.  Schemas that others can
 * create objects in are left out of its search path.  Those of the projection's
 * tables stay, as the tables have to be found: of what others have put there,
 * nothing is used that could run code of theirs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_language.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "projection/projection.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;
static needs_fmgr_hook_type prev_needs_fmgr = NULL;

/* NULL: no handler runs */
static const HandlerTrust *trust = NULL;

static void add_owners(HandlerTrust *to, ArrayType *relations);
static void add_open_schemas(HandlerTrust *to, ArrayType *relations);
static bool is_trusted(const HandlerTrust *by, Oid role);
static Oid	database_owner(void);
static bool schema_is_closed(const HandlerTrust *by, Oid schema);
static void append_schemas(StringInfo path, List **schemas, ArrayType *relations,
						   const HandlerTrust *closed_to);
static bool applies(void);
static void check_statement(ParseState *pstate, Query *query, JumbleState *jstate);
static bool stays_a_call(Oid function);
static void check_utility(Node *statement);
static void check_ranges(List *ranges);
static bool check_walker(Node *node, void *context);
static void check_query(Query *query);
static void check_types(List *types);
static void check_type(Oid type);
static bool check_function(Oid function, void *context);
static void check_operator(Oid operator);
static bool runs_code_when_read(Oid relation);
static void check_object(Oid class, Oid object);
static void refuse(Oid class, Oid object, Oid schema, Oid owner);

void
TrustInit(void)
{
	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = check_statement;
	prev_needs_fmgr = needs_fmgr_hook;
	needs_fmgr_hook = stays_a_call;
}

/*
 * Superusers can do anything anyhow, and triggers of the tables run as the
 * projection's owner.
 */
void
TrustFor(HandlerTrust *result, const Projection *projection)
{
	result->owner = projection->owner;
	result->roles = list_make1_oid(projection->owner);
	result->open_schemas = NIL;
	add_owners(result, projection->tables);
	add_owners(result, projection->live_tables);
	add_open_schemas(result, projection->tables);
	add_open_schemas(result, projection->live_tables);
}

/* What was there before is put back by the caller, whatever happens. */
const HandlerTrust *
Trust(const HandlerTrust *to)
{
	const HandlerTrust *before = trust;

	trust = to;
	return before;
}

/* The handler that is trusted begins, or goes on after another one. */
void
TrustNoOldPlans(void)
{
	if (trust != NULL && trust->open_schemas != NIL)
		TrustPlansRenew(trust->owner);
}

/*
 * pg_catalog first, so that no table's schema can shadow what is built in,
 * and pg_temp last, as in any safe path.
 */
char *
TrustedSearchPath(const HandlerTrust *by, const Projection *projection)
{
	StringInfoData path;
	List	   *schemas = NIL;

	initStringInfo(&path);
	appendStringInfoString(&path, "pg_catalog");
	append_schemas(&path, &schemas, projection->tables, NULL);
	append_schemas(&path, &schemas, projection->live_tables, NULL);
	append_schemas(&path, &schemas, projection->sources, by);
	appendStringInfoString(&path, ", pg_temp");
	return path.data;
}

/* An error if the handler that runs may not use the function. */
void
TrustCheckFunction(Oid function)
{
	if (applies())
		check_object(ProcedureRelationId, function);
}

static void
add_owners(HandlerTrust *to, ArrayType *relations)
{
	Oid		   *oids;
	int			n = relations ? RelationArray(relations, &oids) : 0;

	for (int i = 0; i < n; i++)
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(oids[i]));

		if (!HeapTupleIsValid(tuple))
			continue;
		to->roles = list_append_unique_oid(to->roles,
										   ((Form_pg_class) GETSTRUCT(tuple))->relowner);
		ReleaseSysCache(tuple);
	}
}

static void
add_open_schemas(HandlerTrust *to, ArrayType *relations)
{
	Oid		   *oids;
	int			n = relations ? RelationArray(relations, &oids) : 0;

	for (int i = 0; i < n; i++)
	{
		Oid			schema = get_rel_namespace(oids[i]);

		if (OidIsValid(schema) && !list_member_oid(to->open_schemas, schema) &&
			!schema_is_closed(to, schema))
			to->open_schemas = lappend_oid(to->open_schemas, schema);
	}
}

static bool
is_trusted(const HandlerTrust *by, Oid role)
{
	if (role == ROLE_PG_DATABASE_OWNER)
		role = database_owner();
	return superuser_arg(role) || list_member_oid(by->roles, role);
}

static Oid
database_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	owner = ((Form_pg_database) GETSTRUCT(tuple))->datdba;
	ReleaseSysCache(tuple);
	return owner;
}

/* Can only those who are trusted create objects in the schema? */
static bool
schema_is_closed(const HandlerTrust *by, Oid schema)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	bool		closed;
	bool		isnull;
	Datum		datum;

	if (!HeapTupleIsValid(tuple))
		return true;
	closed = is_trusted(by, ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner);
	datum = SysCacheGetAttr(NAMESPACEOID, tuple, Anum_pg_namespace_nspacl, &isnull);
	if (!isnull)
	{
		Acl		   *acl = DatumGetAclP(datum);
		AclItem    *items = ACL_DAT(acl);

		for (int i = 0; i < ACL_NUM(acl); i++)
		{
			if ((ACLITEM_GET_PRIVS(items[i]) & ACL_CREATE) != 0 &&
				(items[i].ai_grantee == ACL_ID_PUBLIC || !is_trusted(by, items[i].ai_grantee)))
				closed = false;
		}
	}
	ReleaseSysCache(tuple);
	return closed;
}

/*
 * Adds the schemas of relations that are not in the list yet; only those that
 * are closed, if it is said to whom.
 */
static void
append_schemas(StringInfo path, List **schemas, ArrayType *relations,
			   const HandlerTrust *closed_to)
{
	Oid		   *oids;
	int			n = relations ? RelationArray(relations, &oids) : 0;

	for (int i = 0; i < n; i++)
	{
		Oid			schema = get_rel_namespace(oids[i]);

		if (!OidIsValid(schema) || schema == PG_CATALOG_NAMESPACE ||
			list_member_oid(*schemas, schema) ||
			(closed_to != NULL && !schema_is_closed(closed_to, schema)))
			continue;
		*schemas = lappend_oid(*schemas, schema);
		appendStringInfo(path, ", %s", quote_identifier(get_namespace_name(schema)));
	}
}

/* What runs as another role than the projection's owner is that one's affair. */
static bool
applies(void)
{
	return trust != NULL && trust->open_schemas != NIL && GetUserId() == trust->owner;
}

static void
check_statement(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jstate);
	if (applies())
		(void) check_walker((Node *) query, NULL);
}

/*
 * The planner does not call our hook for the body of a function that it puts
 * in the place of a call, but leaves those alone that are said to have one.
 */
static bool
stays_a_call(Oid function)
{
	HeapTuple	tuple;
	bool		result;

	if (prev_needs_fmgr && prev_needs_fmgr(function))
		return true;
	if (!applies())
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == SQLlanguageId;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Other commands need the rights of the object's owner.  Expressions in
 * definitions are not looked at.
 */
static void
check_utility(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CallStmt:
			(void) check_walker((Node *) ((CallStmt *) statement)->funcexpr, NULL);
			break;
		case T_TruncateStmt:
			check_ranges(((TruncateStmt *) statement)->relations);
			break;
		case T_CopyStmt:
			if (((CopyStmt *) statement)->is_from)
				check_ranges(list_make1(((CopyStmt *) statement)->relation));
			break;
		default:
			(void) check_walker((Node *) UtilityContainsQuery(statement), NULL);
			break;
	}
}

/* Relations whose triggers may fire; one that does not exist is an error soon. */
static void
check_ranges(List *ranges)
{
	ListCell   *lc;

	foreach(lc, ranges)
	{
		Oid			relation = RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true);

		if (OidIsValid(relation))
			check_object(RelationRelationId, relation);
	}
}

/* What sorts and groups belongs to an operator class, which only superusers make. */
static bool
check_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, check_function, context);
	switch (nodeTag(node))
	{
		case T_Query:
			check_query((Query *) node);
			return query_tree_walker((Query *) node, check_walker, context, 0);
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			check_operator(((OpExpr *) node)->opno);
			break;
		case T_ScalarArrayOpExpr:
			check_operator(((ScalarArrayOpExpr *) node)->opno);
			break;
		case T_RowCompareExpr:
			{
				ListCell   *lc;

				foreach(lc, ((RowCompareExpr *) node)->opnos)
					check_operator(lfirst_oid(lc));
				break;
			}
		case T_CoerceToDomain:
			/* its constraints call functions */
			check_object(TypeRelationId, ((CoerceToDomain *) node)->resulttype);
			break;
		case T_Const:
		case T_CoerceViaIO:
		case T_ConvertRowtypeExpr:
		case T_RowExpr:
#if PG_VERSION_NUM >= 170000
		case T_JsonExpr:
#endif
			check_type(exprType(node));
			break;
		case T_TableFunc:
			check_types(((TableFunc *) node)->coltypes);
			break;
		default:
			break;
	}
	return expression_tree_walker(node, check_walker, context);
}

static void
check_query(Query *query)
{
	ListCell   *lc;

	if (query->utilityStmt != NULL)
		check_utility(query->utilityStmt);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		ListCell   *lc2;

		if (rte->rtekind == RTE_RELATION &&
			(foreach_current_index(lc) + 1 == query->resultRelation ||
			 runs_code_when_read(rte->relid)))
			check_object(RelationRelationId, rte->relid);
		foreach(lc2, rte->functions)
			check_types(lfirst_node(RangeTblFunction, lc2)->funccoltypes);
	}
}

static void
check_types(List *types)
{
	ListCell   *lc;

	foreach(lc, types)
		check_type(lfirst_oid(lc));
}

/*
 * What a value of a type is made by, without a call that the parser knows of,
 * can have it checked by a domain: the type itself, or one within.
 */
static void
check_type(Oid type)
{
	Oid			element = get_element_type(type);

	if (OidIsValid(element))
		type = element;
	if (get_typtype(type) != TYPTYPE_BASE && get_typtype(type) != TYPTYPE_ENUM)
		check_object(TypeRelationId, type);
}

static bool
check_function(Oid function, void *context)
{
	check_object(ProcedureRelationId, function);
	return false;
}

/* Also the function behind it, which need not be in the same schema. */
static void
check_operator(Oid operator)
{
	if (operator < FirstNormalObjectId)
		return;
	check_object(OperatorRelationId, operator);
	check_object(ProcedureRelationId, get_opcode(operator));
}

/* The functions of a view, and of a row security policy, run as the reader. */
static bool
runs_code_when_read(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relkind == RELKIND_VIEW ||
		((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;
	ReleaseSysCache(tuple);
	return result;
}

static void
check_object(Oid class, Oid object)
{
	int			cache = get_object_catcache_oid(class);
	HeapTuple	tuple;
	bool		isnull;
	Oid			schema;
	Oid			owner;

	/* what initdb has made */
	if (object < FirstNormalObjectId)
		return;
	tuple = SearchSysCache1(cache, ObjectIdGetDatum(object));
	if (!HeapTupleIsValid(tuple))
		return;
	schema = DatumGetObjectId(SysCacheGetAttr(cache, tuple, get_object_attnum_namespace(class), &isnull));
	owner = DatumGetObjectId(SysCacheGetAttr(cache, tuple, get_object_attnum_owner(class), &isnull));
	ReleaseSysCache(tuple);
	if (list_member_oid(trust->open_schemas, schema) && !is_trusted(trust, owner))
		refuse(class, object, schema, owner);
}

static void
refuse(Oid class, Oid object, Oid schema, Oid owner)
{
	ObjectAddress address;

	ObjectAddressSet(address, class, object);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("%s %s must not be used in the handler of a projection",
					getObjectTypeDescription(&address, false), getObjectIdentity(&address, false)),
			 errdetail("It is owned by role \"%s\", and other roles than the owners of the projection and of its tables may create objects in schema \"%s\".",
					   GetUserNameFromId(owner, true), get_namespace_name(schema)),
			 errhint("If something else is meant, name it with its schema. Otherwise put it into a schema where only these owners and superusers may create objects, and name it with that schema.")));
}

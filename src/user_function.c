/*-------------------------------------------------------------------------
 *
 * user_function.c
 *	  Functions that users hand to daybook: how they are named in its tables,
 *	  and as whom they are run.
 *
 * They are kept as text, which a dump restores and pg_upgrade leaves alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "user_function.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

static void run_as(RunAs *saved, Oid role, int sec_context, const char *search_path);
static void require_role(Oid role);
static bool others_may_create_in(Oid schema, Oid role);
static Oid	function_owner(Oid function);
static Oid	schema_owner(Oid schema);

void
RunAsRole(RunAs *saved, Oid role, const char *search_path)
{
	require_role(role);
	run_as(saved, role, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
		   search_path);
}

void
RunAsSuperuser(RunAs *saved)
{
	run_as(saved, BOOTSTRAP_SUPERUSERID, SECURITY_LOCAL_USERID_CHANGE,
		   "pg_catalog, pg_temp");
}

static void
run_as(RunAs *saved, Oid role, int sec_context, const char *search_path)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(role, saved->sec_context | sec_context);
}

static void
require_role(Oid role)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role with OID %u does not exist", role),
				 errdetail("Its functions cannot be run any more."),
				 errhint("Drop what the role created with daybook, and create it as another role.")));
}

/* After an error the end of the transaction does the same. */
void
RunAsEnd(const RunAs *saved)
{
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

/*
 * What a function names without a schema is looked for beside it, unless others
 * could put something there that would then run as the role.  The caller's own
 * path has no say.
 */
char *
FunctionSearchPath(Oid function, Oid role)
{
	Oid			schema = get_func_namespace(function);

	if (schema == PG_CATALOG_NAMESPACE || others_may_create_in(schema, role))
		return pstrdup("pg_catalog, pg_temp");
	return psprintf("pg_catalog, %s, pg_temp",
					quote_identifier(get_namespace_name(schema)));
}

/* Is CREATE on the schema granted to somebody who could not act as the role anyway? */
static bool
others_may_create_in(Oid schema, Oid role)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	bool		result = false;
	bool		is_null;
	Datum		datum;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	datum = SysCacheGetAttr(NAMESPACEOID, tuple, Anum_pg_namespace_nspacl, &is_null);
	if (!is_null)
	{
		Oid			owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
		Acl		   *acl = DatumGetAclP(datum);

		for (int i = 0; i < ACL_NUM(acl); i++)
		{
			const AclItem *item = &ACL_DAT(acl)[i];

			if ((ACLITEM_GET_PRIVS(*item) & ACL_CREATE) != 0 && item->ai_grantee != owner &&
				(item->ai_grantee == ACL_ID_PUBLIC || !has_privs_of_role(item->ai_grantee, role)))
				result = true;
		}
	}
	ReleaseSysCache(tuple);
	return result;
}

void
HintAtSearchPath(const char *kind, const char *search_path)
{
	int			error = geterrcode();

	if (error == ERRCODE_UNDEFINED_FUNCTION || error == ERRCODE_UNDEFINED_TABLE ||
		error == ERRCODE_UNDEFINED_OBJECT)
		errhint("%s runs with search_path set to %s.", kind, search_path);
}

char *
FunctionText(Oid function)
{
	return format_procedure_qualified(function);
}

/* The schema need be open to the role alone, not to whoever is served. */
Oid
FunctionByText(const char *text, Oid role)
{
	LOCAL_FCINFO(fcinfo, 1);
	Oid			caller;
	int			sec_context;
	Datum		result;

	require_role(role);
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(text);
	fcinfo->args[0].isnull = false;
	GetUserIdAndSecContext(&caller, &sec_context);
	SetUserIdAndSecContext(role, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	result = to_regprocedure(fcinfo);
	SetUserIdAndSecContext(caller, sec_context);
	return fcinfo->isnull ? InvalidOid : DatumGetObjectId(result);
}

bool
FunctionReturns(Oid function, Oid argument, Oid result)
{
	Oid		   *arguments;
	int			count;

	return get_func_signature(function, &arguments, &count) == result &&
		count == 1 && arguments[0] == argument &&
		get_func_prokind(function) == PROKIND_FUNCTION &&
		!get_func_retset(function);
}

void
RefuseTemporaryFunction(Oid function)
{
	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is temporary", FunctionText(function)),
				 errdetail("It ends with its session, and others could not call it."),
				 errhint("Create it in a schema that stays.")));
}

bool
FunctionIsTrusted(Oid function, Oid role)
{
	Oid			owner = function_owner(function);

	return has_privs_of_role(owner, role) || owner == schema_owner(get_func_namespace(function));
}

static Oid
schema_owner(Oid schema)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

static Oid
function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
CheckMayRun(Oid function, Oid role)
{
	AclResult	result = function_aclcheck_compat(function, role, ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
	if (!FunctionIsTrusted(function, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s must not run as role \"%s\"", FunctionText(function),
						GetUserNameFromId(role, false)),
				 errdetail("It belongs to role \"%s\", which neither has the rights of \"%s\" nor owns the function's schema.",
						   GetUserNameFromId(function_owner(function), false),
						   GetUserNameFromId(role, false)),
				 errhint("Have a function of \"%s\" call it, or change its owner.",
						 GetUserNameFromId(role, false))));
}

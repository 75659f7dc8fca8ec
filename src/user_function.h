/*-------------------------------------------------------------------------
 *
 * user_function.h
 *	  Functions that users hand to daybook: how they are named in its tables,
 *	  and as whom they are run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_USER_FUNCTION_H
#define DAYBOOK_USER_FUNCTION_H

/* What to go back to after work as somebody else. */
typedef struct RunAs
{
	Oid			user;
	int			sec_context;
	int			guc_level;
} RunAs;

/* As another role, with no way to the rights of the present one. */
extern void RunAsRole(RunAs *saved, Oid role, const char *search_path);

/* As the superuser, for work on the extension's own objects. */
extern void RunAsSuperuser(RunAs *saved);
extern void RunAsEnd(const RunAs *saved);

/* The search path that a function is run with as a role. */
extern char *FunctionSearchPath(Oid function, Oid role);

/* In an error context: why a function may not have found what it names. */
extern void HintAtSearchPath(const char *kind, const char *search_path);

/* A function's name and argument types, as they can be stored. */
extern char *FunctionText(Oid function);

/* As the role that runs it finds it; InvalidOid if there is no such function. */
extern Oid	FunctionByText(const char *text, Oid role);

/*
 * Is it a plain function of one such argument with such a result?  Asked anew
 * whenever its text was looked up: another one may have its name by now.
 */
extern bool FunctionReturns(Oid function, Oid argument, Oid result);

/* An error if it lives in a temporary schema. */
extern void RefuseTemporaryFunction(Oid function);

/*
 * A function runs with all rights of the role, and whoever can create one in
 * its schema can take its name over when it was dropped.  So it has to belong
 * to somebody who could act as the role anyway, or to the schema's owner, who
 * decides what is in it.
 */
extern bool FunctionIsTrusted(Oid function, Oid role);

/* An error unless it is trusted and the role has EXECUTE on it. */
extern void CheckMayRun(Oid function, Oid role);

#endif							/* DAYBOOK_USER_FUNCTION_H */

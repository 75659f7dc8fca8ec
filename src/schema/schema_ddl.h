/*-------------------------------------------------------------------------
 *
 * schema_ddl.h
 *	  What the functions that change event schemas have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_SCHEMA_DDL_H
#define DAYBOOK_SCHEMA_DDL_H

#include "executor/tuptable.h"
#include "fmgr.h"

/* An error if the argument is null, or empty. */
extern text *RequireTypeArgument(FunctionCallInfo fcinfo, int n, const char *name);

/* Runs a command on daybook's own tables; returns the number of rows. */
extern uint64 RunOnOwnTables(const char *command, int nargs, Oid *types, Datum *values,
							 const char *nulls);

#endif							/* DAYBOOK_SCHEMA_DDL_H */

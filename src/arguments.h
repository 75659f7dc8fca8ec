/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  Checks of the arguments of SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_ARGUMENTS_H
#define DAYBOOK_ARGUMENTS_H

#include "fmgr.h"
#include "utils/array.h"

/* An error if an argument is null. */
extern void RefuseNull(const NullableDatum *arg, const char *name);

/* An array without nulls, in the current memory context; NULL where none was given. */
extern ArrayType *ListArgument(FunctionCallInfo fcinfo, int arg, const char *name,
							   const char *function);

/* The name of a fold, a projection or a subscription, as which it is checked. */
extern void CheckName(const char *kind, const char *name);

#endif							/* DAYBOOK_ARGUMENTS_H */

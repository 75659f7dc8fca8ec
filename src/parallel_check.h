/*-------------------------------------------------------------------------
 *
 * parallel_check.h
 *	  Keeping statements out of parallel mode whose calls could fail there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PARALLEL_CHECK_H
#define DAYBOOK_PARALLEL_CHECK_H

#include "nodes/primnodes.h"

/* May this call be made in parallel mode? */
typedef bool (*ParallelCheck) (const FuncExpr *call);

/* For functions of schema daybook that are marked PARALLEL SAFE. */
extern void RegisterParallelCheck(const char *function, ParallelCheck check);

/* An argument of a call that has not been planned yet; NULL if it is no constant. */
extern Const *ConstantArgument(const FuncExpr *call, int number);

/* Called once when the module is loaded. */
extern void ParallelChecksInit(void);

#endif							/* DAYBOOK_PARALLEL_CHECK_H */

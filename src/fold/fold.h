/*-------------------------------------------------------------------------
 *
 * fold.h
 *	  Folds: states that are computed from the events of a stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_FOLD_H
#define DAYBOOK_FOLD_H

#include "executor/tuptable.h"
#include "replay/stream_reader.h"
#include "utils/rel.h"

/* A row of daybook.fold_definition. */
typedef struct FoldDefinition
{
	char	   *name;
	Oid			owner;
	Oid			event_table;
	char	   *transition;
	char	   *initial;		/* NULL for null */
	int32		snapshot_every;
} FoldDefinition;

/* fold_definition.c */
extern FoldDefinition *LoadFoldDefinition(const char *name);	/* NULL: no such fold */
extern FoldDefinition *RequireFoldDefinition(const char *name);
extern void RequireFoldOwner(const FoldDefinition *definition);

/*
 * A fold made ready: its transition and initial state, and the state that is
 * being computed.  Kept from call to call, see fold_run.c.
 */
typedef struct FoldRun FoldRun;

/* The state's type. */
typedef struct StateType
{
	Oid			oid;
	int16		len;
	bool		by_value;
	char		align;
} StateType;

/* fold_run.c */
extern FoldRun *FoldRunMake(const FoldDefinition *definition, MemoryContext parent);
extern FoldRun *FoldRunAcquire(const char *name);	/* an error if there is no such fold */
extern void FoldRunRelease(FoldRun *run);
extern const FoldDefinition *FoldRunDefinition(const FoldRun *run);
extern const StateType *FoldRunStateType(const FoldRun *run);
extern Oid	FoldRunTransition(const FoldRun *run);

/*
 * Between these the state can be computed, as the fold's owner; the caller
 * lets nobody else's code run meanwhile.
 */
extern void FoldEnter(FoldRun *run);
extern void FoldLeave(FoldRun *run);

/* Begins with the initial state, or with one that the run keeps a pointer to. */
extern void FoldBegin(FoldRun *run);
extern void FoldBeginWith(FoldRun *run, Datum state, bool is_null);

/* Takes the next event into the state. */
extern void FoldEvent(FoldRun *run, TupleTableSlot *event);

/* The state as it is; it lasts until the next event. */
extern Datum FoldState(const FoldRun *run, bool *is_null);

/* fold_call.c */
extern void RequireStateType(const FoldRun *run, Oid type);
extern Datum StateToJsonb(FoldRun *run, Datum state);

#endif							/* DAYBOOK_FOLD_H */

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
#include "nodes/primnodes.h"
#include "replay/row_function.h"
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
extern bool IsTransition(Oid function);
extern void RequireFoldOwner(const FoldDefinition *definition);

/*
 * The settings under which initial states are written down and read, whatever
 * the session's are; until AtEOXact_GUC() of the level that is returned.
 */
extern int	BeginPortableText(void);

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

/* What an array, a range or a multirange is made of; InvalidOid for other types. */
extern Oid	StateElementType(Oid type);

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

/* Hash of all that a state depends on besides the events. */
#define FINGERPRINT_LENGTH	32
extern void FoldRunFingerprint(FoldRun *run, Relation event_table, uint8 *result);

/* Have the catalogs stayed as they were when the run was made? */
extern bool FoldRunIsCurrent(const FoldRun *run);

/* If not, is the fingerprint still the one that was computed before? */
extern bool FoldRunIsUnchanged(FoldRun *run, Relation event_table);

/* fold_fingerprint.c */
extern void FoldFingerprint(const FoldRun *run, Relation event_table,
							const char *search_path, uint8 *result,
							bool *looks_at_settings);
extern void FoldFingerprintWithSettings(const uint8 *fingerprint, uint8 *result);

/* A state and the last event that it takes in. */
typedef struct Snapshotted
{
	int64		version;		/* 0: none */
	TimestampTz recorded_at;	/* the latest of the events taken in */
	Datum		state;
	bool		is_null;
} Snapshotted;

/* fold_snapshot.c */
typedef struct SnapshotScan SnapshotScan;

/* NULL if the fold can have no snapshots that the given snapshot sees. */
extern SnapshotScan *SnapshotScanBegin(FoldRun *run, Relation event_table,
									   Snapshot snapshot);

/*
 * The newest that is usable and takes in no event after to_version or until;
 * false if there is none.  The state is in the current memory context.
 */
extern bool SnapshotFind(SnapshotScan *scan, text *stream_id, int64 to_version,
						 TimestampTz until, Snapshotted *result);
extern void SnapshotScanEnd(SnapshotScan *scan);

/*
 * Stores the present state of a stream, or what the next max_events events
 * make of its newest snapshot.  False if nothing was stored because something
 * that the state depends on has changed meanwhile: the run is of no use then.
 */
extern bool SnapshotTake(FoldRun *run, Relation event_table, text *stream_id,
						 int64 max_events, Snapshotted *from, Snapshotted *now);

/* fold_call.c */

/*
 * Computes the state of a stream from its newest snapshot, in *from, or from
 * the initial state.  max_events: 0, or how many events to take in at most.
 * The state in *now lasts until the run is used again.
 */
extern void FoldStream(FoldRun *run, Relation event_table, text *stream_id,
					   int64 to_version, TimestampTz until, int64 max_events,
					   Snapshotted *from, Snapshotted *now);

extern void RequireStateType(const FoldRun *run, Oid type);
extern Datum StateToJsonb(FoldRun *run, Datum state);

/* fold_all.c: called once when the module is loaded */
extern void FoldAllInit(void);

/* fold_estimate.c */
extern bool FoldAllEstimate(const List *args, RowEstimate *estimate);
extern bool FoldCallIsParallelSafe(const FuncExpr *call);

#endif							/* DAYBOOK_FOLD_H */

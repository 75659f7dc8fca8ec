/*-------------------------------------------------------------------------
 *
 * projection.h
 *	  Projections: their stored definition and progress, their handlers, and
 *	  the batches of events that are handed to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PROJECTION_H
#define DAYBOOK_PROJECTION_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

struct LogEvent;
struct EventStream;

/* The relation that SQL handlers get their events in. */
#define NEW_EVENTS				"new_events"

#define PROJECTION_MAX_BATCH_SIZE	1000000

/* Workers of one rebuild. */
#define MAX_REBUILD_SHARES			64

/* A row of daybook.projection. */
typedef struct Projection
{
	char	   *name;
	Oid			owner;
	bool		is_inline;
	bool		is_paused;
	bool		has_function;	/* handler is a function's signature, not SQL */
	char	   *handler;
	ArrayType  *sources;		/* regclass[] */
	ArrayType  *tables;			/* regclass[] */
	ArrayType  *types;			/* text[], or NULL for all */
	ArrayType  *categories;		/* text[], or NULL for all */
	int			batch_size;
	char	   *on_error;
	int64		from_position;
	TimestampTz created_at;
	int			restored_pid;	/* 0 unless it was just loaded from a dump */
	TimestampTz restored_session_start;
	char	   *rebuild_of;		/* NULL, or the projection that this rebuilds */
	ArrayType  *live_tables;	/* the originals of tables, in their order */
	int			max_rate;		/* events per second, 0: no limit */
	TimestampTz rebuilt_at;		/* 0: never */
	bool		independent_streams;	/* the order across streams does not matter */
	int			share;			/* rebuild in parallel: the streams whose hash is this, */
	int			shares;			/* modulo this number; 1: all streams */
	int64		share_end;		/* and no further than this position */

	/* which version of the row this is, for caches */
	TransactionId xmin;
	ItemPointerData tid;
} Projection;

/* Why a batch could not be applied; sqlstate NULL: nothing is wrong. */
typedef struct ProjectionError
{
	char	   *sqlstate;
	char	   *message;
	char	   *detail;
	char	   *context;
	int64		position;		/* the event that fails, 0 if it is not known */
	Oid			event_table;
	int64		event_id;
} ProjectionError;

/* A row of daybook.projection_position. */
typedef struct ProjectionProgress
{
	int64		position;		/* meaningless for inline projections */
	int64		generation;		/* raised by each change from outside a batch */
	int64		paused_at_id;	/* inline and paused: the last event applied */
	int			attempts;		/* failures in a row */
	TimestampTz retry_at;		/* 0: at once */
	TimestampTz failed_at;		/* 0: not failed */
	ProjectionError error;
	ItemPointerData tid;
} ProjectionProgress;

/* projection.c: reading and writing the two tables */
extern void ProjectionLock(const char *name);
extern bool ProjectionLockIfFree(const char *name);
extern bool ProjectionIsLockedHere(const char *name);
extern void ProjectionLockWriters(const char *name);
extern void ProjectionGateClose(const char *name);
extern void ProjectionGateOpen(const char *name);
extern void ProjectionGatePass(const char *name);
extern Projection *ProjectionLoad(const char *name);
extern Projection *ProjectionLoadIfNewer(const char *name, const Projection *known);
extern List *ProjectionLoadAll(void);
extern List *ProjectionLoadRebuild(const char *name);
extern void ProjectionInsert(Projection *projection);
extern void ProjectionUpdate(Projection *projection);
extern void ProjectionSetState(Projection *projection, bool paused);
extern void ProjectionSetRestored(Projection *projection);
extern void ProjectionDelete(Projection *projection);
extern bool ProgressLoad(const char *name, ProjectionProgress *progress);
extern bool ProgressReload(const char *name, ProjectionProgress *progress);
extern void ProgressInsert(const Projection *projection, const ProjectionProgress *progress);
extern void ProgressUpdate(const Projection *projection, ProjectionProgress *progress);
extern void ProgressDelete(const char *name);
extern void ProgressTryAgain(ProjectionProgress *progress);
extern void ProgressClearError(ProjectionProgress *progress);
extern Oid	DaybookTypeOid(const char *name);

/* relations.c */
extern int	RelationArray(ArrayType *array, Oid **relations);
extern List *RelationParts(ArrayType *array);

/* An event's place, as shown in errors. */
typedef struct EventPlace
{
	int64		position;		/* 0 inline */
	Oid			event_table;
	int64		event_id;
} EventPlace;

/* Events on their way to a handler, in order: rows of daybook.log_event. */
typedef struct EventBatch
{
	Tuplestorestate *events;
	TupleDesc	desc;
	TupleDesc	event_desc;
	struct EventStream *stream; /* where they are read, or NULL: they are in events */
	int64		count;			/* of a stream, so many at most */
	int64		bytes;
	EventPlace	first;
	int64		last_position;
	EventPlace	current;		/* function handlers: the event in hand */
	int64		done;			/* function handlers: events before it */
} EventBatch;

/*
 * Finding the event that makes a batch fail: halves of what is suspect are
 * tried until it stands alone.
 */
typedef struct Suspects
{
	int64		limit;			/* events in the next batch, 0: no limit */
	int64		count;			/* events, from the position on, of which one fails */
	int64		end;			/* position of the last of them */
} Suspects;

/* suspects.c */
extern void SuspectsNarrow(Suspects *suspects, const EventBatch *batch);
extern void SuspectsPassed(Suspects *suspects, int64 count, int64 position);
extern void ProjectionErrorSet(ProjectionError *error, const ErrorData *data);

/* A handler made ready to run. */
typedef struct Handler
{
	Projection *projection;
	MemoryContext context;
	SPIPlanPtr	plan;			/* made by the first run of SQL text */
	SPIPlanPtr	stream_plan;	/* the same for streams of events, NULL if it can have none */
	bool		stream_known;	/* it is known which of both */
	bool		may_read;		/* inline: rows before they are written */
	int			running;		/* depth of runs in progress */
} Handler;

/* handler.c */
extern Handler *HandlerGet(const char *name);
extern Handler *HandlerMake(const Projection *projection);
extern void HandlerFree(Handler *handler);
extern void HandlerCheck(const Projection *projection);
extern void HandlerRun(Handler *handler, EventBatch *batch);
extern bool HandlerIsRunning(const char *name);
extern bool HandlerStreams(Handler *handler, EventBatch *batch);
extern void EventBatchInit(EventBatch *batch);
extern void EventBatchAdd(EventBatch *batch, const struct LogEvent *event);
extern void EventBatchEnd(EventBatch *batch);

/* handler_reads.c */
extern bool HandlerMayRead(SPIPlanPtr plan, ArrayType *tables);

/* Whose objects a handler may use. */
typedef struct HandlerTrust
{
	Oid			owner;			/* as whom it runs */
	List	   *roles;			/* besides superusers */
	List	   *open_schemas;	/* of its tables: others can create objects there */
} HandlerTrust;

/* trust.c */
extern void TrustInit(void);
extern void TrustFor(HandlerTrust *result, const Projection *projection);
extern const HandlerTrust *Trust(const HandlerTrust *to);
extern void TrustNoOldPlans(void);
extern char *TrustedSearchPath(const HandlerTrust *by, const Projection *projection);
extern void TrustCheckFunction(Oid function);

/* trust_plans.c */
extern void TrustPlansInit(void);
extern void TrustPlansRenew(Oid owner);

/* The projection's owner and search path, for as long as its code runs. */
typedef struct OwnerContext
{
	HandlerTrust trust;
	Oid			save_userid;
	int			save_sec_context;
	int			guc_level;
} OwnerContext;

extern void OwnerContextEnter(OwnerContext *saved, const Projection *projection);
extern void OwnerContextLeave(const OwnerContext *saved);
extern void SuperuserContextEnter(OwnerContext *saved);

/* constraints.c: for batches in a transaction that is not the worker's own */
extern void RefusePendingConstraints(const Projection *projection);
extern void SetConstraintsImmediate(const Projection *projection);

/* An event that waits in a projection's queue, or is on its way there. */
typedef struct ParkedEvent
{
	EventPlace	place;
	char	   *stream_id;
} ParkedEvent;

typedef struct ParkedStreams ParkedStreams;

/* parking.c */
extern ParkedStreams *ParkedStreamsCreate(MemoryContext context);
extern void ParkedStreamsLoad(ParkedStreams *streams, const char *name);
extern bool ParkedStreamsHave(const ParkedStreams *streams, Oid event_table, const char *stream_id);
extern bool ParkedStreamsIsEmpty(const ParkedStreams *streams);
extern void ParkedStreamsAdd(ParkedStreams *streams, Oid event_table, const char *stream_id);
extern void ParkCause(const char *name, const ParkedEvent *event, const ProjectionError *error, int attempts);
extern void ParkBehind(const char *name, List *events);
extern void ParkedDelete(const char *name);

/* create.c */
extern void ProjectionCheckSettings(const Projection *projection);
extern void ProjectionCheckBatchSize(int batch_size);
extern void ProjectionSetHandler(Projection *projection, FunctionCallInfo fcinfo, int arg);

/* control.c */
extern Projection *ProjectionOwned(const char *name);
extern Projection *ProjectionToChange(FunctionCallInfo fcinfo, ProjectionProgress *progress);
extern void ProjectionSaveChange(Projection *projection, ProjectionProgress *progress);

/* How a rebuild goes about it. */
typedef struct RebuildOptions
{
	int			max_rate;		/* events a second, 0 for no limit */
	int			parallel;		/* workers */
	int			batch_size;		/* 0: as large as is good for it */
} RebuildOptions;

/* rebuild.c */
extern void RebuildStart(const Projection *projection, const RebuildOptions *options);
extern bool RebuildCancel(const char *name);
extern bool RebuildShareDone(const Projection *share);
extern bool RebuildSwap(Projection *rebuild, ProjectionProgress *progress);
extern bool RebuildWasAskedFor(const char *name);
extern void RebuildTryAgain(const char *name, const char *on_error);
extern bool RebuildIsHeldUp(const Projection *rebuild);

/* rebuild_check.c */
extern void CheckTablesNotShared(const Projection *projection);
extern void CheckTablesNotReferenced(const Projection *projection);

/* copies.c */
extern char *CopiesObstacle(const Projection *projection);
extern ArrayType *CopiesCreate(const Projection *projection, const char *schema, bool foreign_keys);
extern void CopiesLockForExchange(const Projection *projection, ArrayType *copies);
extern void CopiesExchange(const Projection *projection, ArrayType *copies);
extern void CopiesDrop(const char *schema);

/* Tables, and those that take their places; NULL: none. */
typedef struct Redirection
{
	ArrayType  *from;			/* regclass[] */
	ArrayType  *to;
} Redirection;

/* redirect.c */
extern void RedirectInit(void);
extern Redirection Redirect(Redirection to);

/* inline.c */
extern void InlineAttach(Projection *projection);
extern void InlineDetach(const Projection *projection);
extern void InlineLockSources(const Projection *projection);
extern int64 InlineLastEventId(const Projection *projection);
extern bool InlineTriggersLive(const char *name, ArrayType *sources);
extern void InlineReplay(Projection *projection, int64 after_id);

/* Which events of an inline projection's sources to hand to a handler. */
typedef struct InlineEvents
{
	Snapshot	snapshot;		/* NULL: the newest */
	int64		after_id;
	int64		upto_id;
	const ParkedStreams *streams;	/* with InvalidOid as table; NULL: all */
} InlineEvents;

extern void InlineApply(Handler *handler, const InlineEvents *events);

#endif							/* DAYBOOK_PROJECTION_H */

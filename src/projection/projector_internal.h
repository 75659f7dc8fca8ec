/*-------------------------------------------------------------------------
 *
 * projector_internal.h
 *	  What the parts of a projection's worker share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PROJECTOR_INTERNAL_H
#define DAYBOOK_PROJECTOR_INTERNAL_H

#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "worker/worker_state.h"

typedef enum ProjectorStep
{
	STEP_MORE,					/* there is more to do now */
	STEP_CAUGHT_UP,				/* wait for the log to grow */
	STEP_PAUSE,					/* wait until retry_at */
	STEP_EXIT					/* the projection needs no worker any more */
} ProjectorStep;

typedef struct Projector
{
	const char *name;
	ProjectorSlot *slot;
	DatabaseState *database;
	MemoryContext batch_context;

	bool		had_turn;		/* since the projection was claimed */
	bool		claimed;		/* the fields below are those of the row */
	bool		checked;		/* the position is not ahead of the log */
	int64		generation;
	int64		position;
	int			attempts;
	TimestampTz retry_at;
	ItemPointerData progress_tid;	/* where the row was when this worker wrote it last */

	Suspects	suspects;
	int64		batch_size;		/* events in a batch, fewer for a while after an error */
	int64		max_batch_size;	/* what the projection says */
	bool		stream_failed;	/* batches are stored from now on */
	bool		swapping;		/* a rebuild is exchanging the tables */
	int			swap_attempts;
	MemoryContext parked_context;
	ParkedStreams *parked;		/* streams whose events are not applied for now */

	uint64		wait_beyond;	/* nothing to do until the log's head is above this */
	XLogRecPtr	sequenced;		/* as those who wait have been told last */

	/* the batch in hand, for when it fails */
	int64		wanted;			/* events asked for, 0 if none yet */
	bool		has_batch;		/* they have been read */
	bool		parks;			/* a failing event is set aside */
	EventBatch	batch;
	int64		batch_end;		/* position after it */
	char	   *first_stream;	/* of its first event */
	List	   *queued;			/* ParkedEvents met on the way */
	List	   *unreadable;		/* UnreadableEvents: causes of parking met on the way */
	ParkedStreams *unreadable_streams;	/* of these, NULL if there are none */
} Projector;

/* projector.c */
extern void ProjectorMoved(Projector *projector, const ProjectionProgress *progress);
extern void ProjectorForgetClaim(Projector *projector);

/* projector_batch.c */
extern void ProjectorBatchBegin(Projector *projector);
extern bool ProjectorBatchRead(Projector *projector, Handler *handler, int64 *position);
extern void ProjectorBatchApply(Projector *projector, Handler *handler);
extern void ProjectorParkPassed(Projector *projector);
extern void ProjectorPassedParked(Projector *projector);
extern int	ProjectorShareOfRate(const Projection *projection);

/* projector_failure.c */
extern bool ProjectorWasBrokenOff(Projector *projector, ErrorData *error);
extern void ProjectorBatchFailed(Projector *projector, ErrorData *error);
extern void ProjectorReportFailure(Projector *projector, int64 position, ErrorData *error);

#endif							/* DAYBOOK_PROJECTOR_INTERNAL_H */

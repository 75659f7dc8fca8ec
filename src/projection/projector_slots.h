/*-------------------------------------------------------------------------
 *
 * projector_slots.h
 *	  Shared memory of the projection workers: which projection each keeps,
 *	  and how it is told of changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_PROJECTOR_SLOTS_H
#define DAYBOOK_PROJECTOR_SLOTS_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"

/*
 * One worker.  All fields are protected by the slots' lock, except that the
 * worker itself reads its flags without it, and writes what it has applied.
 *
 *		free --ProjectorSlotReserve--> starting --ProjectorSlotAttach--> running
 *		  ^                               |                                 |
 *		  +---------ProjectorSlotFree-----+---------ProjectorSlotDetach-----+
 *
 * A free slot remembers who left it in an error, so that a worker that cannot
 * start is not started over and over.
 */
typedef struct ProjectorSlot
{
	Oid			database;		/* InvalidOid: free */
	uint64		launch;			/* number of this launch: a worker that comes too late sees another */
	pid_t		pid;			/* 0 while starting */
	TimestampTz since;			/* of the launch, or when it became free */
	Oid			failed_in;		/* free: the database, if its last worker ended in an error */
	volatile bool in_batch;		/* an interrupt ends the batch */
	volatile bool stop;			/* the worker shall exit after its batch */
	TimestampTz asked_at;		/* when it was told so */
	volatile bool changed;		/* the projection's definition or progress was changed */
	volatile bool idle;			/* nothing to do at present */
	volatile bool crowded;		/* others wait for a place: the supervisor wants to hear of idleness */
	char		name[NAMEDATALEN];	/* the projection */

	/* what has been applied and committed, to be believed while at_work and not changed */
	volatile bool at_work;		/* it knows the projection's row, and goes on by itself */
	pg_atomic_uint64 position;
	pg_atomic_uint64 applied_lsn;	/* events of commits up to here, 0: unknown */
} ProjectorSlot;

/* What a worker is given at its start, in bgw_extra. */
typedef struct ProjectorLaunch
{
	Oid			database;
	int			slot;
	uint64		launch;
	char		name[NAMEDATALEN];
} ProjectorLaunch;

/* from the module's shared memory hooks */
extern void ProjectorShmemRequest(void);
extern void ProjectorShmemInit(void);

/* for the supervisor */
extern bool ProjectorSlotReserve(const char *name, ProjectorLaunch *launch);
extern void ProjectorSlotFree(const ProjectorLaunch *launch);
extern bool ProjectorSlotFind(const char *name, ProjectorSlot *copy);
extern List *ProjectorSlotList(void);
extern bool ProjectorSlotsTrim(void);
extern bool ProjectorSlotsVacate(int count, TimestampTz since_before);

/* for the worker */
extern ProjectorSlot *ProjectorSlotAttach(const ProjectorLaunch *launch);
extern bool ProjectorSlotTakeChanged(ProjectorSlot *slot);
extern void ProjectorSlotNoteReach(ProjectorSlot *slot, int64 position, XLogRecPtr applied_lsn);
extern void ProjectorSlotDetach(ProjectorSlot *slot, bool failed);

/* How far a projection's worker has come, as far as it can tell. */
typedef struct ProjectorReach
{
	XLogRecPtr	applied_lsn;
	int64		position;
} ProjectorReach;

/* for sessions */
extern bool ProjectorSlotReach(const char *name, ProjectorReach *reach);
extern void ProjectionLockFromWorker(const char *name);
extern void ProjectorNotifyAtCommit(const char *name);

#endif							/* DAYBOOK_PROJECTOR_SLOTS_H */

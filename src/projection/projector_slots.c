/*-------------------------------------------------------------------------
 *
 * projector_slots.c
 *	  Shared memory of the projection workers; projector_slots.h has the
 *	  states of a slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "daybook.h"
#include "miscadmin.h"
#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

#define SLOTS_TRANCHE	"daybook_projectors"

/*
 * Milliseconds after which a worker that was asked to leave is not waited for
 * any more: its handler may be a long one, and another worker is asked too.
 */
#define LEAVE_TIMEOUT	1000

typedef struct ProjectorShared
{
	uint64		launches;
	ProjectorSlot slots[FLEXIBLE_ARRAY_MEMBER];
} ProjectorShared;

/* NULL in a session of a server that has not loaded the library: it has no workers */
static ProjectorShared *shared = NULL;
static LWLock *slots_lock = NULL;

/* names of projections changed by this transaction, in TopMemoryContext */
static List *changed_names = NIL;

static int	count_slots(Oid database, bool leaving);
static bool ask_to_leave(TimestampTz since_before);
static void interrupt_worker(const char *name);
static ProjectorSlot *find_slot(Oid database, const char *name);
static ProjectorSlot *find_free_slot(const char *name);
static void notify_workers(XactEvent event, void *arg);

static Size
shared_size(void)
{
	return add_size(offsetof(ProjectorShared, slots),
					mul_size(sizeof(ProjectorSlot), max_worker_processes));
}

void
ProjectorShmemRequest(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(SLOTS_TRANCHE, 1);
}

void
ProjectorShmemInit(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("daybook projectors", shared_size(), &found);
	if (!found)
		memset(shared, 0, shared_size());
	slots_lock = &GetNamedLWLockTranche(SLOTS_TRANCHE)->lock;
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Takes a slot for a projection of this database; false if it has as many
 * workers as it may have.
 */
bool
ProjectorSlotReserve(const char *name, ProjectorLaunch *launch)
{
	ProjectorSlot *slot;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot = count_slots(MyDatabaseId, false) < daybook_max_projectors ? find_free_slot(name) : NULL;
	if (slot != NULL)
	{
		memset(slot, 0, sizeof(ProjectorSlot));
		pg_atomic_init_u64(&slot->position, 0);
		pg_atomic_init_u64(&slot->applied_lsn, InvalidXLogRecPtr);
		slot->database = MyDatabaseId;
		slot->launch = ++shared->launches;
		slot->since = GetCurrentTimestamp();
		strlcpy(slot->name, name, NAMEDATALEN);

		memset(launch, 0, sizeof(ProjectorLaunch));
		launch->database = MyDatabaseId;
		launch->slot = slot - shared->slots;
		launch->launch = slot->launch;
		strlcpy(launch->name, name, NAMEDATALEN);
	}
	LWLockRelease(slots_lock);
	return slot != NULL;
}

/* Gives back the slot of a worker that did not start. */
void
ProjectorSlotFree(const ProjectorLaunch *launch)
{
	ProjectorSlot *slot = &shared->slots[launch->slot];

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (slot->launch == launch->launch && slot->pid == 0)
		slot->database = InvalidOid;
	LWLockRelease(slots_lock);
}

/*
 * Copies the slot of a projection of this database.  If it has none, the one
 * that its last worker left in an error, with database InvalidOid.
 */
bool
ProjectorSlotFind(const char *name, ProjectorSlot *copy)
{
	ProjectorSlot *slot;

	LWLockAcquire(slots_lock, LW_SHARED);
	slot = find_slot(MyDatabaseId, name);
	for (int i = 0; slot == NULL && i < max_worker_processes; i++)
	{
		ProjectorSlot *left = &shared->slots[i];

		if (!OidIsValid(left->database) && left->failed_in == MyDatabaseId &&
			strcmp(left->name, name) == 0)
			slot = left;
	}
	if (slot != NULL)
		*copy = *slot;
	LWLockRelease(slots_lock);
	return slot != NULL;
}

/* Copies of this database's slots that are in use. */
List *
ProjectorSlotList(void)
{
	List	   *result = NIL;

	if (shared == NULL)
		return NIL;
	LWLockAcquire(slots_lock, LW_SHARED);
	for (int i = 0; i < max_worker_processes; i++)
	{
		if (shared->slots[i].database == MyDatabaseId)
		{
			ProjectorSlot *copy = palloc(sizeof(ProjectorSlot));

			*copy = shared->slots[i];
			result = lappend(result, copy);
		}
	}
	LWLockRelease(slots_lock);
	return result;
}

/* Has surplus workers end after daybook.max_projectors was lowered. */
bool
ProjectorSlotsTrim(void)
{
	int			surplus;
	bool		asked = false;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	surplus = count_slots(MyDatabaseId, false) - count_slots(MyDatabaseId, true) - daybook_max_projectors;
	for (; surplus > 0; surplus--)
		asked |= ask_to_leave(PG_INT64_MAX);
	LWLockRelease(slots_lock);
	return asked;
}

/*
 * Has so many workers of this database make room for other projections: idle
 * ones first, then those with the longest turns that began before the given
 * time.
 */
bool
ProjectorSlotsVacate(int count, TimestampTz since_before)
{
	bool		asked = false;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < max_worker_processes; i++)
		if (shared->slots[i].database == MyDatabaseId)
			shared->slots[i].crowded = count > 0;
	/* those asked before may still be on their way out */
	for (count -= count_slots(MyDatabaseId, true); count > 0; count--)
		asked |= ask_to_leave(since_before);
	LWLockRelease(slots_lock);
	return asked;
}

static bool
ask_to_leave(TimestampTz since_before)
{
	ProjectorSlot *chosen = NULL;

	for (int i = 0; i < max_worker_processes; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (slot->database != MyDatabaseId || slot->pid == 0 || slot->stop ||
			(!slot->idle && slot->since >= since_before))
			continue;
		if (chosen == NULL || (slot->idle && !chosen->idle) ||
			(slot->idle == chosen->idle && slot->since < chosen->since))
			chosen = slot;
	}
	if (chosen != NULL)
	{
		chosen->stop = true;
		chosen->asked_at = GetCurrentTimestamp();
	}
	return chosen != NULL;
}

/* A database's slots in use, or those of them whose workers are about to leave. */
static int
count_slots(Oid database, bool leaving)
{
	TimestampTz now = GetCurrentTimestamp();
	int			count = 0;

	for (int i = 0; i < max_worker_processes; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (slot->database == database &&
			(!leaving || (slot->stop && !TimestampDifferenceExceeds(slot->asked_at, now, LEAVE_TIMEOUT))))
			count++;
	}
	return count;
}

/* Makes the calling worker the slot's; NULL if it was given to another. */
ProjectorSlot *
ProjectorSlotAttach(const ProjectorLaunch *launch)
{
	ProjectorSlot *slot = &shared->slots[launch->slot];
	bool		mine;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	mine = slot->launch == launch->launch && slot->database == launch->database;
	if (mine)
		slot->pid = MyProcPid;
	LWLockRelease(slots_lock);
	return mine ? slot : NULL;
}

/* Says whether the projection was changed since it was asked last. */
bool
ProjectorSlotTakeChanged(ProjectorSlot *slot)
{
	bool		changed;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	changed = slot->changed;
	if (changed)
	{
		slot->at_work = false;
		pg_atomic_write_u64(&slot->applied_lsn, InvalidXLogRecPtr);
	}
	slot->changed = false;
	LWLockRelease(slots_lock);
	return changed;
}

/*
 * The worker has come to a position, with all events of commits up to the LSN
 * applied, which is invalid where it cannot tell.
 */
void
ProjectorSlotNoteReach(ProjectorSlot *slot, int64 position, XLogRecPtr applied_lsn)
{
	pg_atomic_write_u64(&slot->position, position);
	pg_write_barrier();
	if (applied_lsn > pg_atomic_read_u64(&slot->applied_lsn))
		pg_atomic_write_u64(&slot->applied_lsn, applied_lsn);
}

/*
 * How far the worker of a projection has come; false if there is none, or it
 * will not go on by itself, or has to look at the projection anew.
 */
bool
ProjectorSlotReach(const char *name, ProjectorReach *reach)
{
	ProjectorSlot *slot;
	bool		at_work;

	LWLockAcquire(slots_lock, LW_SHARED);
	slot = find_slot(MyDatabaseId, name);
	at_work = slot != NULL && slot->at_work && !slot->stop && !slot->changed;
	if (at_work)
	{
		reach->applied_lsn = pg_atomic_read_u64(&slot->applied_lsn);
		pg_read_barrier();
		reach->position = pg_atomic_read_u64(&slot->position);
	}
	LWLockRelease(slots_lock);
	return at_work;
}

void
ProjectorSlotDetach(ProjectorSlot *slot, bool failed)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot->failed_in = failed ? slot->database : InvalidOid;
	slot->database = InvalidOid;
	slot->pid = 0;
	slot->at_work = false;
	slot->since = GetCurrentTimestamp();
	LWLockRelease(slots_lock);
}

/*
 * Locks a projection, breaking off the batch that its worker is in.  The worker
 * then looks at the projection anew.
 */
void
ProjectionLockFromWorker(const char *name)
{
	if (ProjectionLockIfFree(name))
		return;
	ProjectionGateClose(name);
	interrupt_worker(name);
	ProjectionLock(name);
	ProjectionGateOpen(name);
}

static void
interrupt_worker(const char *name)
{
	ProjectorSlot *slot;

	if (shared == NULL)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot = find_slot(MyDatabaseId, name);
	if (slot != NULL && slot->pid != 0)
	{
		slot->changed = true;
		if (slot->in_batch)
			(void) kill(slot->pid, SIGINT);
	}
	LWLockRelease(slots_lock);
}

/* Has the worker of a projection look at it anew when this transaction commits. */
void
ProjectorNotifyAtCommit(const char *name)
{
	static bool registered = false;
	MemoryContext save;

	if (shared == NULL)
		return;
	if (!registered)
	{
		RegisterXactCallback(notify_workers, NULL);
		registered = true;
	}
	save = MemoryContextSwitchTo(TopMemoryContext);
	changed_names = lappend(changed_names, pstrdup(name));
	MemoryContextSwitchTo(save);
	SuperviseAtCommit();
}

static ProjectorSlot *
find_slot(Oid database, const char *name)
{
	for (int i = 0; i < max_worker_processes; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (slot->database == database && strcmp(slot->name, name) == 0)
			return slot;
	}
	return NULL;
}

/* A free slot, rather not one that still tells of a failure elsewhere. */
static ProjectorSlot *
find_free_slot(const char *name)
{
	ProjectorSlot *result = NULL;

	for (int i = 0; i < max_worker_processes; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (OidIsValid(slot->database))
			continue;
		if (slot->failed_in == MyDatabaseId && strcmp(slot->name, name) == 0)
			return slot;
		if (result == NULL || (OidIsValid(result->failed_in) && !OidIsValid(slot->failed_in)))
			result = slot;
	}
	return result;
}

/*
 * At commit; nothing here may fail.  Before it, too, so that nobody believes
 * what the worker says when others can see the change already.  After an
 * abort nothing has changed: a worker whose own batch it was would forget what
 * it knows of the failure.
 */
static void
notify_workers(XactEvent event, void *arg)
{
	bool		before = event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE;
	DatabaseState *database;
	ListCell   *lc;

	if (changed_names == NIL ||
		(!before && event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		 event != XACT_EVENT_PREPARE))
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	foreach(lc, changed_names)
	{
		ProjectorSlot *slot = find_slot(MyDatabaseId, lfirst(lc));

		if (slot != NULL && event != XACT_EVENT_ABORT)
			slot->changed = true;
	}
	LWLockRelease(slots_lock);
	if (before)
		return;
	list_free_deep(changed_names);
	changed_names = NIL;

	database = MyDatabaseState();
	if (database != NULL)
	{
		ConditionVariableBroadcast(&database->published);
		/* who waits for a projection that was paused or dropped is to be told */
		ConditionVariableBroadcast(&database->projected);
	}
}

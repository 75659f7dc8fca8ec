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
#include "projection/projector_slots.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/worker_state.h"

#define SLOTS_TRANCHE	"daybook_projectors"

typedef struct ProjectorShared
{
	uint64		launches;
	ProjectorSlot slots[FLEXIBLE_ARRAY_MEMBER];
} ProjectorShared;

static ProjectorShared *shared = NULL;
static LWLock *slots_lock = NULL;

/* names of projections changed by this transaction, in TopMemoryContext */
static List *changed_names = NIL;

static ProjectorSlot *find_slot(Oid database, const char *name);
static ProjectorSlot *find_free_slot(const char *name);
static void notify_workers(XactEvent event, void *arg);

static Size
shared_size(void)
{
	return add_size(offsetof(ProjectorShared, slots),
					mul_size(sizeof(ProjectorSlot), daybook_max_projectors));
}

void
ProjectorShmemRequest(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(SLOTS_TRANCHE, 1);
}

/* The caller holds AddinShmemInitLock. */
void
ProjectorShmemInit(void)
{
	bool		found;

	shared = ShmemInitStruct("daybook projectors", shared_size(), &found);
	if (!found)
		memset(shared, 0, shared_size());
	slots_lock = &GetNamedLWLockTranche(SLOTS_TRANCHE)->lock;
}

/* Takes a slot for a projection of this database; false if none is free. */
bool
ProjectorSlotReserve(const char *name, ProjectorLaunch *launch)
{
	ProjectorSlot *slot;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot = find_free_slot(name);
	if (slot != NULL)
	{
		memset(slot, 0, sizeof(ProjectorSlot));
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
	for (int i = 0; slot == NULL && i < daybook_max_projectors; i++)
	{
		ProjectorSlot *left = &shared->slots[i];

		if (!OidIsValid(left->database) && left->failed && strcmp(left->name, name) == 0)
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

	LWLockAcquire(slots_lock, LW_SHARED);
	for (int i = 0; i < daybook_max_projectors; i++)
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

/*
 * Asks one worker of this database to make room for another projection: an
 * idle one if there is any, else the one that has had the longest turn, if
 * that began early enough.
 */
bool
ProjectorSlotYield(TimestampTz since_before)
{
	ProjectorSlot *chosen = NULL;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < daybook_max_projectors; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (slot->database != MyDatabaseId || slot->pid == 0)
			continue;
		if (slot->stop)
		{
			/* the one asked before is still on its way out */
			chosen = slot;
			break;
		}
		if (!slot->idle && slot->since >= since_before)
			continue;
		if (chosen == NULL || (slot->idle && !chosen->idle) ||
			(slot->idle == chosen->idle && slot->since < chosen->since))
			chosen = slot;
	}
	if (chosen != NULL)
		chosen->stop = true;
	LWLockRelease(slots_lock);
	return chosen != NULL;
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
	slot->changed = false;
	LWLockRelease(slots_lock);
	return changed;
}

void
ProjectorSlotDetach(ProjectorSlot *slot, bool failed)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot->database = InvalidOid;
	slot->pid = 0;
	slot->failed = failed;
	slot->since = GetCurrentTimestamp();
	LWLockRelease(slots_lock);
}

/*
 * Breaks off the batch that a projection's worker is in.  The worker then
 * waits for the projection's lock, which the caller is about to take, and
 * looks at the projection anew.
 */
void
ProjectorInterrupt(const char *name)
{
	ProjectorSlot *slot;

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

void
ProjectorsTerminate(Oid database)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < daybook_max_projectors; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (slot->database != database)
			continue;
		if (slot->pid != 0)
			(void) kill(slot->pid, SIGTERM);
		else
			slot->database = InvalidOid;	/* it will not be let in */
	}
	LWLockRelease(slots_lock);
}

static ProjectorSlot *
find_slot(Oid database, const char *name)
{
	for (int i = 0; i < daybook_max_projectors; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (slot->database == database && strcmp(slot->name, name) == 0)
			return slot;
	}
	return NULL;
}

/* The slot that a failed worker of this projection left, or else any free one. */
static ProjectorSlot *
find_free_slot(const char *name)
{
	ProjectorSlot *result = NULL;

	for (int i = 0; i < daybook_max_projectors; i++)
	{
		ProjectorSlot *slot = &shared->slots[i];

		if (OidIsValid(slot->database))
			continue;
		if (result == NULL || strcmp(slot->name, name) == 0 ||
			(result->failed && !slot->failed && strcmp(result->name, name) != 0))
			result = slot;
	}
	return result;
}

/* At commit; nothing here may fail. */
static void
notify_workers(XactEvent event, void *arg)
{
	DatabaseState *database;
	ListCell   *lc;

	if (changed_names == NIL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	foreach(lc, changed_names)
	{
		ProjectorSlot *slot = find_slot(MyDatabaseId, lfirst(lc));

		if (slot != NULL)
			slot->changed = true;
	}
	LWLockRelease(slots_lock);
	list_free_deep(changed_names);
	changed_names = NIL;

	database = MyDatabaseState();
	if (database != NULL)
		ConditionVariableBroadcast(&database->published);
}

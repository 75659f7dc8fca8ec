/*-------------------------------------------------------------------------
 *
 * daybook.c
 *	  Module entry: settings, hooks, and the OIDs of our own objects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "fold/fold.h"
#include "miscadmin.h"
#include "parallel_check.h"
#include "projection/projection.h"
#include "projection/projector_slots.h"
#include "replay/row_function.h"
#include "schema/event_check.h"
#include "schema/upcast.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "worker/launcher.h"
#include "worker/worker_state.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(daybook_require_preload);

PGDLLEXPORT void _PG_init(void);

#define DEFAULT_VERSION_CACHE_SIZE	16384	/* kB */
#define MAX_VERSION_CACHE_SIZE		(1024 * 1024)
#define DEFAULT_MAX_DATABASES	16
#define MIN_MAX_DATABASES		1
#define MAX_MAX_DATABASES		1024
#define DEFAULT_MAX_PROJECTORS	8
#define MIN_MAX_PROJECTORS		0
#define MAX_MAX_PROJECTORS		1024
#define DEFAULT_NOTIFY_INTERVAL	10	/* milliseconds */
#define MIN_NOTIFY_INTERVAL		(-1)
#define MAX_NOTIFY_INTERVAL		60000

char	   *daybook_metadata = NULL;
bool		daybook_restore = false;
bool		daybook_decoding = true;
bool		daybook_early_lock_release = false;
int			daybook_version_cache_size = DEFAULT_VERSION_CACHE_SIZE;
int			daybook_max_databases = DEFAULT_MAX_DATABASES;
int			daybook_max_projectors = DEFAULT_MAX_PROJECTORS;
int			daybook_notify_interval = DEFAULT_NOTIFY_INTERVAL;

static DaybookOids oids;
static bool oids_valid = false;
static uint64 catalog_changes = 0;	/* that may concern them */

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void define_settings(void);
static void request_shared_memory(void);
static void start_shared_memory(void);
static void forget_oids(Datum arg, int cacheid, uint32 hashvalue);
static void look_up_oids(void);
static Oid	look_up_function(const char *name, oidvector *arguments, Oid schema);

void
_PG_init(void)
{
	define_settings();

	/*
	 * Binary upgrade copies what is there; nothing may guard it, order it or
	 * wake a worker.
	 */
	if (IsBinaryUpgrade)
		return;

	GuardInit();
	AppendCallbacksInit();
	EventCheckInit();
	ParallelChecksInit();
	UpcastCallsInit();
	WorkerCallbacksInit();
	EarlyLockReleaseInit();
	DatabaseCommandsInit();
	RowFunctionsInit();
	FoldAllInit();
	RedirectInit();
	TrustInit();
	TrustPlansInit();
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shared_memory;
	LauncherInit();
}

static void
define_settings(void)
{
	DefineCustomStringVariable("daybook.metadata",
							   "Metadata of every event that this session appends.",
							   "A JSON object, such as {\"actor\": \"alice\"}. A key that the event itself has wins.",
							   &daybook_metadata,
							   "",
							   PGC_USERSET,
							   0,
							   CheckSessionMetadata, AssignSessionMetadata, NULL);
	DefineCustomBoolVariable("daybook.restore",
							 "Keeps id, version, recorded_at and recorded_by of inserted rows as they are given.",
							 "For loading events from a data-only dump into event tables that exist already.",
							 &daybook_restore,
							 false,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("daybook.decoding",
							 "Lets the sequencer follow the write-ahead log.",
							 "When off, or when wal_level is below logical, it finds new events by scanning.",
							 &daybook_decoding,
							 true,
							 PGC_SIGHUP,
							 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("daybook.early_lock_release",
							 "Lets the next append to a stream begin before this one is on disk.",
							 "The commit itself still waits for the disk as synchronous_commit says.",
							 &daybook_early_lock_release,
							 false,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);
	/* too late for settings of this kind, and fatal, in a running server */
	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomIntVariable("daybook.max_databases",
								"Number of databases of this server that can have the extension.",
								NULL,
								&daybook_max_databases,
								DEFAULT_MAX_DATABASES, MIN_MAX_DATABASES, MAX_MAX_DATABASES,
								PGC_POSTMASTER,
								0,
								NULL, NULL, NULL);
		DefineCustomIntVariable("daybook.version_cache_size",
								"Shared memory for the last versions of streams.",
								"A stream takes about 100 bytes. Those that are not there are looked up in the index.",
								&daybook_version_cache_size,
								DEFAULT_VERSION_CACHE_SIZE, 0, MAX_VERSION_CACHE_SIZE,
								PGC_POSTMASTER,
								GUC_UNIT_KB,
								NULL, NULL, NULL);
	}
	DefineCustomIntVariable("daybook.max_projectors",
							"Number of projections of a database that run at the same time.",
							"Each takes one of max_worker_processes.",
							&daybook_max_projectors,
							DEFAULT_MAX_PROJECTORS, MIN_MAX_PROJECTORS, MAX_MAX_PROJECTORS,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("daybook.notify_interval",
							"Least time between two notifications on channel daybook.",
							"What is published meanwhile is told with the next one. -1 turns them off.",
							&daybook_notify_interval,
							DEFAULT_NOTIFY_INTERVAL, MIN_NOTIFY_INTERVAL, MAX_NOTIFY_INTERVAL,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("daybook");
}

static void
request_shared_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(WorkerStateSize());
	RequestAddinShmemSpace(VersionCacheSize());
	RequestNamedLWLockTranche(DAYBOOK_EXTENSION, 1);
	ProjectorShmemRequest();
}

static void
start_shared_memory(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	WorkerStateInit();
	VersionCacheInit();
	ProjectorShmemInit();
}

/*
 * Called first by the install script: nothing is created without the preload.
 * When the script's transaction commits, the database gets its worker.
 */
Datum
daybook_require_preload(PG_FUNCTION_ARGS)
{
	RequirePreload();
	StartDatabaseWorkerAtCommit();
	PG_RETURN_VOID();
}

/* The extension's objects; valid until the catalogs change. */
const DaybookOids *
GetDaybookOids(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_oids, (Datum) 0);
		CacheRegisterSyscacheCallback(AMOID, forget_oids, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, forget_oids, (Datum) 0);
		registered = true;
	}
	if (!oids_valid)
		look_up_oids();
	return &oids;
}

static void
forget_oids(Datum arg, int cacheid, uint32 hashvalue)
{
	oids_valid = false;
	catalog_changes++;
}

static void
look_up_oids(void)
{
	const Oid	uuid = UUIDOID;
	uint64		changes = catalog_changes;
	DaybookOids found = {0};

	found.extension = get_extension_oid(DAYBOOK_EXTENSION, true);
	/* without it, a schema of that name is a user's */
	if (OidIsValid(found.extension))
	{
		found.schema = get_namespace_oid(DAYBOOK_SCHEMA, true);
		found.access_method = get_am_oid("daybook", true);
	}
	if (OidIsValid(found.schema))
	{
		found.event_type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										   CStringGetDatum("event"),
										   ObjectIdGetDatum(found.schema));
		found.event_id_seq = get_relname_relid("event_id_seq", found.schema);
		found.event_table = get_relname_relid("event_table", found.schema);
		found.event_trigger_function = look_up_function("event_before_insert",
														buildoidvector(NULL, 0), found.schema);
		found.event_id_given_function = look_up_function("event_id_given",
														 buildoidvector(&uuid, 1), found.schema);
	}
	oids = found;
	/* some may be those of before a change that came in between */
	oids_valid = changes == catalog_changes && OidIsValid(found.extension) &&
		OidIsValid(found.event_trigger_function);
}

static Oid
look_up_function(const char *name, oidvector *arguments, Oid schema)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						   PointerGetDatum(arguments), ObjectIdGetDatum(schema));
}

/*
 * Holds off DROP EXTENSION until the transaction ends; InvalidOid if the
 * extension is gone.
 */
Oid
LockDaybookExtension(void)
{
	Oid			extension = GetDaybookOids()->extension;

	if (!OidIsValid(extension))
		return InvalidOid;

	/* taking a lock makes known what was dropped meanwhile */
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	return GetDaybookOids()->extension == extension ? extension : InvalidOid;
}

/* A relation of the extension's schema, which must be there. */
Oid
DaybookRelation(const char *name)
{
	Oid			relid = get_relname_relid(name, GetDaybookOids()->schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"daybook.%s\" does not exist", name),
				 errhint("Is the extension daybook installed in this database?")));
	return relid;
}

/*
 * The name of a function of the extension's schema, NULL of any other.  One
 * that has been dropped has no schema; nor has the extension where it is not
 * installed.
 */
char *
DaybookFunctionName(Oid function)
{
	Oid			schema;

	/* most functions are none of ours */
	if (function < FirstNormalObjectId)
		return NULL;
	schema = get_func_namespace(function);
	return OidIsValid(schema) && schema == GetDaybookOids()->schema ? get_func_name(function) : NULL;
}

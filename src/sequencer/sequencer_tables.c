/*-------------------------------------------------------------------------
 *
 * sequencer_tables.c
 *	  The event tables, as far as they can be sequenced, and the publication
 *	  by which their inserts are decoded.
 *
 * The list is read from the registry again whenever some relation has
 * changed.  It is never waited for a table: one that somebody has locked
 * exclusively, or whose keys a restore has yet to make, is left out.  What is
 * found in the others meanwhile goes past its events, so it joins the list
 * only when all are looked for from the stored marks again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "daybook.h"
#include "event_table/event_table.h"
#include "event_table/registry.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "sequencer/sequencer_internal.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/*
 * The transaction that makes a table can be seen by others shortly before it
 * lets go of its locks; so long a new table is waited for.
 */
#define LOCK_TRIES		20
#define LOCK_PAUSE		1000	/* microseconds */

typedef enum TableState
{
	TABLE_READY,
	TABLE_UNFINISHED,			/* a restore has yet to make its keys */
	TABLE_LOCKED,
	TABLE_GONE
} TableState;

static MemoryContext list_context = NULL;
static List *tables = NIL;		/* SequencedTable */
static List *left_out = NIL;	/* their OIDs, until TablesRefresh() tells of them */
static List *foreign = NIL;		/* tables known not to be ours */

/* What the relcache has said nothing against since. */
static bool list_valid = false;
static bool publication_valid = false;

static bool all_published = false;	/* all that are listed are in the publication */
static bool publication_exists = true;
static bool was_unpublished = false;	/* since TablesRefresh() told of that */

static void forget_tables(Datum arg, Oid relid);
static void forget_publication(Datum arg, int cacheid, uint32 hashvalue);
static void forget_foreign(void);
static bool read_tables(bool scanning, bool joining);
static TableState examine(Oid relid, bool scanning, bool is_new);
static bool lock_table(Oid relid, bool is_new);
static const SequencedTable *find_table(Oid relid);
static bool repair_publication(void);
static bool repair_table(Oid publication, SequencedTable *table);
static bool is_published(Oid publication, Oid relid, Oid *row);
static bool lock_for_repair(Oid publication, Oid relid);
static bool late_events_exist(void);
static bool lower_marks(void);
static void run(const char *command);

void
TablesInit(void)
{
	CacheRegisterRelcacheCallback(forget_tables, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONOID, forget_publication, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONRELMAP, forget_publication, (Datum) 0);
}

static void
forget_tables(Datum arg, Oid relid)
{
	list_valid = false;
	publication_valid = false;
}

static void
forget_publication(Datum arg, int cacheid, uint32 hashvalue)
{
	publication_valid = false;
}

/*
 * Brings the list up to date.  Who scans needs it as it is now, and gets the
 * tables locked until the end of the transaction; for who decodes it will do
 * as of the last change heard of, since TableNumber() looks again.
 *
 * True if events may have been passed over: of a table that had been left out
 * or had not been published, or restored with ids that had been passed.
 */
bool
TablesRefresh(bool scanning)
{
	bool		passed_over = false;

	if (scanning || !list_valid || left_out != NIL)
	{
		forget_foreign();
		passed_over = read_tables(scanning, true);
	}
	if (!publication_valid)
		passed_over |= repair_publication();
	if (late_events_exist())
		passed_over |= lower_marks();
	if (all_published && was_unpublished)
		passed_over = true;
	was_unpublished = !all_published;
	return passed_over;
}

List *
TablesList(void)
{
	return tables;
}

/* Can all tables be scanned? */
bool
TablesPresent(void)
{
	return left_out == NIL;
}

/* And decoded? */
bool
TablesComplete(void)
{
	return left_out == NIL && all_published;
}

/* False once the publication was looked for in vain. */
bool
TablesHavePublication(void)
{
	return publication_exists;
}

/* Why they cannot, for the status view. */
const char *
TablesHint(void)
{
	if (left_out != NIL)
		return "an event table is locked exclusively or has yet to be restored";
	if (!publication_exists)
		return "publication daybook is missing; was it renamed?";
	return "an event table that lacks in publication daybook is in use by a maintenance command";
}

/*
 * The number of a table, 0 if it is none of ours.  The news of a table that
 * has just been made can come after its first events.
 */
int32
TableNumber(Oid relid)
{
	const SequencedTable *table = find_table(relid);

	if (!list_valid)
		forget_foreign();
	if (table == NULL && !list_member_oid(foreign, relid))
	{
		(void) read_tables(false, false);
		table = find_table(relid);
		if (table == NULL && left_out == NIL)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			foreign = lappend_oid(foreign, relid);
			MemoryContextSwitchTo(old);
		}
	}
	return table ? table->table_no : 0;
}

bool
TableIsListed(Oid relid)
{
	return find_table(relid) != NULL;
}

static void
forget_foreign(void)
{
	list_free(foreign);
	foreign = NIL;
}

static const SequencedTable *
find_table(Oid relid)
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		const SequencedTable *table = lfirst(lc);

		if (table->relid == relid)
			return table;
	}
	return NULL;
}

/*
 * Reads the registry.  A table that had been left out joins the list only if
 * that is asked for; true if one has.
 */
static bool
read_tables(bool scanning, bool joining)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "daybook event tables",
												  ALLOCSET_SMALL_SIZES);
	List	   *fresh = NIL;
	List	   *out = NIL;
	bool		joined = false;
	List	   *registered;
	ListCell   *lc;

	list_valid = true;			/* first, since what follows may say otherwise */
	registered = RegisteredEventTables();
	foreach(lc, registered)
	{
		RegisteredTable *entry = lfirst(lc);
		const SequencedTable *listed = find_table(entry->relid);
		bool		was_out = list_member_oid(left_out, entry->relid);
		TableState	found = examine(entry->relid, scanning, listed == NULL && !was_out);
		MemoryContext old;

		if (found == TABLE_GONE)
			continue;
		if (found == TABLE_LOCKED)
			list_valid = false;

		/* a known one can be decoded without a look at it */
		if (found == TABLE_LOCKED && listed != NULL && !scanning)
			found = TABLE_READY;

		old = MemoryContextSwitchTo(context);
		if (found != TABLE_READY || (was_out && !joining))
			out = lappend_oid(out, entry->relid);
		else
		{
			SequencedTable *table = palloc(sizeof(SequencedTable));

			table->table_no = entry->table_no;
			table->relid = entry->relid;
			table->published_as = listed ? listed->published_as : InvalidOid;
			publication_valid &= listed != NULL;
			fresh = lappend(fresh, table);
			joined |= was_out;
		}
		MemoryContextSwitchTo(old);
	}
	if (list_context)
		MemoryContextDelete(list_context);
	list_context = context;
	tables = fresh;
	left_out = out;
	return joined;
}

/*
 * A dump restores a table's keys and triggers after its rows, so a table that
 * has them is there as a whole.
 */
static TableState
examine(Oid relid, bool scanning, bool is_new)
{
	Relation	rel;
	const EventTable *known;
	TableState	result = TABLE_READY;

	if (!lock_table(relid, is_new))
		return TABLE_LOCKED;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		return TABLE_GONE;
	}
	known = LookUpEventTable(rel);
	if (!known->is_event_table || !known->has_trigger || !OidIsValid(known->id_index))
		result = TABLE_UNFINISHED;
	else if (scanning && !ConditionalLockRelationOid(known->id_index, AccessShareLock))
		result = TABLE_LOCKED;
	relation_close(rel, scanning ? NoLock : AccessShareLock);
	return result;
}

static bool
lock_table(Oid relid, bool is_new)
{
	for (int i = 0; i < (is_new ? LOCK_TRIES : 1); i++)
	{
		if (i > 0)
			pg_usleep(LOCK_PAUSE);
		if (ConditionalLockRelationOid(relid, AccessShareLock))
			return true;
	}
	return false;
}

/*
 * Puts right what a restore without publications, or somebody's ALTER
 * PUBLICATION, has changed.  True if something was, or has been put right by
 * others, so that inserts may have been decoded in vain.
 */
static bool
repair_publication(void)
{
	Oid			publication = get_publication_oid(DAYBOOK_PUBLICATION, true);
	bool		pubinsert;
	HeapTuple	tuple;
	bool		repaired = false;
	ListCell   *lc;

	publication_valid = true;
	publication_exists = all_published = OidIsValid(publication);
	if (!publication_exists)
		return false;
	tuple = SearchSysCache1(PUBLICATIONOID, ObjectIdGetDatum(publication));
	pubinsert = ((Form_pg_publication) GETSTRUCT(tuple))->pubinsert;
	ReleaseSysCache(tuple);
	if (!pubinsert && lock_for_repair(publication, InvalidOid))
	{
		run("ALTER PUBLICATION " DAYBOOK_PUBLICATION " SET (publish = 'insert')");
		repaired = true;
	}

	/* pg_upgrade makes an extension's publication anew, and leaves it alone */
	if (getExtensionOfObject(PublicationRelationId, publication) == InvalidOid)
		PublicationJoinExtension(publication, GetDaybookOids()->extension);
	foreach(lc, tables)
		repaired |= repair_table(publication, lfirst(lc));
	if (repaired)
		ereport(LOG,
				(errmsg("publication \"" DAYBOOK_PUBLICATION "\" has been put right"),
				 errdetail("It has to publish the inserts into all event tables, with column id."),
				 errhint("Leave the publication to daybook.")));
	return repaired;
}

static bool
repair_table(Oid publication, SequencedTable *table)
{
	Oid			known = table->published_as;
	char	   *schema;
	char	   *name;

	/* another row than before: the table has been out of it meanwhile */
	if (is_published(publication, table->relid, &table->published_as))
		return OidIsValid(known) && known != table->published_as;

	if (!lock_for_repair(publication, table->relid))
		return false;
	if (is_published(publication, table->relid, &table->published_as))
		return true;
	schema = get_namespace_name(get_rel_namespace(table->relid));
	name = get_rel_name(table->relid);
	if (schema == NULL || name == NULL)
		return false;			/* dropped just now */
	name = quote_qualified_identifier(schema, name);
	if (OidIsValid(table->published_as))
		run(psprintf("ALTER PUBLICATION " DAYBOOK_PUBLICATION " DROP TABLE ONLY %s", name));
	run(psprintf("ALTER PUBLICATION " DAYBOOK_PUBLICATION " ADD TABLE ONLY %s (id)", name));
	table->published_as = InvalidOid;
	return true;
}

/*
 * Takes what ALTER PUBLICATION would wait for: the publication, which a
 * transaction that has made a table keeps locked, and the table, if there is
 * one, as against a long VACUUM.  False: next time, then.
 */
static bool
lock_for_repair(Oid publication, Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, PublicationRelationId, publication, 0);
	if (LockAcquire(&tag, AccessExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL &&
		(!OidIsValid(relid) || ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock)))
		return true;
	publication_valid = all_published = false;
	return false;
}

/* All rows, with column id alone?  *row: the publication's row of it, if there is one. */
static bool
is_published(Oid publication, Oid relid, Oid *row)
{
	HeapTuple	tuple = SearchSysCache2(PUBLICATIONRELMAP, ObjectIdGetDatum(relid),
										ObjectIdGetDatum(publication));
	bool		no_filter;
	bool		all_columns;
	Datum		columns;
	bool		result;

	*row = InvalidOid;
	if (!HeapTupleIsValid(tuple))
		return false;
	*row = ((Form_pg_publication_rel) GETSTRUCT(tuple))->oid;
	(void) SysCacheGetAttr(PUBLICATIONRELMAP, tuple, Anum_pg_publication_rel_prqual, &no_filter);
	columns = SysCacheGetAttr(PUBLICATIONRELMAP, tuple, Anum_pg_publication_rel_prattrs,
							  &all_columns);
	result = no_filter && !all_columns;
	if (result)
	{
		int2vector *vector = (int2vector *) DatumGetPointer(columns);

		result = vector->dim1 == 1 && vector->values[0] == EVENT_ID;
	}
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Were events restored whose ids may have been passed, or be in the log?  The
 * snapshot is not older than the round's: whoever sees such an event sees the
 * note, too.
 */
static bool
late_events_exist(void)
{
	Relation	rel = table_open(DaybookRelation("late_event"), AccessShareLock);
	bool		found = false;

	if (RelationGetNumberOfBlocks(rel) > 0)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);

		found = HeapTupleIsValid(systable_getnext(scan));
		systable_endscan(scan);
		UnregisterSnapshot(snapshot);
	}
	table_close(rel, AccessShareLock);
	return found;
}

/* They are looked for from here on.  False before there are marks: the notes stay. */
static bool
lower_marks(void)
{
	bool		noted;

	SPI_connect();
	if (SPI_execute("WITH late AS (DELETE FROM daybook.late_event "
					"WHERE EXISTS (SELECT FROM daybook.sequencer_state) RETURNING from_id), "
					"lowest AS (SELECT min(from_id) AS id FROM late), "
					"lowered AS (UPDATE daybook.sequencer_state SET low_water = lowest.id - 1, "
					"log_position = 0 FROM lowest WHERE lowest.id <= low_water) "
					"SELECT FROM late LIMIT 1",
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for late events");
	noted = SPI_processed > 0;
	SPI_finish();
	return noted;
}

static void
run(const char *command)
{
	int			result;

	SPI_connect();
	result = SPI_execute(command, false, 0);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\": %s", command, SPI_result_code_string(result));
	SPI_finish();
}

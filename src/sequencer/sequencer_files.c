/*-------------------------------------------------------------------------
 *
 * sequencer_files.c
 *	  What is known of the files that records change: which are event tables',
 *	  and which cannot have events in them.
 *
 * PostgreSQL's decoding keeps every row that any transaction writes until its
 * commit, opens a transaction of its own for it then, and asks the output
 * plugin about each row.  Most of what a database writes is no event: its other
 * tables, the tables of projections, the log itself, TOAST.  Records of these
 * are told by the file that they change, and never get there; nor do most of
 * the rows of event tables (sequencer_rows.c).
 *
 * A file is foreign if its table is stored as heap.  An event table is not,
 * and a table whose access method changes gets a new file; so what is known of
 * a file holds as long as there is one of that name.  A name that has become
 * free is forgotten when all WAL of its time has been decoded; OIDs have to
 * wrap around before another table can have it.  But there are tools that
 * exchange the files of two tables.  So decoding stops where an event table has
 * changed, until the files have been looked at.
 *
 * What one transaction or subtransaction does to a foreign file is decoded as
 * a whole or not at all: a row that is stored speculatively and what becomes
 * of it must not be torn apart.  Nor does a table's file, once it is seen in
 * the catalogs, say what the rows are that the command put there which made it.
 * So what was found out of a file counts for those that began after it was
 * looked up.  What is put into TOAST is never decoded, since nobody asks for the
 * columns that are there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam_xlog.h"
#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlogreader.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "compat.h"
#include "daybook.h"
#include "miscadmin.h"
#include "sequencer/sequencer_internal.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relmapper.h"
#include "utils/syscache.h"

/* relation file numbers were renamed in 16 */
#if PG_VERSION_NUM < 160000
#define spcOid spcNode
#define dbOid dbNode
#define relNumber relNode
#define RelFileLocatorEquals RelFileNodeEquals
#define RelationMapFilenumberToOid RelationMapFilenodeToOid
#endif

/* More files are not remembered; their records are decoded. */
#define MAX_FILES	4096

typedef struct KnownFile
{
	RelFileLocator file;
	char		status;			/* simplehash's */
	bool		looked_up;
	uint64		known_from;		/* full xid from which what follows holds, 0: nothing is known */
	Oid			table;			/* whose file it is */
	bool		has_events;		/* it is an event table's; else it is foreign */
	XLogRecPtr	gone_at;		/* WAL ended here when it was no table's file; invalid if it is one */
} KnownFile;

#define SH_PREFIX filehash
#define SH_ELEMENT_TYPE KnownFile
#define SH_KEY_TYPE RelFileLocator
#define SH_KEY file
#define SH_HASH_KEY(tb, key) murmurhash32((key).relNumber)
#define SH_EQUAL(tb, a, b) RelFileLocatorEquals(a, b)
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

static filehash_hash *files = NULL;
static bool look_up = false;	/* some file is new, or is no table's any more */
static bool look_again = false; /* some table has changed */
static bool look_now = false;	/* an event table has */
static uint64 next_xid;			/* at the last round */

static void table_changed(Datum arg, Oid relid);
static bool changes_rows(XLogReaderState *record);
static bool is_toast(XLogReaderState *record);
static uint64 full_xid(TransactionId xid);
static KnownFile *find_or_add(RelFileLocator file);
static void look_up_file(KnownFile *known, Relation pg_class);
static bool is_still(const KnownFile *known);
static Oid	stored_tablespace(const KnownFile *known);
static bool find_table(KnownFile *known, Relation pg_class);
static void find_out(KnownFile *known, Oid table, Oid access_method);
static bool is_known_to(const KnownFile *known, TransactionId xid);

void
FilesInit(void)
{
	files = filehash_create(TopMemoryContext, 256, NULL);
	CacheRegisterRelcacheCallback(table_changed, (Datum) 0);
}

static void
table_changed(Datum arg, Oid relid)
{
	look_again = true;
	look_now |= !OidIsValid(relid) || TableIsListed(relid);
}

/* Must no more be decoded before FilesLearn()? */
bool
FilesMayHaveChanged(void)
{
	return look_now;
}

/*
 * Can the record be left out of decoding?  If it is the first one of a
 * subtransaction it says to which transaction that belongs, which must not be.
 */
bool
RecordIsForeign(XLogReaderState *record)
{
	RelFileLocator file;
	KnownFile  *known;

	if (!changes_rows(record))
		return false;
	if (is_toast(record))
		return true;
	XLogRecGetBlockTag(record, 0, &file, NULL, NULL);
	if (file.dbOid != MyDatabaseId)
		return OidIsValid(file.dbOid);
	known = find_or_add(file);
	return is_known_to(known, XLogRecGetXid(record)) && !known->has_events;
}

/*
 * The event table whose file a record of inserts changes, if the transaction
 * began when that was known.
 */
Oid
RecordEventTable(XLogReaderState *record, TransactionId top)
{
	RelFileLocator file;
	KnownFile  *known;

	XLogRecGetBlockTag(record, 0, &file, NULL, NULL);
	known = file.dbOid == MyDatabaseId ? find_or_add(file) : NULL;
	return is_known_to(known, top) && known->has_events ? known->table : InvalidOid;
}

static bool
is_known_to(const KnownFile *known, TransactionId xid)
{
	return known != NULL && known->known_from != 0 && full_xid(xid) >= known->known_from;
}

static bool
changes_rows(XLogReaderState *record)
{
	uint8		operation = XLogRecGetInfo(record) & XLOG_HEAP_OPMASK;

	if (XLogRecGetRmid(record) == RM_HEAP2_ID)
		return operation == XLOG_HEAP2_MULTI_INSERT;
	return XLogRecGetRmid(record) == RM_HEAP_ID &&
		(operation == XLOG_HEAP_INSERT || operation == XLOG_HEAP_UPDATE ||
		 operation == XLOG_HEAP_HOT_UPDATE || operation == XLOG_HEAP_DELETE ||
		 operation == XLOG_HEAP_CONFIRM);
}

static bool
is_toast(XLogReaderState *record)
{
	return XLogRecGetRmid(record) == RM_HEAP_ID &&
		(XLogRecGetInfo(record) & XLOG_HEAP_OPMASK) == XLOG_HEAP_INSERT &&
		(((xl_heap_insert *) XLogRecGetData(record))->flags & XLH_INSERT_ON_TOAST_RELATION) != 0;
}

/* No xid in the WAL to be decoded is half the range of xids away. */
static uint64
full_xid(TransactionId xid)
{
	return next_xid + (int32) (xid - (TransactionId) next_xid);
}

/* NULL where there is no room. */
static KnownFile *
find_or_add(RelFileLocator file)
{
	KnownFile  *known = filehash_lookup(files, file);
	bool		found;

	if (known != NULL || files->members >= MAX_FILES)
		return known;
	known = filehash_insert(files, file, &found);
	known->known_from = 0;
	known->table = InvalidOid;
	known->looked_up = false;
	known->gone_at = InvalidXLogRecPtr;
	look_up = true;
	return known;
}

/*
 * Finds out whose the files are that decoding has met, and which are no
 * table's any more.  Within a transaction, after TablesRefresh().
 */
void
FilesLearn(void)
{
	filehash_iterator iterator;
	KnownFile  *known;
	bool		all = look_again;
	Relation	pg_class;

	next_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	if (!look_up && !look_again)
		return;
	look_up = look_again = look_now = false;	/* first, since what follows may say otherwise */
	pg_class = table_open(RelationRelationId, AccessShareLock);
	filehash_start_iterate(files, &iterator);
	while ((known = filehash_iterate(files, &iterator)) != NULL)
	{
		if (all || !known->looked_up)
			look_up_file(known, pg_class);
		if (XLogRecPtrIsInvalid(known->gone_at))
			continue;
		if (DecodedUpTo() >= known->gone_at)
			filehash_delete_item(files, known);
		else
			look_up = true;
	}
	table_close(pg_class, AccessShareLock);
}

/* A table that is being made cannot be seen yet; news of it will come. */
static void
look_up_file(KnownFile *known, Relation pg_class)
{
	known->looked_up = true;
	if (is_still(known) || find_table(known, pg_class) ||
		OidIsValid(RelationMapFilenumberToOid(known->file.relNumber, false)))
		known->gone_at = InvalidXLogRecPtr;
	else if (XLogRecPtrIsInvalid(known->gone_at))
		known->gone_at = GetXLogInsertRecPtr();
}

/* Nothing is left to find out, and the table has the file that it had. */
static bool
is_still(const KnownFile *known)
{
	HeapTuple	tuple;
	bool		result = false;

	if (!OidIsValid(known->table) ||
		(known->known_from == 0 && known->table >= FirstNormalObjectId))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(known->table));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_class table = (Form_pg_class) GETSTRUCT(tuple);

		result = table->relfilenode == known->file.relNumber &&
			table->reltablespace == stored_tablespace(known);
		ReleaseSysCache(tuple);
	}
	return result;
}

/* As pg_class has it. */
static Oid
stored_tablespace(const KnownFile *known)
{
	return known->file.spcOid == MyDatabaseTableSpace ? InvalidOid : known->file.spcOid;
}

/*
 * Finds the table whose file that is.  Not by PostgreSQL's cache of file
 * names: that there is none would be kept there, and an open transaction's
 * tables could not be decoded.
 */
static bool
find_table(KnownFile *known, Relation pg_class)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			found = InvalidOid;
	Oid			access_method = InvalidOid;

	ScanKeyInit(&keys[0], Anum_pg_class_reltablespace, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(stored_tablespace(known)));
	ScanKeyInit(&keys[1], Anum_pg_class_relfilenode, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(known->file.relNumber));
	scan = systable_beginscan(pg_class, ClassTblspcRelfilenodeIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class table = (Form_pg_class) GETSTRUCT(tuple);

		/* a temporary table's may have the same number, and is not in the WAL */
		if (table->relpersistence == RELPERSISTENCE_TEMP)
			continue;
		found = table->oid;
		access_method = table->relam;
	}
	systable_endscan(scan);
	if (OidIsValid(found) && (known->known_from == 0 || found != known->table))
		find_out(known, found, access_method);
	return OidIsValid(found);
}

/*
 * Is that an event table, or one with heap as its access method?  The catalogs
 * are few, and left to PostgreSQL, as are tables that look like event tables
 * and are not in the list of those that can be sequenced.
 */
static void
find_out(KnownFile *known, Oid table, Oid access_method)
{
	bool		is_known;

	known->table = table;
	known->has_events = access_method == GetDaybookOids()->access_method;
	if (known->has_events)
		is_known = TableIsListed(table);
	else
		is_known = access_method == HEAP_TABLE_AM_OID && table >= FirstNormalObjectId;
	known->known_from = is_known ? next_xid : 0;
}

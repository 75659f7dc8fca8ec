/*-------------------------------------------------------------------------
 *
 * access_method.c
 *	  Table access method daybook: heap storage whose rows are never changed.
 *
 * Storage, visibility, WAL and vacuum are heap's own.  What differs is that
 * rows cannot be updated, deleted or copied into a rewritten table, and that
 * a row enters an event table only as its version trigger made it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "event_table/guard.h"
#include "fmgr.h"
#include "storage/proc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(daybook_access_method_handler);

EventRowHook event_row_hook = NULL;
bool		event_row_check_running = false;

static TableAmRoutine routine;

/*
 * A table that functions of its indexes must not write to: it has been lent
 * heap's routine, or its rows are being copied.
 */
typedef struct BusyTable
{
	Relation	rel;
	const TableAmRoutine *own;	/* while heap's is lent, else NULL */
	struct BusyTable *outer;
} BusyTable;

static BusyTable *busy_tables = NULL;

static void begin_busy(BusyTable *table, Relation rel);
static void end_busy(const BusyTable *table);
static void lend_heap_routine(BusyTable *table, Relation rel);
static void lend_again(Datum arg, Oid relid);
static bool may_come_to(Oid relid, Relation rel);
static void refuse_change(Relation rel, const char *command);
static Oid	table_copied_to(Relation rel);
static void refuse_rewrite(Relation rel);
static void refuse_storage(Relation rel, char persistence);
static void refuse_in_vacuum(Relation rel);
static void accept_row(Relation rel, TupleTableSlot *slot, bool speculative);

/* SELECT ... FOR UPDATE and the like stay heap's: they write no data. */
static TM_Result
daybook_tuple_delete(Relation rel, ItemPointer tid, CommandId cid,
					 Snapshot snapshot, Snapshot crosscheck, bool wait,
					 TM_FailureData *tmfd, bool changing_part)
{
	refuse_change(rel, "delete from");
	return TM_Ok;
}

static TM_Result
daybook_tuple_update(Relation rel, ItemPointer otid, TupleTableSlot *slot,
					 CommandId cid, Snapshot snapshot, Snapshot crosscheck,
					 bool wait, TM_FailureData *tmfd, LockTupleMode *lockmode,
					 UpdateIndexes *update_indexes)
{
	refuse_change(rel, "update");
	return TM_Ok;
}

static void
refuse_change(Relation rel, const char *command)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s append-only table \"%s\"",
					command, RelationGetRelationName(rel)),
			 errdetail("Rows of a table that uses access method daybook are never changed."),
			 errhint("Append another event that corrects the earlier one."),
			 errtable(rel)));
}

/*
 * Rows of COPY FREEZE would be seen by whoever opens the table, with any
 * snapshot, while the sequencer goes by what snapshots see.  They are stored
 * as others are.
 */
static void
daybook_tuple_insert(Relation rel, TupleTableSlot *slot, CommandId cid,
					 int options, BulkInsertState bistate)
{
	accept_row(rel, slot, false);
	GetHeapamTableAmRoutine()->tuple_insert(rel, slot, cid, options & ~TABLE_INSERT_FROZEN,
											bistate);
}

static void
daybook_tuple_insert_speculative(Relation rel, TupleTableSlot *slot,
								 CommandId cid, int options,
								 BulkInsertState bistate, uint32 token)
{
	accept_row(rel, slot, true);
	GetHeapamTableAmRoutine()->tuple_insert_speculative(rel, slot, cid, options,
														bistate, token);
}

/*
 * ON CONFLICT DO NOTHING found a conflict after all: the row is taken out, and
 * then passed over, or inserted once more if the other one went away.
 */
static void
daybook_tuple_complete_speculative(Relation rel, TupleTableSlot *slot, uint32 token,
								   bool succeeded)
{
	GetHeapamTableAmRoutine()->tuple_complete_speculative(rel, slot, token, succeeded);
	if (rel->rd_rel->reloftype != InvalidOid)
		EventTicketComplete(rel, slot, succeeded);
}

/* Only where no row trigger stands in the way: tables just being restored. */
static void
daybook_multi_insert(Relation rel, TupleTableSlot **slots, int nslots,
					 CommandId cid, int options, BulkInsertState bistate)
{
	for (int i = 0; i < nslots; i++)
		accept_row(rel, slots[i], false);
	GetHeapamTableAmRoutine()->multi_insert(rel, slots, nslots, cid,
											options & ~TABLE_INSERT_FROZEN, bistate);
}

/*
 * The protected table that a command is making a new copy of; the copy is
 * called pg_temp_ and the OID of the old one.
 */
static Oid
table_copied_to(Relation rel)
{
	Oid			old;
	char		more;

	if (sscanf(RelationGetRelationName(rel), "pg_temp_%u%c", &old, &more) == 1 &&
		TableIsProtected(old))
		return old;
	return InvalidOid;
}

/*
 * ALTER TABLE fills a rewritten table through tuple_insert; VACUUM FULL and
 * CLUSTER, which keep every row as it is, do not.
 */
static void
refuse_rewrite(Relation rel)
{
	Oid			old = table_copied_to(rel);

	if (!OidIsValid(old))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot rewrite append-only table \"%s\"", get_rel_name(old)),
			 errdetail("The command would write every row of the table anew."),
			 errhint("Append events of a new schema version, and bring old ones up to it when they are read.")));
}

/*
 * Snapshots leave out transactions that vacuum: others would take the row for
 * one that was rolled back, and mark it so for good.  And autovacuum, which
 * also analyzes, would record its superuser as who appends.
 */
static void
refuse_in_vacuum(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot write to append-only table \"%s\" in VACUUM or autovacuum",
					RelationGetRelationName(rel)),
			 errdetail("A function that an index or extended statistics call has tried to."),
			 errhint("Let them call functions that do nothing but compute."),
			 errtable(rel)));
}

static void
accept_row(Relation rel, TupleTableSlot *slot, bool speculative)
{
	if (unlikely(MyProc->statusFlags & (PROC_IN_VACUUM | PROC_IS_AUTOVACUUM)))
		refuse_in_vacuum(rel);
	if (unlikely(RelationGetRelationName(rel)[0] == 'p'))
		refuse_rewrite(rel);
	if (rel->rd_rel->reloftype == InvalidOid)
		return;
	EventTicketRedeem(rel, slot, speculative);
	if (event_row_hook)
		event_row_hook(rel, slot);
}

/*
 * For a caller who has heap store the row with others: what the access method
 * would do first.
 */
void
EventRowAccept(Relation rel, TupleTableSlot *slot)
{
	accept_row(rel, slot, false);
}

static void
begin_busy(BusyTable *table, Relation rel)
{
	table->rel = rel;
	table->own = NULL;
	table->outer = busy_tables;
	busy_tables = table;
}

static void
end_busy(const BusyTable *table)
{
	busy_tables = table->outer;
	if (table->own)
		table->rel->rd_tableam = table->own;
}

/*
 * Heap's index builds insist on heap's own routine in the relcache entry, so
 * it is lent for the length of the call.  Functions that the index calls meet
 * the table with that routine: RefuseIfBusy() keeps them from writing to it.
 */
static void
lend_heap_routine(BusyTable *table, Relation rel)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(lend_again, (Datum) 0);
	registered = true;
	begin_busy(table, rel);
	table->own = rel->rd_tableam;
	rel->rd_tableam = GetHeapamTableAmRoutine();
}

/*
 * The entry may have been built anew, with its own routine.  While a transaction
 * is being aborted none is, and one may be gone if the session ends in the call.
 */
static void
lend_again(Datum arg, Oid relid)
{
	if (!IsTransactionState())
		return;
	for (BusyTable *table = busy_tables; table != NULL; table = table->outer)
		if (table->own && (!OidIsValid(relid) || relid == RelationGetRelid(table->rel)))
			table->rel->rd_tableam = GetHeapamTableAmRoutine();
}

void
RefuseIfBusy(Oid relid)
{
	for (BusyTable *table = busy_tables; table != NULL; table = table->outer)
		if (may_come_to(relid, table->rel))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot write to append-only table \"%s\" while %s",
							RelationGetRelationName(table->rel),
							table->own ? "an index of it is being built" : "it is being clustered"),
					 errdetail("A function that the index calls has tried to."),
					 errhint("Let an index call functions that do nothing but compute."),
					 errtable(table->rel)));
}

/* An INSERT into a partitioned table does not say beforehand which partitions it comes to. */
static bool
may_come_to(Oid relid, Relation rel)
{
	return relid == RelationGetRelid(rel) ||
		(rel->rd_rel->relispartition &&
		 list_member_oid(get_partition_ancestors(RelationGetRelid(rel)), relid));
}

static double
daybook_index_build_range_scan(Relation table_rel, Relation index_rel,
							   IndexInfo *index_info, bool allow_sync,
							   bool anyvisible, bool progress,
							   BlockNumber start_blockno, BlockNumber numblocks,
							   IndexBuildCallback callback, void *callback_state,
							   TableScanDesc scan)
{
	BusyTable	lent;
	double		reltuples;

	lend_heap_routine(&lent, table_rel);
	PG_TRY();
	{
		reltuples = table_rel->rd_tableam->index_build_range_scan(table_rel, index_rel,
																  index_info, allow_sync,
																  anyvisible, progress,
																  start_blockno, numblocks,
																  callback, callback_state,
																  scan);
	}
	PG_FINALLY();
	{
		end_busy(&lent);
	}
	PG_END_TRY();
	return reltuples;
}

static void
daybook_index_validate_scan(Relation table_rel, Relation index_rel,
							IndexInfo *index_info, Snapshot snapshot,
							ValidateIndexState *state)
{
	BusyTable	lent;

	lend_heap_routine(&lent, table_rel);
	PG_TRY();
	{
		table_rel->rd_tableam->index_validate_scan(table_rel, index_rel, index_info,
												   snapshot, state);
	}
	PG_FINALLY();
	{
		end_busy(&lent);
	}
	PG_END_TRY();
}

/*
 * Sorting by an index calls its functions.  A row that one of them stored now
 * could be left behind in the old storage.
 */
static void
daybook_relation_copy_for_cluster(Relation old_rel, Relation new_rel, Relation index_rel,
								  bool use_sort, TransactionId oldest_xmin,
								  TransactionId *xid_cutoff, MultiXactId *multi_cutoff,
								  double *num_tuples, double *tups_vacuumed,
								  double *tups_recently_dead)
{
	BusyTable	copied;

	begin_busy(&copied, old_rel);
	PG_TRY();
	{
		GetHeapamTableAmRoutine()->relation_copy_for_cluster(old_rel, new_rel, index_rel,
															 use_sort, oldest_xmin,
															 xid_cutoff, multi_cutoff,
															 num_tuples, tups_vacuumed,
															 tups_recently_dead);
	}
	PG_FINALLY();
	{
		end_busy(&copied);
	}
	PG_END_TRY();
}

/* Without this a TOAST table would be append-only too, and VACUUM FULL fail. */
static Oid
daybook_relation_toast_am(Relation rel)
{
	return HEAP_TABLE_AM_OID;
}

/*
 * A table that stands in the catalogs gets new storage, or loses what it has,
 * by TRUNCATE alone, whoever runs it: logical replication does without the
 * object access hook.  The table is locked.  An empty one may be truncated:
 * pg_restore -j does so with those that it has just made.
 */
static void
refuse_truncate(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);

	if (TableIsProtected(relid) && !EventTableIsEmpty(relid))
		RefuseDdl(relid, "truncate", HINT_DROP);
}

static void
daybook_relation_set_new_filelocator(Relation rel, const RelFileLocator *newrlocator,
									 char persistence, TransactionId *freezeXid,
									 MultiXactId *minmulti)
{
	refuse_storage(rel, persistence);
	refuse_truncate(rel);
	GetHeapamTableAmRoutine()->relation_set_new_filelocator(rel, newrlocator,
															persistence, freezeXid,
															minmulti);
}

static void
daybook_relation_nontransactional_truncate(Relation rel)
{
	refuse_truncate(rel);
	GetHeapamTableAmRoutine()->relation_nontransactional_truncate(rel);
}

/* History must survive a crash, and a materialized view rewrites itself. */
static void
refuse_storage(Relation rel, char persistence)
{
	if (persistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("append-only table \"%s\" cannot be unlogged",
						OidIsValid(table_copied_to(rel)) ? get_rel_name(table_copied_to(rel)) :
						RelationGetRelationName(rel)),
				 errdetail("An unlogged table is emptied by a crash."),
				 errhint("Leave UNLOGGED out.")));
	if (rel->rd_rel->relkind == RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("materialized view \"%s\" cannot use access method daybook",
						RelationGetRelationName(rel)),
				 errhint("Use access method heap.")));
}

Datum
daybook_access_method_handler(PG_FUNCTION_ARGS)
{
	if (routine.type != T_TableAmRoutine)
	{
		routine = *GetHeapamTableAmRoutine();
		routine.tuple_delete = daybook_tuple_delete;
		routine.tuple_update = daybook_tuple_update;
		routine.tuple_insert = daybook_tuple_insert;
		routine.tuple_insert_speculative = daybook_tuple_insert_speculative;
		routine.tuple_complete_speculative = daybook_tuple_complete_speculative;
		routine.multi_insert = daybook_multi_insert;
		routine.index_build_range_scan = daybook_index_build_range_scan;
		routine.index_validate_scan = daybook_index_validate_scan;
		routine.relation_copy_for_cluster = daybook_relation_copy_for_cluster;
		routine.relation_toast_am = daybook_relation_toast_am;
		routine.relation_set_new_filelocator = daybook_relation_set_new_filelocator;
		routine.relation_nontransactional_truncate = daybook_relation_nontransactional_truncate;
	}
	PG_RETURN_POINTER(&routine);
}

/*-------------------------------------------------------------------------
 *
 * handler_reads.c
 *	  Whether a handler may read a row of its tables before it writes it.
 *
 * Concurrent writers run an inline handler side by side.  What an UPDATE, or
 * ON CONFLICT DO UPDATE, computes from the row that it changes is right
 * whatever others have done meanwhile; what is computed from a row that was
 * read before is not, nor what follows from that there was no row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "projection/projection.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"

static bool reads_walker(Node *node, void *parts);
static bool query_reads(const Query *query, const List *parts);
static bool finds_rows_missing(const Query *query);
static bool is_locked(const Query *query, int rti);
static bool has_part_among(Oid relation, const List *parts);
static bool function_may_read(Oid function, void *parts);

bool
HandlerMayRead(SPIPlanPtr plan, ArrayType *tables)
{
	List	   *parts = RelationParts(tables);
	ListCell   *lc;

	foreach(lc, SPI_plan_get_plan_sources(plan))
	{
		CachedPlanSource *source = lfirst(lc);
		ListCell   *lc2;

		foreach(lc2, source->query_list)
		{
			if (reads_walker(lfirst(lc2), parts))
				return true;
		}
	}
	return false;
}

static bool
reads_walker(Node *node, void *parts)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_reads((Query *) node, parts) ||
			query_tree_walker((Query *) node, reads_walker, parts, 0);
	return check_functions_in_node(node, function_may_read, parts) ||
		expression_tree_walker(node, reads_walker, parts);
}

static bool
query_reads(const Query *query, const List *parts)
{
	/* what a command does cannot be seen, but for NOTIFY */
	if (query->commandType == CMD_UTILITY)
		return !IsA(query->utilityStmt, NotifyStmt);
	if (finds_rows_missing(query))
		return true;
	for (int rti = 1; rti <= list_length(query->rtable); rti++)
	{
		RangeTblEntry *rte = list_nth_node(RangeTblEntry, query->rtable, rti - 1);

		if (rte->rtekind != RTE_RELATION || rti == query->resultRelation ||
			(query->onConflict != NULL && rti == query->onConflict->exclRelIndex) ||
			is_locked(query, rti))
			continue;
		if (has_part_among(rte->relid, parts))
			return true;
	}
	return false;
}

/*
 * May what is done depend on that a row to change is not there?  Another
 * writer may be about to insert it.
 */
static bool
finds_rows_missing(const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->mergeActionList)
	{
		if (lfirst_node(MergeAction, lc)->commandType == CMD_INSERT)
			return true;
	}
	return query->returningList != NIL &&
		(query->commandType != CMD_INSERT || query->onConflict != NULL);
}

/* By SELECT FOR UPDATE or FOR NO KEY UPDATE. */
static bool
is_locked(const Query *query, int rti)
{
	ListCell   *lc;

	foreach(lc, query->rowMarks)
	{
		RowMarkClause *mark = lfirst_node(RowMarkClause, lc);

		if (mark->rti == rti && mark->strength >= LCS_FORNOKEYUPDATE)
			return true;
	}
	return false;
}

/* A partition may be read as itself or as part of its parent. */
static bool
has_part_among(Oid relation, const List *parts)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relation, NoLock, NULL))
	{
		if (list_member_oid(parts, lfirst_oid(lc)))
			return true;
	}
	return false;
}

/* What users' functions do cannot be seen. */
static bool
function_may_read(Oid function, void *parts)
{
	return function >= FirstNormalObjectId && func_volatile(function) != PROVOLATILE_IMMUTABLE;
}

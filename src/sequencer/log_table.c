/*-------------------------------------------------------------------------
 *
 * log_table.c
 *	  daybook.log, the log as a relation.
 *
 * It is a foreign table, since that is how PostgreSQL lets a module supply
 * the rows of a relation: the planner is told that the rows come in order of
 * position, rising or falling, and that comparisons of position with values
 * known at the start of a scan bound it.  So ORDER BY needs no sort, LIMIT
 * stops early, and max(position) reads one row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/stratnum.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "daybook.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "sequencer/log_scan.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/selfuncs.h"
#include "utils/snapmgr.h"

#define LOG_TABLE	"log"

#define Anum_log_position		1
#define Anum_log_event_table	2
#define Anum_log_id				3
#define Anum_log_committed_at	4
#define Anum_log_transaction	5
#define Natts_log				5

/* Entries of a segment and segments of a page, for the planner. */
#define TYPICAL_SEGMENT_EVENTS	400
#define SEGMENTS_PER_PAGE		4

/* A plan made while the log is young lives on when it has grown. */
#define LEAST_EVENTS			1000

/* Part of a range of positions whose ends are not known to the planner. */
#define HALF_OPEN_FRACTION	DEFAULT_INEQ_SEL
#define RANGE_FRACTION		DEFAULT_RANGE_INEQ_SEL

/* A clause that compares position with a value that a scan knows at its start. */
typedef struct Bound
{
	OpExpr	   *clause;			/* position is on the left */
	StrategyNumber strategy;
	Expr	   *value;
} Bound;

/* after < position <= upto */
typedef struct PositionRange
{
	int64		after;
	int64		upto;
} PositionRange;

typedef struct EventTableName
{
	int32		table_no;		/* hash key */
	Oid			relation;
} EventTableName;

/* A running scan. */
typedef struct LogTableScan
{
	bool		backward;
	List	   *strategies;		/* of the bounds, integers */
	List	   *values;			/* of the bounds, ExprStates */
	List	   *types;			/* of these values, OIDs */
	PositionRange range;
	LogScan    *scan;			/* NULL before the first row */
	bool		done;
	HTAB	   *event_tables;	/* EventTableName of those met */
	EventTableName *last_met;
} LogTableScan;

PG_FUNCTION_INFO_V1(daybook_log_handler);
PG_FUNCTION_INFO_V1(daybook_head);

static void estimate_size(PlannerInfo *root, RelOptInfo *rel, Oid relation);
static void add_paths(PlannerInfo *root, RelOptInfo *rel, Oid relation);
static ForeignScan *make_plan(PlannerInfo *root, RelOptInfo *rel, Oid relation,
							  ForeignPath *path, List *tlist, List *clauses, Plan *outer_plan);
static void begin_scan(ForeignScanState *node, int eflags);
static TupleTableSlot *next_row(ForeignScanState *node);
static void rescan(ForeignScanState *node);
static void end_scan(ForeignScanState *node);
static void explain_scan(ForeignScanState *node, ExplainState *es);
static Node *params_by_number(Node *node, void *context);
static bool scan_is_parallel_safe(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte);

static bool match_bound(RelOptInfo *rel, RestrictInfo *rinfo, Bound *bound);
static bool is_position(RelOptInfo *rel, Node *expr);
static double estimate_range(PlannerInfo *root, RelOptInfo *rel, List *clauses,
							 List **others);
static int64 estimate_head(void);
static void add_ordered_path(PlannerInfo *root, RelOptInfo *rel, StrategyNumber order);
static void add_parameterized_paths(PlannerInfo *root, RelOptInfo *rel);
static bool is_position_member(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
							   EquivalenceMember *member, void *arg);
static void add_path_for_clauses(PlannerInfo *root, RelOptInfo *rel, List *clauses);
static void add_log_path(PlannerInfo *root, RelOptInfo *rel, double scanned, double rows,
						 List *pathkeys, Relids required_outer, bool backward);
static bool narrow_to_bounds(ForeignScanState *node, PositionRange *range);
static void narrow_range(PositionRange *range, StrategyNumber strategy, int64 value);
static int64 integer_value(Datum value, Oid type);
static void start_scan(ForeignScanState *node);
static void store_entry(ForeignScanState *node, const LogEntry *entry, TupleTableSlot *slot);
static Oid	event_table_of(ForeignScanState *node, int32 table_no);

Datum
daybook_log_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = estimate_size;
	routine->GetForeignPaths = add_paths;
	routine->GetForeignPlan = make_plan;
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = next_row;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->ExplainForeignScan = explain_scan;
	routine->IsForeignScanParallelSafe = scan_is_parallel_safe;
	PG_RETURN_POINTER(routine);
}

/* The last position of the log, 0 when it is empty. */
Datum
daybook_head(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(LogHead(GetActiveSnapshot()));
}

/*
 * Planning
 */

static void
estimate_size(PlannerInfo *root, RelOptInfo *rel, Oid relation)
{
	List	   *others;
	double		scanned;

	if (relation != DaybookRelation(LOG_TABLE))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("foreign-data wrapper of the log cannot serve table \"%s\"",
						get_rel_name(relation)),
				 errhint("Read daybook.log.")));

	rel->tuples = Max(estimate_head(), LEAST_EVENTS);
	rel->pages = ceil(rel->tuples / (TYPICAL_SEGMENT_EVENTS * SEGMENTS_PER_PAGE));
	scanned = estimate_range(root, rel, rel->baserestrictinfo, &others);
	rel->rows = clamp_row_est(scanned *
							  clauselist_selectivity(root, others, 0, JOIN_INNER, NULL));
}

static void
add_paths(PlannerInfo *root, RelOptInfo *rel, Oid relation)
{
	add_ordered_path(root, rel, BTLessStrategyNumber);
	add_ordered_path(root, rel, BTGreaterStrategyNumber);
	add_parameterized_paths(root, rel);
}

/*
 * Clauses that bound the scan are not evaluated again for each row, except
 * in a recheck after a lock.
 */
static ForeignScan *
make_plan(PlannerInfo *root, RelOptInfo *rel, Oid relation,
		  ForeignPath *path, List *tlist, List *clauses, Plan *outer_plan)
{
	List	   *quals = NIL;
	List	   *bound_quals = NIL;
	List	   *values = NIL;
	List	   *fdw_private = copyObject(path->fdw_private);
	ListCell   *lc;

	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Bound		bound;

		if (rinfo->pseudoconstant)
			continue;
		if (match_bound(rel, rinfo, &bound))
		{
			bound_quals = lappend(bound_quals, bound.clause);
			values = lappend(values, bound.value);
			fdw_private = lappend_int(fdw_private, bound.strategy);
		}
		else
			quals = lappend(quals, rinfo->clause);
	}
	return make_foreignscan(tlist, quals, rel->relid, values, fdw_private,
							NIL, bound_quals, outer_plan);
}

static bool
scan_is_parallel_safe(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte)
{
	return true;
}

/* Is this a comparison of position with something that is not of this relation? */
static bool
match_bound(RelOptInfo *rel, RestrictInfo *rinfo, Bound *bound)
{
	OpExpr	   *clause = (OpExpr *) rinfo->clause;
	Relids		value_relids = rinfo->right_relids;

	if (!IsA(clause, OpExpr) || list_length(clause->args) != 2)
		return false;
	if (is_position(rel, lsecond(clause->args)))
	{
		if (!OidIsValid(get_commutator(clause->opno)))
			return false;
		clause = copyObject(clause);
		CommuteOpExpr(clause);
		value_relids = rinfo->left_relids;
	}
	else if (!is_position(rel, linitial(clause->args)))
		return false;

	bound->clause = clause;
	bound->value = lsecond(clause->args);
	bound->strategy = get_op_opfamily_strategy(clause->opno, INTEGER_BTREE_FAM_OID);
	return bound->strategy != InvalidStrategy &&
		!bms_is_member(rel->relid, value_relids) &&
		!contain_volatile_functions((Node *) bound->value);
}

static bool
is_position(RelOptInfo *rel, Node *expr)
{
	return IsA(expr, Var) &&
		((Var *) expr)->varno == rel->relid &&
		((Var *) expr)->varattno == Anum_log_position &&
		((Var *) expr)->varlevelsup == 0;
}

/*
 * Estimates how many entries lie within the bounds among some clauses, and
 * gives the clauses that are no bounds.
 */
static double
estimate_range(PlannerInfo *root, RelOptInfo *rel, List *clauses, List **others)
{
	PositionRange range = {0, rel->tuples};
	bool		unknown_after = false;
	bool		unknown_upto = false;
	double		count;
	ListCell   *lc;

	*others = NIL;
	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Bound		bound;
		Node	   *value;

		if (!match_bound(rel, rinfo, &bound))
		{
			*others = lappend(*others, rinfo);
			continue;
		}
		if (bound.strategy == BTEqualStrategyNumber)
			return 1;
		value = estimate_expression_value(root, (Node *) bound.value);
		if (IsA(value, Const) && ((Const *) value)->constisnull)
			return 1;
		if (IsA(value, Const))
			narrow_range(&range, bound.strategy,
						 integer_value(((Const *) value)->constvalue,
									   ((Const *) value)->consttype));
		else if (bound.strategy > BTEqualStrategyNumber)
			unknown_after = true;
		else
			unknown_upto = true;
	}
	count = range.upto > range.after ? (double) range.upto - range.after : 1;
	if (unknown_after && unknown_upto)
		count *= RANGE_FRACTION;
	else if (unknown_after || unknown_upto)
		count *= HALF_OPEN_FRACTION;
	return clamp_row_est(count);
}

static int64
estimate_head(void)
{
	Snapshot	snapshot = ActiveSnapshotSet() ? GetActiveSnapshot() : GetLatestSnapshot();
	int64		head;

	snapshot = RegisterSnapshot(snapshot);
	head = LogHead(snapshot);
	UnregisterSnapshot(snapshot);
	return head;
}

/* Adds the scan in rising (less) or falling (greater) order of position. */
static void
add_ordered_path(PlannerInfo *root, RelOptInfo *rel, StrategyNumber order)
{
	bool		backward = order == BTGreaterStrategyNumber;
	Oid			operator = get_opfamily_member(INTEGER_BTREE_FAM_OID,
											   INT8OID, INT8OID, order);
	Var		   *position = makeVar(rel->relid, Anum_log_position, INT8OID,
								   -1, InvalidOid, 0);
	List	   *others;
	List	   *pathkeys;

#if PG_VERSION_NUM >= 160000
	pathkeys = build_expression_pathkey(root, (Expr *) position, operator,
										rel->relids, false);
#else
	pathkeys = build_expression_pathkey(root, (Expr *) position, NULL, operator,
										rel->relids, false);
#endif
	if (backward && pathkeys == NIL)
		return;					/* nobody wants this order */
	add_log_path(root, rel,
				 estimate_range(root, rel, rel->baserestrictinfo, &others),
				 rel->rows, pathkeys, rel->lateral_relids, backward);
}

/*
 * Adds scans that are bounded by values from other relations, for the inner
 * side of a nested loop.
 */
static void
add_parameterized_paths(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *clauses = list_copy(rel->joininfo);
	ListCell   *lc;

	if (rel->has_eclass_joins)
		clauses = list_concat(clauses,
							  generate_implied_equalities_for_column(root, rel,
																	 is_position_member, NULL,
																	 rel->lateral_referencers));
	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Bound		bound;

		if (join_clause_is_movable_to(rinfo, rel) && match_bound(rel, rinfo, &bound))
			add_path_for_clauses(root, rel, list_make1(rinfo));
	}
}

static bool
is_position_member(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
				   EquivalenceMember *member, void *arg)
{
	return is_position(rel, (Node *) member->em_expr);
}

static void
add_path_for_clauses(PlannerInfo *root, RelOptInfo *rel, List *clauses)
{
	RestrictInfo *rinfo = linitial_node(RestrictInfo, clauses);
	Relids		required_outer = bms_del_member(bms_union(rinfo->clause_relids,
														  rel->lateral_relids),
												rel->relid);
	ParamPathInfo *param_info;
	List	   *others;
	double		scanned;

	if (bms_is_empty(required_outer))
		return;
	param_info = get_baserel_parampathinfo(root, rel, required_outer);
	scanned = estimate_range(root, rel,
							 list_concat_copy(rel->baserestrictinfo, param_info->ppi_clauses),
							 &others);
	add_log_path(root, rel, scanned, Min(scanned, param_info->ppi_rows),
				 NIL, required_outer, false);
}

static void
add_log_path(PlannerInfo *root, RelOptInfo *rel, double scanned, double rows,
			 List *pathkeys, Relids required_outer, bool backward)
{
	double		segments = ceil(scanned / TYPICAL_SEGMENT_EVENTS);
	Cost		per_entry = cpu_operator_cost + cpu_tuple_cost + rel->baserestrictcost.per_tuple;
	Cost		startup;
	Cost		total;

	/* on average half a segment is decoded before the first row */
	startup = rel->baserestrictcost.startup + rel->reltarget->cost.startup +
		random_page_cost + TYPICAL_SEGMENT_EVENTS / 2 * cpu_operator_cost;
	total = startup + scanned * per_entry + rows * rel->reltarget->cost.per_tuple +
		segments * cpu_index_tuple_cost +
		floor(segments / SEGMENTS_PER_PAGE) * seq_page_cost;

	add_path(rel, (Path *)
			 create_foreignscan_path(root, rel, NULL, rows,
#if PG_VERSION_NUM >= 180000
									 0,
#endif
									 startup, total, pathkeys, required_outer, NULL,
#if PG_VERSION_NUM >= 170000
									 NIL,
#endif
									 list_make1_int(backward)));
}

/*
 * Execution
 */

static void
begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	LogTableScan *state = palloc0(sizeof(LogTableScan));
	ListCell   *lc;

	state->backward = linitial_int(plan->fdw_private);
	state->strategies = list_copy_tail(plan->fdw_private, 1);
	state->values = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
	foreach(lc, plan->fdw_exprs)
		state->types = lappend_oid(state->types, exprType(lfirst(lc)));
	node->fdw_state = state;
}

static TupleTableSlot *
next_row(ForeignScanState *node)
{
	LogTableScan *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	LogEntry	entry;

	ExecClearTuple(slot);
	if (!state->done && state->scan == NULL)
		start_scan(node);
	if (state->done)
		return slot;
	if (!LogScanNext(state->scan, &entry) ||
		entry.position > state->range.upto ||
		entry.position <= state->range.after)
		state->done = true;
	else
		store_entry(node, &entry, slot);
	return slot;
}

static void
rescan(ForeignScanState *node)
{
	LogTableScan *state = node->fdw_state;

	if (state->scan)
		LogScanEnd(state->scan);
	state->scan = NULL;
	state->done = false;
}

static void
end_scan(ForeignScanState *node)
{
	LogTableScan *state = node->fdw_state;

	if (state && state->scan)
		LogScanEnd(state->scan);
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	LogTableScan *state = node->fdw_state;
	List	   *context;
	Node	   *bounds;

	if (state->backward)
		ExplainPropertyText("Scan Direction", "Backward", es);
	if (plan->fdw_recheck_quals == NIL)
		return;
	context = set_deparse_context_plan(es->deparse_cxt, (Plan *) plan, NIL);
	bounds = params_by_number((Node *) make_ands_explicit(plan->fdw_recheck_quals), NULL);
	ExplainPropertyText("Position Cond",
						deparse_expression(bounds, context,
										   list_length(es->rtable) > 1 || es->verbose,
										   false),
						es);
}

/*
 * Where a parameter's value comes from is found in the plan nodes above, of
 * which a foreign scan is not told: such are shown as $n.
 */
static Node *
params_by_number(Node *node, void *context)
{
	Param	   *param;

	if (node == NULL || !IsA(node, Param))
		return expression_tree_mutator(node, params_by_number, context);
	param = copyObject((Param *) node);
	param->paramkind = PARAM_EXTERN;
	return (Node *) param;
}

/* Takes the bounds' values and positions the scan. */
static void
start_scan(ForeignScanState *node)
{
	LogTableScan *state = node->fdw_state;
	Snapshot	snapshot = node->ss.ps.state->es_snapshot;
	MemoryContext caller;

	if (!narrow_to_bounds(node, &state->range))
	{
		state->done = true;
		return;
	}
	caller = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
	state->scan = state->backward ?
		LogScanBeginBackward(snapshot, state->range.upto) :
		LogScanBegin(snapshot, state->range.after);
	MemoryContextSwitchTo(caller);
}

/* Evaluates the bounds; false when no position can satisfy them. */
static bool
narrow_to_bounds(ForeignScanState *node, PositionRange *range)
{
	LogTableScan *state = node->fdw_state;
	ListCell   *value_cell;
	ListCell   *type_cell;
	ListCell   *strategy_cell;

	range->after = 0;
	range->upto = PG_INT64_MAX;
	forthree(value_cell, state->values, type_cell, state->types,
			 strategy_cell, state->strategies)
	{
		bool		isnull;
		Datum		value = ExecEvalExpr((ExprState *) lfirst(value_cell),
										 node->ss.ps.ps_ExprContext, &isnull);

		if (isnull)
			return false;
		narrow_range(range, lfirst_int(strategy_cell),
					 integer_value(value, lfirst_oid(type_cell)));
	}
	return range->after < range->upto;
}

static void
narrow_range(PositionRange *range, StrategyNumber strategy, int64 value)
{
	int64		below = value == PG_INT64_MIN ? value : value - 1;

	switch (strategy)
	{
		case BTLessStrategyNumber:
			range->upto = Min(range->upto, below);
			break;
		case BTLessEqualStrategyNumber:
			range->upto = Min(range->upto, value);
			break;
		case BTEqualStrategyNumber:
			range->upto = Min(range->upto, value);
			range->after = Max(range->after, below);
			break;
		case BTGreaterEqualStrategyNumber:
			range->after = Max(range->after, below);
			break;
		case BTGreaterStrategyNumber:
			range->after = Max(range->after, value);
			break;
	}
}

static int64
integer_value(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

static void
store_entry(ForeignScanState *node, const LogEntry *entry, TupleTableSlot *slot)
{
	Oid			event_table = event_table_of(node, entry->table_no);

	slot->tts_values[Anum_log_position - 1] = Int64GetDatum(entry->position);
	slot->tts_values[Anum_log_event_table - 1] = ObjectIdGetDatum(event_table);
	slot->tts_values[Anum_log_id - 1] = Int64GetDatum(entry->id);
	slot->tts_values[Anum_log_committed_at - 1] = TimestampTzGetDatum(entry->committed_at);
	slot->tts_values[Anum_log_transaction - 1] = Int64GetDatum(entry->transaction);
	memset(slot->tts_isnull, false, sizeof(bool) * Natts_log);
	slot->tts_isnull[Anum_log_event_table - 1] = !OidIsValid(event_table);
	ExecStoreVirtualTuple(slot);
}

/* Looks each table up once in a scan. */
static Oid
event_table_of(ForeignScanState *node, int32 table_no)
{
	LogTableScan *state = node->fdw_state;
	EState	   *estate = node->ss.ps.state;
	bool		found;

	if (state->last_met && state->last_met->table_no == table_no)
		return state->last_met->relation;
	if (state->event_tables == NULL)
	{
		HASHCTL		ctl = {
			.keysize = sizeof(int32),
			.entrysize = sizeof(EventTableName),
			.hcxt = estate->es_query_cxt
		};

		state->event_tables = hash_create("event tables of a log scan", 16, &ctl,
										  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	state->last_met = hash_search(state->event_tables, &table_no, HASH_ENTER, &found);
	if (!found)
		state->last_met->relation = LogEventTable(estate->es_snapshot, table_no);
	return state->last_met->relation;
}

/*-------------------------------------------------------------------------
 *
 * row_function.c
 *	  Set-returning functions, and named relations, whose rows stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/stratnum.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "compat.h"
#include "daybook.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "parallel_check.h"
#include "replay/row_function.h"
#include "schema/upcast.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#define SCAN_NAME	"Event Stream"

#define MAX_ROW_FUNCTIONS	8

static const RowFunction *row_functions[MAX_ROW_FUNCTIONS];
static int	row_function_count = 0;

/* What statements that are planned or begun now know by its name; or NULL. */
static const RowRelation *streamed_relation = NULL;

/* A running scan, of a function or of a relation. */
typedef struct RowFunctionScan
{
	CustomScanState css;
	const RowRelation *relation;	/* or NULL, and */
	const RowFunction *function;
	FuncExpr   *call;
	List	   *args;			/* ExprStates */
	int			ncolumns;		/* of the scan tuple */
	AttrNumber *columns;		/* which of the row's they are, 0 for all */
	AttrNumber	last_column;	/* highest of them */
	TupleDesc	row_desc;		/* where the whole row is wanted */
	MemoryContext context;		/* of the call */
	void	   *shared;			/* NULL unless the scan is a parallel one */
	RowSource  *source;			/* NULL before the first row */
	bool		done;
} RowFunctionScan;

static void add_stream_path(PlannerInfo *root, RelOptInfo *rel, Index rti,
							RangeTblEntry *rte);
static void add_function_path(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte);
static void add_relation_path(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte);
static CustomPath *stream_path(const Path *plain);
static void add_estimated_paths(PlannerInfo *root, RelOptInfo *rel,
								const RowFunction *function, CustomPath *path, List *args);
static double process_count(int workers);
static const RowFunction *find_row_function(Oid funcid);
static List *row_order(PlannerInfo *root, RelOptInfo *rel, const RowFunction *function,
					   FuncExpr *call);
static Plan *make_plan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist,
					   List *clauses, List *custom_plans);
static List *needed_columns(RelOptInfo *rel, List *quals);
static Node *create_scan_state(CustomScan *plan);
static void begin_scan(CustomScanState *node, EState *estate, int eflags);
static void begin_relation(RowFunctionScan *scan, EState *estate);
static void begin_function(RowFunctionScan *scan, FuncExpr *call);
static TupleDesc whole_row_desc(RowFunctionScan *scan, Var *var, List *names);
static void check_execute_privilege(Oid function);
static TupleTableSlot *next_result(CustomScanState *node);
static TupleTableSlot *next_row(RowFunctionScan *scan);
static void start_call(RowFunctionScan *scan);
static RowSource *call_function(RowFunctionScan *scan);
static void end_call(RowFunctionScan *scan);
static void store_row(RowFunctionScan *scan, TupleTableSlot *row);
static Datum whole_row(RowFunctionScan *scan, TupleTableSlot *row);
static void rescan(CustomScanState *node);
static void end_scan(CustomScanState *node);
static Size shared_size(CustomScanState *node, ParallelContext *pcxt);
static void init_shared(CustomScanState *node, ParallelContext *pcxt, void *shared);
static void attach_shared(CustomScanState *node, shm_toc *toc, void *shared);
static void explain_scan(CustomScanState *node, List *ancestors, ExplainState *es);

static set_rel_pathlist_hook_type prev_set_rel_pathlist_hook = NULL;

static const CustomPathMethods path_methods = {
	.CustomName = SCAN_NAME,
	.PlanCustomPath = make_plan
};

static const CustomScanMethods scan_methods = {
	.CustomName = SCAN_NAME,
	.CreateCustomScanState = create_scan_state
};

static const CustomExecMethods exec_methods = {
	.CustomName = SCAN_NAME,
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = next_result,
	.EndCustomScan = end_scan,
	.ReScanCustomScan = rescan,
	.EstimateDSMCustomScan = shared_size,
	.InitializeDSMCustomScan = init_shared,
	.ReInitializeDSMCustomScan = init_shared,
	.InitializeWorkerCustomScan = attach_shared,
	.ExplainCustomScan = explain_scan
};

void
RowFunctionsInit(void)
{
	RegisterRowFunction(&ReplayFunction);
	RegisterRowFunction(&RecordedFunction);
	RegisterRowFunction(&ReadAllFunction);
	RegisterParallelCheck("replay", UpcastCallIsParallelSafe);
	RegisterCustomScanMethods(&scan_methods);
	prev_set_rel_pathlist_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_stream_path;
}

void
RegisterRowFunction(const RowFunction *function)
{
	Assert(row_function_count < MAX_ROW_FUNCTIONS);
	row_functions[row_function_count++] = function;
}

const RowRelation *
StreamRelation(const RowRelation *relation)
{
	const RowRelation *before = streamed_relation;

	streamed_relation = relation;
	return before;
}

Datum
ReturnRows(const RowFunction *function, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid		   *arg_types = palloc(sizeof(Oid) * function->nargs);
	RowCall		call = {function->nargs, fcinfo->args, arg_types, GetActiveSnapshot()};
	RowSource  *source;
	TupleTableSlot *row;

	Assert(fcinfo->nargs == function->nargs);
	for (int i = 0; i < function->nargs; i++)
		arg_types[i] = get_fn_expr_argtype(fcinfo->flinfo, i);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	source = function->begin(&call);
	while ((row = source->next(source)) != NULL)
		tuplestore_puttupleslot(rsinfo->setResult, row);
	source->end(source);
	return (Datum) 0;
}

/*
 * Planning
 */

/* Puts a streaming scan in place of the scan that PostgreSQL would make. */
static void
add_stream_path(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	if (prev_set_rel_pathlist_hook)
		prev_set_rel_pathlist_hook(root, rel, rti, rte);

	if (rte->rtekind == RTE_FUNCTION)
		add_function_path(root, rel, rte);
	else if (rte->rtekind == RTE_NAMEDTUPLESTORE)
		add_relation_path(root, rel, rte);
}

static void
add_function_path(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte)
{
	RangeTblFunction *item;
	const RowFunction *function;
	CustomPath *path;
	Path	   *plain;

	/* A recheck after a row lock would need the stored rows. */
	if (rte->funcordinality || list_length(rte->functions) != 1 || root->rowMarks != NIL ||
		rel->pathlist == NIL)
		return;
	item = linitial_node(RangeTblFunction, rte->functions);
	if (!IsA(item->funcexpr, FuncExpr))
		return;
	function = find_row_function(((FuncExpr *) item->funcexpr)->funcid);
	plain = linitial(rel->pathlist);
	if (function == NULL || !IsA(plain, Path) || plain->pathtype != T_FunctionScan)
		return;

	path = stream_path(plain);
	path->path.pathkeys = row_order(root, rel, function, (FuncExpr *) item->funcexpr);
	rel->pathlist = NIL;
	if (function->estimate)
		add_estimated_paths(root, rel, function, path, ((FuncExpr *) item->funcexpr)->args);
	else
		add_path(rel, (Path *) path);
}

/*
 * A trigger's transition table, which has the OID of its table, may have the
 * name of the streamed relation too.
 */
static void
add_relation_path(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte)
{
	Path	   *plain;

	if (streamed_relation == NULL || OidIsValid(rte->relid) ||
		strcmp(rte->enrname, streamed_relation->name) != 0 || IS_DUMMY_REL(rel))
		return;

	/* there is nothing else that the relation could be read from */
	plain = linitial(rel->pathlist);
	if (root->rowMarks != NIL || plain->pathtype != T_NamedTuplestoreScan)
		elog(ERROR, "relation \"%s\" cannot be streamed here", rte->enrname);
	rel->pathlist = NIL;
	add_path(rel, (Path *) stream_path(plain));
}

static CustomPath *
stream_path(const Path *plain)
{
	CustomPath *path = makeNode(CustomPath);

	path->path = *plain;
	path->path.type = T_CustomPath;
	path->path.pathtype = T_CustomScan;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->methods = &path_methods;
	return path;
}

/* The function's fixed cost and number of rows give way to what is known of this call. */
static void
add_estimated_paths(PlannerInfo *root, RelOptInfo *rel, const RowFunction *function,
					CustomPath *path, List *args)
{
	RowEstimate estimate = {0};
	Cost		row_cost;
	int			workers;
	CustomPath *partial;

	if (!function->estimate(args, &estimate))
	{
		rel->consider_parallel = false;
		path->path.parallel_safe = false;
		add_path(rel, (Path *) path);
		return;
	}
	row_cost = (path->path.total_cost - path->path.startup_cost) / rel->tuples;
	rel->rows = clamp_row_est(rel->rows * estimate.rows / rel->tuples);
	rel->tuples = estimate.rows;
	rel->consider_parallel &= estimate.parallel_safe;
	path->path.rows = rel->rows;
	path->path.startup_cost = 0;
	path->path.total_cost = estimate.cost + row_cost * estimate.rows;
	path->path.parallel_safe = rel->consider_parallel;
	add_path(rel, (Path *) path);

	workers = compute_parallel_worker(rel, estimate.pages, -1, max_parallel_workers_per_gather);
	if (function->shared_size == 0 || !rel->consider_parallel || workers <= 0 ||
		!bms_is_empty(rel->lateral_relids))
		return;
	partial = makeNode(CustomPath);
	*partial = *path;
	partial->path.pathkeys = NIL;
	partial->path.parallel_aware = true;
	partial->path.parallel_workers = workers;
	partial->path.rows = clamp_row_est(rel->rows / process_count(workers));
	partial->path.total_cost /= process_count(workers);
	add_partial_path(rel, (Path *) partial);
}

/* The leader helps, the less so the more workers it has to serve. */
static double
process_count(int workers)
{
	double		leader = parallel_leader_participation ? 1.0 - 0.3 * workers : 0;

	return workers + Max(leader, 0);
}

static const RowFunction *
find_row_function(Oid funcid)
{
	char	   *name = DaybookFunctionName(funcid);

	if (name == NULL)
		return NULL;
	for (int i = 0; i < row_function_count; i++)
		if (strcmp(name, row_functions[i]->name) == 0 &&
			get_func_nargs(funcid) == row_functions[i]->nargs)
			return row_functions[i];
	return NULL;
}

/* The order in which the rows come, as far as the query cares. */
static List *
row_order(PlannerInfo *root, RelOptInfo *rel, const RowFunction *function, FuncExpr *call)
{
	Var		   *column;
	StrategyNumber order = BTLessStrategyNumber;
	Oid			operator;

	if (function->order_column == InvalidAttrNumber)
		return NIL;
	if (function->backwards_arg >= 0)
	{
		Const	   *backwards = list_nth(call->args, function->backwards_arg);

		if (!IsA(backwards, Const))
			return NIL;
		if (!backwards->constisnull && DatumGetBool(backwards->constvalue))
			order = BTGreaterStrategyNumber;
	}
	column = makeVar(rel->relid, function->order_column, INT8OID, -1, InvalidOid, 0);
	operator = get_opfamily_member(INTEGER_BTREE_FAM_OID, INT8OID, INT8OID, order);
#if PG_VERSION_NUM >= 160000
	return build_expression_pathkey(root, (Expr *) column, operator, rel->relids, false);
#else
	return build_expression_pathkey(root, (Expr *) column, NULL, operator, rel->relids, false);
#endif
}

static Plan *
make_plan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist,
		  List *clauses, List *custom_plans)
{
	CustomScan *plan = makeNode(CustomScan);
	RangeTblEntry *rte = planner_rt_fetch(rel->relid, root);

	plan->flags = path->flags;
	plan->methods = &scan_methods;
	plan->scan.plan.targetlist = tlist;
	plan->scan.plan.qual = extract_actual_clauses(clauses, false);
	if (rte->rtekind == RTE_FUNCTION)
		plan->custom_exprs = list_make1(linitial_node(RangeTblFunction, rte->functions)->funcexpr);
	plan->custom_private = rte->eref->colnames;
	plan->custom_scan_tlist = needed_columns(rel, plan->scan.plan.qual);
	return &plan->scan.plan;
}

/*
 * Columns of the row that a plan refers to, as a target list.  The
 * plan's own target list can be replaced later, by one that needs no more.
 */
static List *
needed_columns(RelOptInfo *rel, List *quals)
{
	int			flags = PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS |
		PVC_RECURSE_PLACEHOLDERS;
	List	   *vars = list_concat(pull_var_clause((Node *) rel->reltarget->exprs, flags),
								   pull_var_clause((Node *) quals, flags));
	List	   *own = NIL;
	ListCell   *lc;

	foreach(lc, vars)
		if (((Var *) lfirst(lc))->varno == rel->relid)
			own = lappend(own, lfirst(lc));
	return add_to_flat_tlist(NIL, own);
}

/*
 * Execution
 */

static Node *
create_scan_state(CustomScan *plan)
{
	RowFunctionScan *scan = (RowFunctionScan *) newNode(sizeof(RowFunctionScan),
														T_CustomScanState);

	scan->css.methods = &exec_methods;
	return (Node *) scan;
}

static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
	RowFunctionScan *scan = (RowFunctionScan *) node;
	CustomScan *plan = (CustomScan *) node->ss.ps.plan;
	ListCell   *lc;

	if (plan->custom_exprs == NIL)
		begin_relation(scan, estate);
	else
		begin_function(scan, linitial_node(FuncExpr, plan->custom_exprs));
	scan->context = AllocSetContextCreate(CurrentMemoryContext, SCAN_NAME,
										  ALLOCSET_DEFAULT_SIZES);

	scan->columns = palloc(sizeof(AttrNumber) * (list_length(plan->custom_scan_tlist) + 1));
	foreach(lc, plan->custom_scan_tlist)
	{
		Var		   *var = castNode(Var, lfirst_node(TargetEntry, lc)->expr);

		scan->columns[scan->ncolumns++] = var->varattno;
		scan->last_column = Max(scan->last_column, var->varattno);
		if (var->varattno == InvalidAttrNumber)
			scan->row_desc = whole_row_desc(scan, var, plan->custom_private);
	}
}

static void
begin_relation(RowFunctionScan *scan, EState *estate)
{
	EphemeralNamedRelation known;

	scan->relation = streamed_relation;
	known = scan->relation ? get_ENR(estate->es_queryEnv, scan->relation->name) : NULL;
	if (known == NULL || known->md.tupdesc != scan->relation->desc)
		elog(ERROR, "the relation of a stream of rows is not there");
}

static void
begin_function(RowFunctionScan *scan, FuncExpr *call)
{
	scan->call = call;
	scan->function = find_row_function(call->funcid);
	if (scan->function == NULL)
		elog(ERROR, "function %u does not stream its rows", call->funcid);
	check_execute_privilege(call->funcid);
	scan->args = ExecInitExprList(call->args, &scan->css.ss.ps);
}

/* A named type, or a record with the columns' names in the statement. */
static TupleDesc
whole_row_desc(RowFunctionScan *scan, Var *var, List *names)
{
	TupleDesc	desc;

	if (var->vartype != RECORDOID)
		return lookup_rowtype_tupdesc_copy(var->vartype, var->vartypmod);
	if (scan->relation)
		desc = CreateTupleDescCopy(scan->relation->desc);
	else if (get_expr_result_type((Node *) scan->call, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "function %u does not return rows", scan->call->funcid);
	desc->tdtypeid = RECORDOID;
	desc->tdtypmod = -1;
	ExecTypeSetColNames(desc, names);
	return BlessTupleDesc(desc);
}

/* As the executor does for a function that it calls itself. */
static void
check_execute_privilege(Oid function)
{
	AclResult	result = function_aclcheck_compat(function, GetUserId(), ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
	InvokeFunctionExecuteHook(function);
}

static TupleTableSlot *
next_result(CustomScanState *node)
{
	RowFunctionScan *scan = (RowFunctionScan *) node;
	ExprContext *econtext = node->ss.ps.ps_ExprContext;
	ProjectionInfo *projection = node->ss.ps.ps_ProjInfo;

	for (;;)
	{
		TupleTableSlot *slot;

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(econtext);
		slot = next_row(scan);
		if (TupIsNull(slot))
			return projection ? ExecClearTuple(projection->pi_state.resultslot) : slot;
		econtext->ecxt_scantuple = slot;
		if (ExecQual(node->ss.ps.qual, econtext))
			return projection ? ExecProject(projection) : slot;
		InstrCountFiltered1(node, 1);
	}
}

static TupleTableSlot *
next_row(RowFunctionScan *scan)
{
	TupleTableSlot *slot = scan->css.ss.ss_ScanTupleSlot;
	MemoryContext caller;
	TupleTableSlot *row;

	ExecClearTuple(slot);
	if (scan->done)
		return slot;
	if (scan->source == NULL)
		start_call(scan);
	caller = MemoryContextSwitchTo(scan->context);
	row = scan->source->next(scan->source);
	MemoryContextSwitchTo(caller);
	if (row)
		store_row(scan, row);
	else
		end_call(scan);
	return slot;
}

static void
start_call(RowFunctionScan *scan)
{
	/* arguments must last as long as the call does */
	MemoryContext caller = MemoryContextSwitchTo(scan->context);

	scan->source = scan->relation ? scan->relation->begin(scan->relation) : call_function(scan);
	MemoryContextSwitchTo(caller);
}

static RowSource *
call_function(RowFunctionScan *scan)
{
	ExprContext *econtext = scan->css.ss.ps.ps_ExprContext;
	NullableDatum *args = palloc(sizeof(NullableDatum) * scan->function->nargs);
	Oid		   *arg_types = palloc(sizeof(Oid) * scan->function->nargs);
	RowCall		call;
	int			i = 0;
	ListCell   *lc;

	foreach(lc, scan->args)
	{
		arg_types[i] = exprType(list_nth(scan->call->args, i));
		args[i].value = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &args[i].isnull);
		i++;
	}
	call.nargs = scan->function->nargs;
	call.args = args;
	call.arg_types = arg_types;
	call.snapshot = scan->css.ss.ps.state->es_snapshot;
	call.shared = scan->shared;
	return scan->function->begin(&call);
}

/* Lets go of what the call holds; there are no more rows until a rescan. */
static void
end_call(RowFunctionScan *scan)
{
	if (scan->source)
		scan->source->end(scan->source);
	scan->source = NULL;
	scan->done = true;
	MemoryContextReset(scan->context);
}

/* Stores the wanted columns of a row in the scan's slot. */
static void
store_row(RowFunctionScan *scan, TupleTableSlot *row)
{
	TupleTableSlot *slot = scan->css.ss.ss_ScanTupleSlot;

	slot_getsomeattrs(row, scan->last_column);
	for (int i = 0; i < scan->ncolumns; i++)
	{
		AttrNumber	column = scan->columns[i];

		if (column == InvalidAttrNumber)
		{
			slot->tts_values[i] = whole_row(scan, row);
			slot->tts_isnull[i] = false;
		}
		else
		{
			slot->tts_values[i] = row->tts_values[column - 1];
			slot->tts_isnull[i] = row->tts_isnull[column - 1];
		}
	}
	ExecStoreVirtualTuple(slot);
}

static Datum
whole_row(RowFunctionScan *scan, TupleTableSlot *row)
{
	ExprContext *econtext = scan->css.ss.ps.ps_ExprContext;
	MemoryContext caller = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(row, false, &should_free);
	Datum		result = heap_copy_tuple_as_datum(tuple, scan->row_desc);

	if (should_free)
		heap_freetuple(tuple);
	MemoryContextSwitchTo(caller);
	return result;
}

static void
rescan(CustomScanState *node)
{
	RowFunctionScan *scan = (RowFunctionScan *) node;

	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	end_call(scan);
	scan->done = false;
}

static void
end_scan(CustomScanState *node)
{
	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	end_call((RowFunctionScan *) node);
}

/*
 * In parallel
 */

static Size
shared_size(CustomScanState *node, ParallelContext *pcxt)
{
	return ((RowFunctionScan *) node)->function->shared_size;
}

/* Also before a rescan, while no worker runs. */
static void
init_shared(CustomScanState *node, ParallelContext *pcxt, void *shared)
{
	RowFunctionScan *scan = (RowFunctionScan *) node;

	scan->function->init_shared(shared);
	scan->shared = shared;
}

static void
attach_shared(CustomScanState *node, shm_toc *toc, void *shared)
{
	((RowFunctionScan *) node)->shared = shared;
}

static void
explain_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	RowFunctionScan *scan = (RowFunctionScan *) node;
	List	   *context;

	if (scan->relation)
	{
		ExplainPropertyText("Relation", scan->relation->name, es);
		return;
	}
	context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, ancestors);
	ExplainPropertyText("Function Call",
						deparse_expression((Node *) scan->call, context,
										   list_length(es->rtable) > 1 || es->verbose,
										   false),
						es);
}

/*-------------------------------------------------------------------------
 *
 * row_function.h
 *	  Set-returning functions, and named relations, whose rows stream.
 *
 * PostgreSQL stores all rows of a function in FROM before it gives the first.
 * A function that is described here is run by a scan node of our own where
 * that is possible: it passes its rows on one by one, says in which order they
 * come, and stops when no more are wanted.  Elsewhere (in the select list, in
 * ROWS FROM, in a statement that locks rows) it works as any other function.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_ROW_FUNCTION_H
#define DAYBOOK_ROW_FUNCTION_H

#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "nodes/nodes.h"
#include "storage/block.h"
#include "utils/snapshot.h"

struct EventReader;

/* A call in progress. */
typedef struct RowSource RowSource;
struct RowSource
{
	/* NULL after the last; a row is valid until the next call */
	TupleTableSlot *(*next) (RowSource *source);
	void		(*end) (RowSource *source);
};

typedef struct RowCall
{
	int			nargs;
	const NullableDatum *args;
	const Oid  *arg_types;
	Snapshot	snapshot;
	void	   *shared;			/* NULL unless rows are shared with other processes */
} RowCall;

/* What the planner can know of a call. */
typedef struct RowEstimate
{
	double		rows;
	Cost		cost;			/* of all of them */
	BlockNumber pages;			/* that are read */
	bool		parallel_safe;
} RowEstimate;

typedef struct RowFunction
{
	const char *name;			/* in schema daybook */
	int			nargs;
	RowSource  *(*begin) (const RowCall *call);
	AttrNumber	order_column;	/* bigint by which rows rise, 0 for none */
	int			backwards_arg;	/* argument that makes them fall, or -1 */

	/*
	 * Optional: false if nothing is known, in which case the call is not
	 * taken for parallel safe.
	 */
	bool		(*estimate) (const List *args, RowEstimate *estimate);

	/* of functions with estimates whose rows processes can share out among them */
	Size		shared_size;	/* 0: they cannot */
	void		(*init_shared) (void *shared);
} RowFunction;

/*
 * A relation that a statement knows by its name alone (SPI_register_relation).
 * PostgreSQL would have its rows in a tuplestore; each scan of one that is
 * streamed gets a source of its own.
 */
typedef struct RowRelation
{
	const char *name;
	TupleDesc	desc;			/* the very one that it was registered with */
	RowSource  *(*begin) (const struct RowRelation *relation);
	const void *arg;
} RowRelation;

extern const RowFunction ReplayFunction;
extern const RowFunction RecordedFunction;
extern const RowFunction ReadAllFunction;

/* The body of the function as SQL calls it. */
extern Datum ReturnRows(const RowFunction *function, FunctionCallInfo fcinfo);

/* Called once when the module is loaded. */
extern void RowFunctionsInit(void);

/* Makes a function known, besides those of this folder. */
extern void RegisterRowFunction(const RowFunction *function);

/*
 * Streams a relation in the statements that are planned and begun until the
 * next call, and in no UPDATE or DELETE; NULL ends it.  Returns what was
 * streamed before.
 */
extern const RowRelation *StreamRelation(const RowRelation *relation);

/* Rows of daybook.log_event, so many at most, from a reader that is ended with them. */
extern RowSource *LogRowsBegin(struct EventReader *reader, int64 max_rows);

#endif							/* DAYBOOK_ROW_FUNCTION_H */

/*-------------------------------------------------------------------------
 *
 * upcast.h
 *	  Bringing events that are read up to the newest version of their type.
 *
 * From (type, n) a step leads to (its to_type, n + 1).  Steps from the same
 * place are tried in turn: the first whose function does not return null has
 * the event, and if there is none the event is dropped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_UPCAST_H
#define DAYBOOK_UPCAST_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "nodes/primnodes.h"
#include "schema/event_schema.h"

/* The upcasters of an event table, made ready. */
typedef struct Upcasting Upcasting;

/* Can a function be one? */
extern bool IsUpcasterFunction(Oid function);

/* NULL if the table has none; lives in the current memory context. */
extern Upcasting *UpcastingBegin(Relation event_table);
extern void UpcastingEnd(Upcasting *upcasting);

/* False: UpcastingBegin() may give something else now. */
extern bool UpcastingIsCurrent(const Upcasting *upcasting, Oid event_table);

/* Has an event of this type and version a way to go? */
extern bool UpcastApplies(const Upcasting *upcasting, const text *type, int32 version);

/* Can it become one that passes the test? */
typedef bool (*TypeTest) (const text *type, void *arg);
extern bool UpcastMayReach(Upcasting *upcasting, const text *type, int32 version,
						   TypeTest test, void *arg);

/*
 * Changes type, schema_version and data of an event, given as the values of
 * daybook.event, of which others may be null; false: the event is dropped.  Functions run as the owner of
 * the event table from the first Upcast() to UpcastRest(), before which the
 * caller runs no code of others.
 */
extern bool Upcast(Upcasting *upcasting, Datum *values, bool *nulls);
extern void UpcastRest(Upcasting *upcasting);

/* Instead of UpcastRest(), where a subtransaction that failed was rolled back. */
extern void UpcastAborted(Upcasting *upcasting);

/* The same for a whole tuple, in the current memory context; NULL: dropped. */
extern HeapTuple UpcastTuple(Upcasting *upcasting, HeapTuple tuple, TupleDesc desc);

/*
 * What is wrong with it if events are left at this version, NULL for nothing.
 */
extern char *UpcastDeadEnd(const EventSchema *schema, const text *type, int32 version);

/* Are they all marked PARALLEL SAFE? */
extern bool UpcastersAreParallelSafe(Relation event_table);

/* The same for a call of a function whose first argument is an event table. */
extern bool UpcastCallIsParallelSafe(const FuncExpr *call);

/* Called once when the module is loaded. */
extern void UpcastCallsInit(void);

/* UpcastApplies() of a tuple. */
extern bool UpcastTupleApplies(const Upcasting *upcasting, HeapTuple tuple, TupleDesc desc);

#endif							/* DAYBOOK_UPCAST_H */

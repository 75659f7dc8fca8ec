/*-------------------------------------------------------------------------
 *
 * own_rows.c
 *	  Reads and writes rows of the extension's own tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "daybook.h"
#include "subscription/own_rows.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

void
OwnScanInit(OwnScan *scan)
{
	scan->nkeys = 0;
}

/* Rows whose column is this text. */
void
OwnScanKeyText(OwnScan *scan, AttrNumber column, const char *value)
{
	OwnScanKey(scan, column, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(value));
}

void
OwnScanKey(OwnScan *scan, AttrNumber column, StrategyNumber strategy,
		   RegProcedure function, Datum value)
{
	Assert(scan->nkeys < OWN_SCAN_MAX_KEYS);
	ScanKeyInit(&scan->keys[scan->nkeys++], column, strategy, function, value);
}

void
OwnScanBegin(OwnScan *scan, const char *table, const char *index)
{
	scan->table = table_open(DaybookRelation(table), AccessShareLock);
	scan->index = index_open(DaybookRelation(index), AccessShareLock);
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan_ordered(scan->table, scan->index, scan->snapshot,
											scan->nkeys, scan->keys);
}

/* The next row taken apart, NULL after the last; valid until the next call. */
HeapTuple
OwnScanNext(OwnScan *scan, Datum *values, bool *nulls)
{
	HeapTuple	tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);

	if (HeapTupleIsValid(tuple))
		heap_deform_tuple(tuple, RelationGetDescr(scan->table), values, nulls);
	return tuple;
}

/* What the rows that are left have in a bigint column, numbered from 0. */
int64 *
OwnScanPositions(OwnScan *scan, int column, int *count)
{
	int			natts = RelationGetDescr(scan->table)->natts;
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);
	int			room = 64;
	int64	   *result = palloc(sizeof(int64) * room);

	*count = 0;
	while (OwnScanNext(scan, values, nulls) != NULL)
	{
		if (*count == room)
			result = repalloc(result, sizeof(int64) * (room *= 2));
		result[(*count)++] = DatumGetInt64(values[column]);
	}
	return result;
}

void
OwnScanEnd(OwnScan *scan)
{
	systable_endscan_ordered(scan->scan);
	UnregisterSnapshot(scan->snapshot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->table, AccessShareLock);
}

void
OwnRowStore(const char *table, ItemPointer tid, Datum *values, bool *nulls)
{
	Relation	rel = table_open(DaybookRelation(table), RowExclusiveLock);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);

	if (ItemPointerIsValid(tid))
		CatalogTupleUpdate(rel, tid, tuple);
	else
		CatalogTupleInsert(rel, tuple);
	*tid = tuple->t_self;
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
OwnRowDelete(const char *table, ItemPointer tid)
{
	Relation	rel = table_open(DaybookRelation(table), RowExclusiveLock);

	CatalogTupleDelete(rel, tid);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* for bigint and for timestamptz, which is one: 0 is null */
Datum
Int64OrNull(int64 value, bool *isnull)
{
	*isnull = value == 0;
	return Int64GetDatum(value);
}

Datum
TextOrNull(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

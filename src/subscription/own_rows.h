/*-------------------------------------------------------------------------
 *
 * own_rows.h
 *	  Reading and writing rows of the extension's own tables.
 *
 * They are read with the latest snapshot, whatever the isolation level of the
 * calling transaction, since others may have moved on meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_OWN_ROWS_H
#define DAYBOOK_OWN_ROWS_H

#include "access/genam.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#define OWN_SCAN_MAX_KEYS	4

/* A scan of a table in the order of one of its indexes. */
typedef struct OwnScan
{
	Relation	table;
	Relation	index;
	Snapshot	snapshot;
	SysScanDesc scan;
	int			nkeys;
	ScanKeyData keys[OWN_SCAN_MAX_KEYS];
} OwnScan;

/* First the keys, then begin. */
extern void OwnScanInit(OwnScan *scan);
extern void OwnScanKeyText(OwnScan *scan, AttrNumber column, const char *value);
extern void OwnScanKey(OwnScan *scan, AttrNumber column, StrategyNumber strategy,
					   RegProcedure function, Datum value);
extern void OwnScanBegin(OwnScan *scan, const char *table, const char *index);
extern HeapTuple OwnScanNext(OwnScan *scan, Datum *values, bool *nulls);
extern int64 *OwnScanPositions(OwnScan *scan, int column, int *count);
extern void OwnScanEnd(OwnScan *scan);

/* Inserts a row, or replaces the one at a valid tid; sets tid to where it is. */
extern void OwnRowStore(const char *table, ItemPointer tid, Datum *values, bool *nulls);
extern void OwnRowDelete(const char *table, ItemPointer tid);

/* Values that stand for null in a struct. */
extern Datum Int64OrNull(int64 value, bool *isnull);
extern Datum TextOrNull(const char *value, bool *isnull);

#endif							/* DAYBOOK_OWN_ROWS_H */

/*-------------------------------------------------------------------------
 *
 * log_scan.h
 *	  Reading the log in order of position.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_LOG_SCAN_H
#define DAYBOOK_LOG_SCAN_H

#include "sequencer/log_segment.h"
#include "utils/snapshot.h"

typedef struct LogScan LogScan;

/* Entries with a position above after, rising. */
extern LogScan *LogScanBegin(Snapshot snapshot, int64 after);
/* The same for who calls MakeLogDurable() before he lets anything be known of what he reads. */
extern LogScan *LogScanBeginAhead(Snapshot snapshot, int64 after);
/* Entries with a position of at most upto, falling. */
extern LogScan *LogScanBeginBackward(Snapshot snapshot, int64 upto);
extern bool LogScanNext(LogScan *scan, LogEntry *entry);
extern void LogScanEnd(LogScan *scan);

/* Last position, 0 when the log is empty. */
extern int64 LogHead(Snapshot snapshot);
/* The same now, whatever the transaction's snapshot. */
extern int64 LogHeadNow(void);

/* The event table that goes by a number, InvalidOid when it was dropped. */
extern Oid	LogEventTable(Snapshot snapshot, int32 table_no);

#endif							/* DAYBOOK_LOG_SCAN_H */

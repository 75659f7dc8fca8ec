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

extern LogScan *LogScanBegin(Snapshot snapshot, int64 after);
extern bool LogScanNext(LogScan *scan, LogEntry *entry);
extern void LogScanEnd(LogScan *scan);
extern int64 LogHead(Snapshot snapshot);

#endif							/* DAYBOOK_LOG_SCAN_H */

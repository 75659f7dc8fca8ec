/*-------------------------------------------------------------------------
 *
 * log_rows.h
 *	  The columns of daybook.log_segment.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_LOG_ROWS_H
#define DAYBOOK_LOG_ROWS_H

#include "catalog/indexing.h"
#include "sequencer/log_segment.h"
#include "utils/rel.h"

#define LOG_SEGMENT_TABLE			"log_segment"
#define LOG_SEGMENT_INDEX			"log_segment_pkey"
#define LOG_SEGMENT_FIRST_POSITION	1
#define LOG_SEGMENT_EVENT_COUNT		2
#define LOG_SEGMENT_ENTRIES			3
#define LOG_SEGMENT_NATTS			3

/* log_write.c */
extern void LogSegmentInsert(Relation rel, CatalogIndexState indexes,
							 LogSegmentWriter *segment);

#endif							/* DAYBOOK_LOG_ROWS_H */

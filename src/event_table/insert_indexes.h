/*-------------------------------------------------------------------------
 *
 * insert_indexes.h
 *	  Which of an event table's indexes an insertion opens.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_INSERT_INDEXES_H
#define DAYBOOK_INSERT_INDEXES_H

#include "executor/execdesc.h"
#include "nodes/execnodes.h"
#include "utils/reltrigger.h"

extern bool OnlyVersionTriggerSeesRows(const TriggerDesc *triggers);
extern bool OpenIndexesWithoutEventId(ResultRelInfo *target);
extern void InsertOpenIndexes(QueryDesc *statement);

#endif							/* DAYBOOK_INSERT_INDEXES_H */

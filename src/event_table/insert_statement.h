/*-------------------------------------------------------------------------
 *
 * insert_statement.h
 *	  What the INSERT that fired a trigger says about conflicts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_INSERT_STATEMENT_H
#define DAYBOOK_INSERT_STATEMENT_H

#include "utils/rel.h"

extern void InsertStatementInit(void);
extern bool StatementIsRun(void);
extern bool InsertIgnoresConflicts(Relation rel, Oid index);

#endif							/* DAYBOOK_INSERT_STATEMENT_H */

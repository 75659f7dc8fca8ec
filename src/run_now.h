/*-------------------------------------------------------------------------
 *
 * run_now.h
 *	  Statements on catalogs and daybook's own tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_RUN_NOW_H
#define DAYBOOK_RUN_NOW_H

/*
 * As SPI_execute_with_args(), but sees what is committed by now, whatever the
 * transaction's snapshot does: what a row says of a table, fold or projection
 * holds for everybody, from its commit on.
 */
extern int	RunNow(const char *command, int nargs, Oid *types, Datum *values, const char *nulls);

#endif							/* DAYBOOK_RUN_NOW_H */

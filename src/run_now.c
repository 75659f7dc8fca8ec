/*-------------------------------------------------------------------------
 *
 * run_now.c
 *	  Statements on catalogs and daybook's own tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "run_now.h"
#include "utils/snapmgr.h"

int
RunNow(const char *command, int nargs, Oid *types, Datum *values, const char *nulls)
{
	SPIPlanPtr	plan = SPI_prepare(command, nargs, types);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", command, SPI_result_code_string(SPI_result));
	return SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot,
								false, true, 0);
}

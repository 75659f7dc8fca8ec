/*-------------------------------------------------------------------------
 *
 * status.c
 *	  What daybook.projection_status shows beyond the stored rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "projection/projector_slots.h"
#include "sequencer/log_scan.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(daybook_projector_workers);
Datum
daybook_projector_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, ProjectorSlotList())
	{
		ProjectorSlot *slot = lfirst(lc);
		Datum		values[3];
		bool		nulls[3] = {false, slot->pid == 0, false};

		values[0] = CStringGetTextDatum(slot->name);
		values[1] = Int32GetDatum(slot->pid);
		values[2] = TimestampTzGetDatum(slot->since);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(daybook_oldest_unapplied);
Datum
daybook_oldest_unapplied(PG_FUNCTION_ARGS)
{
	LogScan    *scan = LogScanBegin(GetActiveSnapshot(), PG_GETARG_INT64(0));
	LogEntry	entry;
	bool		found = LogScanNext(scan, &entry);

	LogScanEnd(scan);
	if (!found)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(entry.committed_at);
}

/*-------------------------------------------------------------------------
 *
 * suspects.c
 *	  Whose fault an error is: which event of a batch, or none of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "projection/projection.h"

/*
 * Tries half of the failed batch next, or all events before the one in which
 * a function failed.
 */
void
SuspectsNarrow(Suspects *suspects, const EventBatch *batch)
{
	suspects->count = batch->count;
	suspects->end = batch->last_position;
	if (batch->current.event_id != 0 && batch->done < batch->count)
		suspects->limit = Max(batch->done, 1);
	else
		suspects->limit = batch->count / 2;
}

/* Goes back to full batches once all suspects have been applied. */
void
SuspectsPassed(Suspects *suspects, int64 count, int64 position)
{
	if (suspects->limit == 0)
		return;
	suspects->count -= count;
	if (position >= suspects->end || suspects->count <= 0)
		suspects->limit = 0;
	else
		suspects->limit = Max(suspects->count / 2, 1);
}

/* The texts stay those of the error data; the event is not known. */
void
ProjectionErrorSet(ProjectionError *error, const ErrorData *data)
{
	memset(error, 0, sizeof(ProjectionError));
	error->sqlstate = pstrdup(unpack_sql_state(data->sqlerrcode));
	error->message = data->message;
	error->detail = data->detail;
	error->context = data->context;
}

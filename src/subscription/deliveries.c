/*-------------------------------------------------------------------------
 *
 * deliveries.c
 *	  How often events have been handed out in vain.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "subscription/subscription.h"

/* The oldest is forgotten when there are too many to count. */
void
DeliveriesAdd(Deliveries *deliveries, int64 end)
{
	if (deliveries->count == MAX_DELIVERIES)
		memmove(deliveries->ends, deliveries->ends + 1,
				sizeof(int64) * --deliveries->count);
	deliveries->ends[deliveries->count++] = end;
}

/* How many of them had the event at a position. */
int
DeliveriesOf(const Deliveries *deliveries, int64 position)
{
	int			result = 0;

	for (int i = 0; i < deliveries->count; i++)
		if (llabs(deliveries->ends[i]) >= position)
			result++;
	return result;
}

/* How many had it and ended without anybody saying why. */
int
DeliveriesSuspicious(const Deliveries *deliveries, int64 position)
{
	int			result = 0;

	for (int i = 0; i < deliveries->count; i++)
		if (deliveries->ends[i] >= position)
			result++;
	return result;
}

/* Somebody has said why the last one failed. */
void
DeliveriesExcuse(Deliveries *deliveries)
{
	if (deliveries->count > 0)
		deliveries->ends[deliveries->count - 1] = -llabs(deliveries->ends[deliveries->count - 1]);
}

void
DeliveriesExcuseAll(Deliveries *deliveries)
{
	for (int i = 0; i < deliveries->count; i++)
		deliveries->ends[i] = -llabs(deliveries->ends[i]);
}

/* Forgets what has been acknowledged up to a position. */
void
DeliveriesSettle(Deliveries *deliveries, int64 upto)
{
	int			kept = 0;

	for (int i = 0; i < deliveries->count; i++)
		if (llabs(deliveries->ends[i]) > upto)
			deliveries->ends[kept++] = deliveries->ends[i];
	deliveries->count = kept;
}

Datum
DeliveriesToArray(const Deliveries *deliveries)
{
	Datum		ends[MAX_DELIVERIES];

	for (int i = 0; i < deliveries->count; i++)
		ends[i] = Int64GetDatum(deliveries->ends[i]);
	return PointerGetDatum(construct_array(ends, deliveries->count, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
DeliveriesFromArray(Deliveries *deliveries, Datum array)
{
	Datum	   *ends;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(array), INT8OID, sizeof(int64),
					  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ends, NULL, &count);
	deliveries->count = 0;
	for (int i = 0; i < count; i++)
		DeliveriesAdd(deliveries, DatumGetInt64(ends[i]));
}

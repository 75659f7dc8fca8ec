/*-------------------------------------------------------------------------
 *
 * partition_rows.c
 *	  Reads and writes daybook.subscription_partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "subscription/own_rows.h"
#include "subscription/subscription.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#define PARTITION_TABLE		"subscription_partition"
#define PARTITION_KEY		"subscription_partition_pkey"

/* columns of daybook.subscription_partition, from 0 */
enum
{
	P_SUBSCRIPTION,
	P_PARTITION,
	P_POSITION,
	P_LAST_DELIVERED,
	P_SCANNED,
	P_LEASE,
	P_LEASE_PARTITIONS,
	P_LEASE_END,
	P_OUTSTANDING,
	P_CONSUMER,
	P_LEASED_AT,
	P_LEASE_UNTIL,
	P_DELIVERIES,
	P_COLUMNS
};

static void begin_scan(OwnScan *scan, const Subscription *sub, const int *number);
static void from_tuple(Partition *partition, HeapTuple tuple, const Datum *values, const bool *nulls);

/* All partitions of a subscription, in the order of their numbers. */
List *
PartitionLoadAll(const Subscription *sub)
{
	List	   *result = NIL;
	Datum		values[P_COLUMNS];
	bool		nulls[P_COLUMNS];
	HeapTuple	tuple;
	OwnScan		scan;

	begin_scan(&scan, sub, NULL);
	while ((tuple = OwnScanNext(&scan, values, nulls)) != NULL)
	{
		Partition  *partition = palloc0(sizeof(Partition));

		from_tuple(partition, tuple, values, nulls);
		result = lappend(result, partition);
	}
	OwnScanEnd(&scan);
	return result;
}

/* Reads a partition again; false if its row is gone. */
bool
PartitionReload(const Subscription *sub, Partition *partition)
{
	Datum		values[P_COLUMNS];
	bool		nulls[P_COLUMNS];
	HeapTuple	tuple;
	OwnScan		scan;

	begin_scan(&scan, sub, &partition->number);
	tuple = OwnScanNext(&scan, values, nulls);
	if (HeapTupleIsValid(tuple))
		from_tuple(partition, tuple, values, nulls);
	OwnScanEnd(&scan);
	return HeapTupleIsValid(tuple);
}

/* Is the row still the one that the partition was read from? */
bool
PartitionIsUnchanged(const Subscription *sub, const Partition *partition)
{
	Partition	now = {.number = partition->number};

	return PartitionReload(sub, &now) && now.xmin == partition->xmin &&
		ItemPointerEquals(&now.tid, unconstify(ItemPointerData *, &partition->tid));
}

/* Inserts the row of a partition, or replaces the one it was read from. */
void
PartitionStore(const Subscription *sub, Partition *partition)
{
	Datum		values[P_COLUMNS];
	bool		nulls[P_COLUMNS] = {false};

	values[P_SUBSCRIPTION] = CStringGetTextDatum(sub->name);
	values[P_PARTITION] = Int32GetDatum(partition->number);
	values[P_POSITION] = Int64GetDatum(partition->position);
	values[P_LAST_DELIVERED] = Int64OrNull(partition->last_delivered, &nulls[P_LAST_DELIVERED]);
	values[P_SCANNED] = Int64GetDatum(partition->scanned);
	values[P_LEASE] = Int64OrNull(partition->lease, &nulls[P_LEASE]);
	values[P_LEASE_PARTITIONS] = Int32GetDatum(partition->lease_partitions);
	nulls[P_LEASE_PARTITIONS] = partition->lease == 0;
	values[P_LEASE_END] = Int64OrNull(partition->lease_end, &nulls[P_LEASE_END]);
	values[P_OUTSTANDING] = BoolGetDatum(partition->outstanding);
	values[P_CONSUMER] = TextOrNull(partition->consumer, &nulls[P_CONSUMER]);
	values[P_LEASED_AT] = Int64OrNull(partition->leased_at, &nulls[P_LEASED_AT]);
	values[P_LEASE_UNTIL] = Int64OrNull(partition->lease_until, &nulls[P_LEASE_UNTIL]);
	values[P_DELIVERIES] = DeliveriesToArray(&partition->deliveries);
	OwnRowStore(PARTITION_TABLE, &partition->tid, values, nulls);
	partition->xmin = GetCurrentTransactionId();
}

/* A scan for one partition of a subscription, or for all where number is NULL. */
static void
begin_scan(OwnScan *scan, const Subscription *sub, const int *number)
{
	OwnScanInit(scan);
	OwnScanKeyText(scan, P_SUBSCRIPTION + 1, sub->name);
	if (number != NULL)
		OwnScanKey(scan, P_PARTITION + 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(*number));
	OwnScanBegin(scan, PARTITION_TABLE, PARTITION_KEY);
}

static void
from_tuple(Partition *partition, HeapTuple tuple, const Datum *values, const bool *nulls)
{
	memset(partition, 0, sizeof(Partition));
	partition->number = DatumGetInt32(values[P_PARTITION]);
	partition->position = DatumGetInt64(values[P_POSITION]);
	if (!nulls[P_LAST_DELIVERED])
		partition->last_delivered = DatumGetInt64(values[P_LAST_DELIVERED]);
	partition->scanned = DatumGetInt64(values[P_SCANNED]);
	if (!nulls[P_LEASE])
	{
		partition->lease = DatumGetInt64(values[P_LEASE]);
		partition->lease_partitions = DatumGetInt32(values[P_LEASE_PARTITIONS]);
	}
	if (!nulls[P_LEASE_END])
		partition->lease_end = DatumGetInt64(values[P_LEASE_END]);
	partition->outstanding = DatumGetBool(values[P_OUTSTANDING]);
	if (!nulls[P_CONSUMER])
		partition->consumer = TextDatumGetCString(values[P_CONSUMER]);
	if (!nulls[P_LEASED_AT])
		partition->leased_at = DatumGetTimestampTz(values[P_LEASED_AT]);
	if (!nulls[P_LEASE_UNTIL])
		partition->lease_until = DatumGetTimestampTz(values[P_LEASE_UNTIL]);
	DeliveriesFromArray(&partition->deliveries, values[P_DELIVERIES]);
	partition->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	partition->tid = tuple->t_self;
}

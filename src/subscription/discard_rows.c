/*-------------------------------------------------------------------------
 *
 * discard_rows.c
 *	  Reads and writes daybook.subscription_discard, the events that were
 *	  given up.
 *
 * One that was given up while its partition's position was before it is in
 * the queue no more, but must not be taken from the log either.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "miscadmin.h"
#include "subscription/own_rows.h"
#include "subscription/subscription.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#define DISCARD_TABLE		"subscription_discard"
#define DISCARD_KEY			"subscription_discard_pkey"

/* columns of daybook.subscription_discard, from 0 */
enum
{
	D_SUBSCRIPTION,
	D_POSITION,
	D_EVENT_TABLE,
	D_ID,
	D_STREAM_ID,
	D_FAILURE,
	D_REASON,
	D_DISCARDED_BY,
	D_DISCARDED_AT,
	D_COLUMNS
};

static void begin_scan(OwnScan *scan, const Subscription *sub, StrategyNumber strategy,
					   RegProcedure function, int64 position);

void
DiscardStore(const Subscription *sub, const HeldStream *stream, const QueuedEvent *event,
			 const char *reason)
{
	Datum		values[D_COLUMNS];
	bool		nulls[D_COLUMNS] = {false};
	ItemPointerData tid;

	ItemPointerSetInvalid(&tid);
	values[D_SUBSCRIPTION] = CStringGetTextDatum(sub->name);
	values[D_POSITION] = Int64GetDatum(event->position);
	values[D_EVENT_TABLE] = ObjectIdGetDatum(event->key.event_table);
	values[D_ID] = Int64GetDatum(event->id);
	values[D_STREAM_ID] = CStringGetTextDatum(event->stream_id);
	values[D_FAILURE] = TextOrNull(event->position == stream->blocked_at ? stream->reason : NULL,
								   &nulls[D_FAILURE]);
	values[D_REASON] = CStringGetTextDatum(reason);
	values[D_DISCARDED_BY] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	values[D_DISCARDED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	OwnRowStore(DISCARD_TABLE, &tid, values, nulls);
}

bool
DiscardExists(const Subscription *sub, int64 position)
{
	Datum		values[D_COLUMNS];
	bool		nulls[D_COLUMNS];
	bool		result;
	OwnScan		scan;

	begin_scan(&scan, sub, BTEqualStrategyNumber, F_INT8EQ, position);
	result = OwnScanNext(&scan, values, nulls) != NULL;
	OwnScanEnd(&scan);
	return result;
}

/* The positions above one that were given up, whatever their partition, in order. */
int64 *
DiscardPositionsAbove(const Subscription *sub, int64 after, int *count)
{
	int64	   *result;
	OwnScan		scan;

	begin_scan(&scan, sub, BTGreaterStrategyNumber, F_INT8GT, after);
	result = OwnScanPositions(&scan, D_POSITION, count);
	OwnScanEnd(&scan);
	return result;
}

static void
begin_scan(OwnScan *scan, const Subscription *sub, StrategyNumber strategy,
		   RegProcedure function, int64 position)
{
	OwnScanInit(scan);
	OwnScanKeyText(scan, D_SUBSCRIPTION + 1, sub->name);
	OwnScanKey(scan, D_POSITION + 1, strategy, function, Int64GetDatum(position));
	OwnScanBegin(scan, DISCARD_TABLE, DISCARD_KEY);
}

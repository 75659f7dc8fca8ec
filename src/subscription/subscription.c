/*-------------------------------------------------------------------------
 *
 * subscription.c
 *	  Definitions of subscriptions: their rows, who may use them, their locks,
 *	  and reading their events.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "arguments.h"
#include "catalog/pg_authid.h"
#include "common/hashfn.h"
#include "daybook.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "subscription/own_rows.h"
#include "subscription/subscription.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#define SUBSCRIPTION_TABLE	"subscription"

/* columns of daybook.subscription, from 0 */
enum
{
	S_NAME,
	S_OWNER,
	S_CONSUMERS,
	S_SOURCES,
	S_TYPES,
	S_CATEGORIES,
	S_FROM_POSITION,
	S_PARTITIONS,
	S_DELIVERY_LIMIT,
	S_CREATED_AT,
	S_COLUMNS
};

static Subscription *load_or_error(const char *name);
static bool may_consume(Oid owner, ArrayType *consumers);
static ArrayType *copy_array(Datum value, bool isnull);
static void check_owner_exists(const Subscription *sub);
static uint32 name_hash(const char *name);

PG_FUNCTION_INFO_V1(daybook_may_consume);
PG_FUNCTION_INFO_V1(daybook_stream_partition);

/* The definition of a subscription, NULL if there is none of that name. */
Subscription *
SubscriptionLoad(const char *name)
{
	Subscription *sub = NULL;
	Datum		values[S_COLUMNS];
	bool		nulls[S_COLUMNS];
	HeapTuple	tuple;
	OwnScan		scan;

	OwnScanInit(&scan);
	OwnScanKeyText(&scan, S_NAME + 1, name);
	OwnScanBegin(&scan, SUBSCRIPTION_TABLE, "subscription_pkey");
	tuple = OwnScanNext(&scan, values, nulls);
	if (HeapTupleIsValid(tuple))
	{
		sub = palloc0(sizeof(Subscription));
		sub->name = TextDatumGetCString(values[S_NAME]);
		sub->owner = DatumGetObjectId(values[S_OWNER]);
		sub->consumers = copy_array(values[S_CONSUMERS], false);
		sub->sources = copy_array(values[S_SOURCES], false);
		sub->types = copy_array(values[S_TYPES], nulls[S_TYPES]);
		sub->categories = copy_array(values[S_CATEGORIES], nulls[S_CATEGORIES]);
		sub->from_position = DatumGetInt64(values[S_FROM_POSITION]);
		sub->partitions = DatumGetInt32(values[S_PARTITIONS]);
		sub->delivery_limit = nulls[S_DELIVERY_LIMIT] ? NO_DELIVERY_LIMIT :
			DatumGetInt32(values[S_DELIVERY_LIMIT]);
		sub->created_at = DatumGetTimestampTz(values[S_CREATED_AT]);
		sub->tid = tuple->t_self;
	}
	OwnScanEnd(&scan);
	return sub;
}

/* The same for somebody who wants to consume from it. */
Subscription *
SubscriptionForConsumer(const char *name)
{
	Subscription *sub = load_or_error(name);

	if (!may_consume(sub->owner, sub->consumers))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for subscription \"%s\"", name),
				 errdetail("It belongs to role \"%s\".", GetUserNameFromId(sub->owner, true)),
				 errhint("Its owner can call daybook.grant_subscription().")));
	return sub;
}

/* The same for somebody who wants to change it. */
Subscription *
SubscriptionForOwner(const char *name)
{
	Subscription *sub = load_or_error(name);

	if (!has_privs_of_role(GetUserId(), sub->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of subscription \"%s\"", name)));
	return sub;
}

static Subscription *
load_or_error(const char *name)
{
	Subscription *sub = SubscriptionLoad(name);

	if (sub == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name)));
	return sub;
}

static bool
may_consume(Oid owner, ArrayType *consumers)
{
	Oid		   *roles = (Oid *) ARR_DATA_PTR(consumers);
	int			n = ArrayGetNItems(ARR_NDIM(consumers), ARR_DIMS(consumers));
	bool		result = has_privs_of_role(GetUserId(), owner);

	for (int i = 0; i < n && !result; i++)
		result = has_privs_of_role(GetUserId(), roles[i]);
	return result;
}

Datum
daybook_may_consume(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(may_consume(PG_GETARG_OID(0), PG_GETARG_ARRAYTYPE_P(1)));
}

/* How functions begin that do not only look. */
void
SubscriptionWrites(const char *function)
{
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
}

/* The same, and locks the subscription that the first argument names. */
char *
SubscriptionBegin(FunctionCallInfo fcinfo, const char *function)
{
	char	   *name;

	RefuseNull(&fcinfo->args[0], "name");
	SubscriptionWrites(function);
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SubscriptionLock(name, AccessShareLock);
	return name;
}

/* Inserts the row of a subscription, or replaces the one it was loaded from. */
void
SubscriptionStore(Subscription *sub)
{
	Datum		values[S_COLUMNS];
	bool		nulls[S_COLUMNS] = {false};

	values[S_NAME] = CStringGetTextDatum(sub->name);
	values[S_OWNER] = ObjectIdGetDatum(sub->owner);
	values[S_CONSUMERS] = PointerGetDatum(sub->consumers);
	values[S_SOURCES] = PointerGetDatum(sub->sources);
	values[S_TYPES] = PointerGetDatum(sub->types);
	nulls[S_TYPES] = sub->types == NULL;
	values[S_CATEGORIES] = PointerGetDatum(sub->categories);
	nulls[S_CATEGORIES] = sub->categories == NULL;
	values[S_FROM_POSITION] = Int64GetDatum(sub->from_position);
	values[S_PARTITIONS] = Int32GetDatum(sub->partitions);
	values[S_DELIVERY_LIMIT] = Int32GetDatum(sub->delivery_limit);
	nulls[S_DELIVERY_LIMIT] = sub->delivery_limit == NO_DELIVERY_LIMIT;
	values[S_CREATED_AT] = TimestampTzGetDatum(sub->created_at);
	OwnRowStore(SUBSCRIPTION_TABLE, &sub->tid, values, nulls);
}

void
SubscriptionDelete(Subscription *sub)
{
	OwnRowDelete(SUBSCRIPTION_TABLE, &sub->tid);
}

static ArrayType *
copy_array(Datum value, bool isnull)
{
	return isnull ? NULL : DatumGetArrayTypePCopy(value);
}

/*
 * Locks.  That on the subscription is shared by all who use it; a partition's
 * belongs to the transaction that reads on in it or acknowledges.  Two names
 * with the same hash only wait for each other.
 *
 * Rows are replaced at the place where they were read, so the tables are locked
 * from before that: VACUUM FULL and CLUSTER move rows.
 */

static const char *const row_tables[] = {
	SUBSCRIPTION_TABLE, "subscription_partition", "subscription_stream", "subscription_queue"
};

void
SubscriptionLock(const char *name, LOCKMODE mode)
{
	for (int i = 0; i < lengthof(row_tables); i++)
		LockRelationOid(DaybookRelation(row_tables[i]), AccessShareLock);
	LockDatabaseObject(DaybookRelation(SUBSCRIPTION_TABLE), name_hash(name), 0, mode);
}

void
SubscriptionUnlock(const char *name, LOCKMODE mode)
{
	UnlockDatabaseObject(DaybookRelation(SUBSCRIPTION_TABLE), name_hash(name), 0, mode);
	for (int i = 0; i < lengthof(row_tables); i++)
		UnlockRelationOid(DaybookRelation(row_tables[i]), AccessShareLock);
}

void
PartitionLock(const Subscription *sub, int partition)
{
	ConsumerLocksPartition();
	LockDatabaseObject(DaybookRelation(SUBSCRIPTION_TABLE), name_hash(sub->name),
					   partition + 1, ExclusiveLock);
}

bool
PartitionTryLock(const Subscription *sub, int partition)
{
	Oid			table = DaybookRelation(SUBSCRIPTION_TABLE);
	uint32		hash = name_hash(sub->name);

	ConsumerLocksPartition();
	if (ConditionalLockDatabaseObject(table, hash, partition + 1, ExclusiveLock))
		return true;
	/* who has the lock sees this when letting go of it, unless that has just happened */
	ConsumerWasRefused();
	return ConditionalLockDatabaseObject(table, hash, partition + 1, ExclusiveLock);
}

void
PartitionUnlock(const Subscription *sub, int partition)
{
	UnlockDatabaseObject(DaybookRelation(SUBSCRIPTION_TABLE), name_hash(sub->name),
						 partition + 1, ExclusiveLock);
	ConsumerLeavesPartition();
}

static uint32
name_hash(const char *name)
{
	return hash_bytes((const unsigned char *) name, strlen(name));
}

/*
 * Streams
 */

/* The hash that hashtextextended(stream_id, 0) gives. */
static uint64
stream_hash(text *stream_id)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(stream_id),
							   VARSIZE_ANY_EXHDR(stream_id), 0);
}

Datum
daybook_stream_partition(PG_FUNCTION_ARGS)
{
	int32		partitions = PG_GETARG_INT32(1);

	if (partitions < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of partitions must be at least 1"),
				 errdetail("The value given is %d.", partitions)));
	PG_RETURN_INT32(stream_hash(PG_GETARG_TEXT_PP(0)) % partitions);
}

/* The stream of an event; returns the number of its partition. */
int
PartitionOfEvent(const Subscription *sub, const LogEvent *event, TupleDesc event_desc,
				 StreamKey *key)
{
	bool		isnull;
	Datum		value = heap_getattr(event->tuple, EVENT_STREAM_ID, event_desc, &isnull);
	text	   *stream_id = DatumGetTextPP(value);

	memset(key, 0, sizeof(StreamKey));
	key->event_table = event->event_table;
	key->hash = stream_hash(stream_id);
	if ((Pointer) stream_id != DatumGetPointer(value))
		pfree(stream_id);
	return key->hash % sub->partitions;
}

char *
EventStreamId(const LogEvent *event, TupleDesc event_desc)
{
	bool		isnull;

	return TextDatumGetCString(heap_getattr(event->tuple, EVENT_STREAM_ID, event_desc, &isnull));
}

TimestampTz
TimestampTzPlusInterval(TimestampTz time, Interval *interval)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(time),
												   IntervalPGetDatum(interval)));
}

/*
 * Reading
 */

/* The caller keeps a snapshot active. */
void
OwnerReaderBegin(OwnerReader *reader, const Subscription *sub, int64 after)
{
	EventFilter filter = {sub->sources, sub->categories, sub->types};

	check_owner_exists(sub);
	reader->owner = sub->owner;
	reader->event_desc = lookup_rowtype_tupdesc(GetDaybookOids()->event_type, -1);
	reader->reader = EventReaderBegin(GetActiveSnapshot(), after, &filter, true);
	EventReaderCatch(reader->reader);
}

/* The owner has to have the right to read what consumers get. */
LogEvent *
OwnerReaderNext(OwnerReader *reader)
{
	LogEvent   *event;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(reader->owner, context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	event = EventReaderNext(reader->reader);
	SetUserIdAndSecContext(user, context);
	return event;
}

/* The event at a position; NULL if it is not one of the subscription's, or gone. */
LogEvent *
OwnerReaderAt(OwnerReader *reader, int64 position)
{
	EventReaderSeek(reader->reader, position - 1);
	EventReaderLimit(reader->reader, 1);
	return OwnerReaderNext(reader);
}

void
OwnerReaderEnd(OwnerReader *reader)
{
	EventReaderEnd(reader->reader);
	ReleaseTupleDesc(reader->event_desc);
}

void
OwnerReaderDiscard(OwnerReader *reader)
{
	EventReaderDiscard(reader->reader);
	ReleaseTupleDesc(reader->event_desc);
}

static void
check_owner_exists(const Subscription *sub)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(sub->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner of subscription \"%s\" does not exist", sub->name),
				 errdetail("The role had OID %u.", sub->owner),
				 errhint("Drop the subscription and create it as another role.")));
}

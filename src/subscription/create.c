/*-------------------------------------------------------------------------
 *
 * create.c
 *	  Creating and dropping subscriptions, and who may consume from them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "arguments.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "event_table/event_source.h"
#include "event_table/event_table.h"
#include "miscadmin.h"
#include "sequencer/log_scan.h"
#include "subscription/own_rows.h"
#include "subscription/subscription.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* arguments of create_subscription */
enum
{
	ARG_NAME,
	ARG_SOURCES,
	ARG_TYPES,
	ARG_CATEGORIES,
	ARG_FROM_POSITION,
	ARG_PARTITIONS,
	ARG_DELIVERY_LIMIT,
	ARG_COUNT
};

static const char *const argument_names[ARG_COUNT] = {
	"name", "sources", "types", "categories", "from_position", "partitions", "delivery_limit"
};

static Subscription *subscription_from_arguments(FunctionCallInfo fcinfo);
static ArrayType *list_argument(FunctionCallInfo fcinfo, int arg);
static void check_numbers(const Subscription *sub);
static void check_sources(const Subscription *sub);
pg_noreturn static void report_no_event_table(Oid relation);
static void delete_rows(const char *table, const char *index, const char *name);
static void store_consumers(Subscription *sub, const Oid *roles, int n);

PG_FUNCTION_INFO_V1(daybook_create_subscription);
PG_FUNCTION_INFO_V1(daybook_drop_subscription);
PG_FUNCTION_INFO_V1(daybook_grant_subscription);
PG_FUNCTION_INFO_V1(daybook_revoke_subscription);

Datum
daybook_create_subscription(PG_FUNCTION_ARGS)
{
	Subscription *sub;

	SubscriptionWrites("daybook.create_subscription()");
	for (int i = 0; i < ARG_COUNT; i++)
		if (i != ARG_TYPES && i != ARG_CATEGORIES && i != ARG_DELIVERY_LIMIT)
			RefuseNull(&fcinfo->args[i], argument_names[i]);
	sub = subscription_from_arguments(fcinfo);
	CheckName("subscription", sub->name);
	check_numbers(sub);
	check_sources(sub);

	SubscriptionLock(sub->name, AccessExclusiveLock);
	if (SubscriptionLoad(sub->name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", sub->name)));
	SubscriptionStore(sub);
	for (int i = 0; i < sub->partitions; i++)
	{
		Partition	partition = {.number = i};

		partition.position = partition.scanned = sub->from_position;
		PartitionStore(sub, &partition);
	}
	PG_RETURN_VOID();
}

static Subscription *
subscription_from_arguments(FunctionCallInfo fcinfo)
{
	Subscription *sub = palloc0(sizeof(Subscription));

	sub->name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME));
	sub->owner = GetUserId();
	sub->consumers = construct_empty_array(REGROLEOID);
	sub->sources = list_argument(fcinfo, ARG_SOURCES);
	sub->types = list_argument(fcinfo, ARG_TYPES);
	sub->categories = list_argument(fcinfo, ARG_CATEGORIES);
	sub->from_position = PG_GETARG_INT64(ARG_FROM_POSITION);
	sub->partitions = PG_GETARG_INT32(ARG_PARTITIONS);
	sub->delivery_limit = PG_ARGISNULL(ARG_DELIVERY_LIMIT) ? NO_DELIVERY_LIMIT :
		PG_GETARG_INT32(ARG_DELIVERY_LIMIT);
	sub->created_at = GetCurrentTimestamp();
	return sub;
}

static ArrayType *
list_argument(FunctionCallInfo fcinfo, int arg)
{
	return ListArgument(fcinfo, arg, argument_names[arg], "create_subscription");
}

static void
check_numbers(const Subscription *sub)
{
	int64		head = LogHead(GetActiveSnapshot());

	if (sub->partitions < 1 || sub->partitions > MAX_PARTITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a subscription must have between 1 and %d partitions", MAX_PARTITIONS),
				 errdetail("The number given is %d.", sub->partitions)));
	if (sub->delivery_limit != NO_DELIVERY_LIMIT &&
		(sub->delivery_limit < 1 || sub->delivery_limit > MAX_DELIVERY_LIMIT))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delivery limit of a subscription must be between 1 and %d", MAX_DELIVERY_LIMIT),
				 errdetail("The limit given is %d.", sub->delivery_limit),
				 errhint("Give null for none.")));
	if (sub->from_position < 0 || sub->from_position > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a subscription cannot start from position " INT64_FORMAT, sub->from_position),
				 errdetail("The log ends at position " INT64_FORMAT ".", head),
				 errhint("Give 0 for all events, or daybook.head() for those to come.")));
}

/* Sources must be event tables that the owner may read. */
static void
check_sources(const Subscription *sub)
{
	Oid		   *sources = (Oid *) ARR_DATA_PTR(sub->sources);
	int			n = ArrayGetNItems(ARR_NDIM(sub->sources), ARR_DIMS(sub->sources));

	for (int i = 0; i < n; i++)
	{
		if (!IsEventTable(sources[i]))
			report_no_event_table(sources[i]);
		CheckEventTableReadable(sources[i]);
		for (int j = 0; j < i; j++)
			if (sources[i] == sources[j])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("\"%s\" is listed twice in argument \"sources\" of create_subscription",
								get_rel_name(sources[i]))));
	}
}

static void
report_no_event_table(Oid relation)
{
	char	   *name = get_rel_name(relation);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not an event table", name),
			 errhint("Make event tables with daybook.create_event_table().")));
}

/* Waits for the transactions of its consumers. */
Datum
daybook_drop_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Subscription *sub;

	SubscriptionWrites("daybook.drop_subscription()");
	(void) SubscriptionForOwner(name);
	SubscriptionLock(name, AccessExclusiveLock);
	sub = SubscriptionForOwner(name);
	delete_rows("subscription_partition", "subscription_partition_pkey", name);
	delete_rows("subscription_stream", "subscription_stream_pkey", name);
	delete_rows("subscription_queue", "subscription_queue_pkey", name);
	delete_rows("subscription_discard", "subscription_discard_pkey", name);
	SubscriptionDelete(sub);
	/* consumers that wait learn that there is nothing to wait for */
	ConsumersWakeAtCommit();
	PG_RETURN_VOID();
}

/* Deletes the rows of a table whose first column is the subscription's name. */
static void
delete_rows(const char *table, const char *index, const char *name)
{
	Datum	   *values;
	bool	   *nulls;
	HeapTuple	tuple;
	OwnScan		scan;

	OwnScanInit(&scan);
	OwnScanKeyText(&scan, 1, name);
	OwnScanBegin(&scan, table, index);
	values = palloc(sizeof(Datum) * RelationGetDescr(scan.table)->natts);
	nulls = palloc(sizeof(bool) * RelationGetDescr(scan.table)->natts);
	while ((tuple = OwnScanNext(&scan, values, nulls)) != NULL)
		OwnRowDelete(table, &tuple->t_self);
	OwnScanEnd(&scan);
}

Datum
daybook_grant_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			role = PG_GETARG_OID(1);
	Subscription *sub;
	Oid		   *roles;
	int			n;

	SubscriptionWrites("daybook.grant_subscription()");
	SubscriptionLock(name, ShareUpdateExclusiveLock);
	sub = SubscriptionForOwner(name);
	n = ArrayGetNItems(ARR_NDIM(sub->consumers), ARR_DIMS(sub->consumers));
	roles = palloc(sizeof(Oid) * (n + 1));
	memcpy(roles, ARR_DATA_PTR(sub->consumers), sizeof(Oid) * n);
	for (int i = 0; i < n; i++)
		if (roles[i] == role)
			PG_RETURN_VOID();
	/* fails if there is no such role */
	(void) GetUserNameFromId(role, false);
	roles[n] = role;
	store_consumers(sub, roles, n + 1);
	PG_RETURN_VOID();
}

Datum
daybook_revoke_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			role = PG_GETARG_OID(1);
	Subscription *sub;
	Oid		   *roles;
	int			n;
	int			kept = 0;

	SubscriptionWrites("daybook.revoke_subscription()");
	SubscriptionLock(name, ShareUpdateExclusiveLock);
	sub = SubscriptionForOwner(name);
	n = ArrayGetNItems(ARR_NDIM(sub->consumers), ARR_DIMS(sub->consumers));
	roles = (Oid *) ARR_DATA_PTR(sub->consumers);
	for (int i = 0; i < n; i++)
		if (roles[i] != role)
			roles[kept++] = roles[i];
	store_consumers(sub, roles, kept);
	PG_RETURN_VOID();
}

static void
store_consumers(Subscription *sub, const Oid *roles, int n)
{
	Datum	   *elements = palloc(sizeof(Datum) * (n + 1));

	for (int i = 0; i < n; i++)
		elements[i] = ObjectIdGetDatum(roles[i]);
	sub->consumers = construct_array(elements, n, REGROLEOID, sizeof(Oid), true, TYPALIGN_INT);
	SubscriptionStore(sub);
}

/*-------------------------------------------------------------------------
 *
 * upcast_parallel.c
 *	  Whether the upcasters of an event table may run in parallel mode.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "parallel_check.h"
#include "schema/event_schema.h"
#include "schema/upcast.h"
#include "user_function.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static bool steps_are_parallel_safe(EventSchema *schema);

void
UpcastCallsInit(void)
{
	RegisterParallelCheck("upcast", UpcastCallIsParallelSafe);
	RegisterParallelCheck("payload_as", UpcastCallIsParallelSafe);
}

/* A table that is not known yet may be any. */
bool
UpcastCallIsParallelSafe(const FuncExpr *call)
{
	Const	   *event_table = ConstantArgument(call, 0);
	Relation	table;
	bool		safe;

	if (event_table == NULL)
		return false;
	if (event_table->constisnull)
		return true;
	table = try_relation_open(DatumGetObjectId(event_table->constvalue), AccessShareLock);
	if (table == NULL)
		return true;
	safe = table->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		UpcastersAreParallelSafe(table);
	relation_close(table, NoLock);
	return safe;
}

bool
UpcastersAreParallelSafe(Relation event_table)
{
	EventSchema *schema = HoldEventSchema(event_table);

	return schema == NULL || schema->parallel_safe || steps_are_parallel_safe(schema);
}

/* What is safe is kept until one of the functions changes. */
static bool
steps_are_parallel_safe(EventSchema *schema)
{
	for (int i = 0; i < schema->step_count; i++)
	{
		Oid			function = FunctionByText(schema->steps[i].function, schema->owner);

		if (!OidIsValid(function) || func_parallel(function) != PROPARALLEL_SAFE)
			return false;
	}
	for (int i = 0; i < schema->step_count; i++)
		EventSchemaDependsOn(schema, PROCOID,
							 FunctionByText(schema->steps[i].function, schema->owner));
	schema->parallel_safe = true;
	return true;
}

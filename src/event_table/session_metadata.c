/*-------------------------------------------------------------------------
 *
 * session_metadata.c
 *	  The setting daybook.metadata: context that goes into every event that
 *	  the session appends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "event_table/event_table.h"
#include "excerpt.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "daybook.h"

/* The setting as jsonb, made when first needed; NULL after each change. */
static Jsonb *session_metadata = NULL;

static Jsonb *parse_object(const char *value);

/*
 * Refuses what is not a JSON object.  Outside a transaction, as when the
 * configuration file is read, jsonb's parser cannot be asked; the value is
 * then looked at by the first append.
 */
bool
CheckSessionMetadata(char **newval, void **extra, GucSource source)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool valid = false;

	if (**newval == '\0' || !IsTransactionState())
		return true;
	PG_TRY();
	{
		valid = parse_object(*newval) != NULL;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	if (!valid)
		GUC_check_errdetail("The value must be a JSON object, such as {\"actor\": \"alice\"}.");
	return valid;
}

void
AssignSessionMetadata(const char *newval, void *extra)
{
	if (session_metadata)
		pfree(session_metadata);
	session_metadata = NULL;
}

/*
 * Puts the session's metadata under the event's own, whose keys win.  Returns
 * whether *metadata was set, to a copy that the setting's next change leaves.
 */
bool
MergeSessionMetadata(Datum *metadata, bool is_null)
{
	if (daybook_metadata == NULL || *daybook_metadata == '\0')
		return false;
	if (session_metadata == NULL)
	{
		Jsonb	   *parsed = parse_object(daybook_metadata);

		if (parsed == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("daybook.metadata is not a JSON object"),
					 errdetail("Its value is %s.",
							   Excerpt(daybook_metadata, strlen(daybook_metadata))),
					 errhint("SET daybook.metadata to an object, such as {\"actor\": \"alice\"}.")));
		session_metadata = MemoryContextAlloc(TopMemoryContext, VARSIZE(parsed));
		memcpy(session_metadata, parsed, VARSIZE(parsed));
	}
	if (is_null)
		*metadata = datumCopy(JsonbPGetDatum(session_metadata), false, -1);
	else
	{
		Jsonb	   *own = DatumGetJsonbP(*metadata);

		if (!JB_ROOT_IS_OBJECT(own))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata of an event must be a JSON object while daybook.metadata is set"),
					 errdetail("The event's metadata is %s.", ExcerptOfJsonb(own))));
		*metadata = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(session_metadata),
										JsonbPGetDatum(own));
	}
	return true;
}

/* NULL for JSON that is not an object; raises an error for what is not JSON. */
static Jsonb *
parse_object(const char *value)
{
	Jsonb	   *parsed = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));

	return JB_ROOT_IS_OBJECT(parsed) ? parsed : NULL;
}

/*-------------------------------------------------------------------------
 *
 * distinct_names.c
 *	  Lists of strings that are shown once each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "schema/distinct_names.h"
#include "utils/builtins.h"

List *
AddDistinctName(List *names, const char *name, MemoryContext context)
{
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return names;
	caller = MemoryContextSwitchTo(context);
	names = lappend(names, pstrdup(name));
	MemoryContextSwitchTo(caller);
	return names;
}

Datum
JoinNames(const List *names, const char *separator)
{
	StringInfoData result;
	ListCell   *lc;

	initStringInfo(&result);
	foreach(lc, names)
		appendStringInfo(&result, "%s%s", result.len > 0 ? separator : "", (char *) lfirst(lc));
	return CStringGetTextDatum(result.data);
}

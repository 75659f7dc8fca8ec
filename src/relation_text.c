/*-------------------------------------------------------------------------
 *
 * relation_text.c
 *	  Names of relations, for SQL and for messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relation_text.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

char *
RelationText(Oid relation)
{
	char	   *name = get_rel_name(relation);

	if (name == NULL)
		return psprintf("%u", relation);
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), name);
}

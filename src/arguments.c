/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  Checks of the arguments of SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "arguments.h"

void
RefuseNull(const NullableDatum *arg, const char *name)
{
	if (arg->isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

ArrayType *
ListArgument(FunctionCallInfo fcinfo, int arg, const char *name, const char *function)
{
	ArrayType  *array;

	if (PG_ARGISNULL(arg))
		return NULL;
	array = PG_GETARG_ARRAYTYPE_P_COPY(arg);
	if (ARR_NDIM(array) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of %s must not be empty", name, function)));
	if (ARR_NDIM(array) != 1 || array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of %s must be a list without nulls", name, function)));
	return array;
}

void
CheckName(const char *kind, const char *name)
{
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("name of a %s must not be empty", kind)));
	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name of %s \"%s\" is too long", kind, name),
				 errdetail("It has %d bytes; the limit is %d.",
						   (int) strlen(name), NAMEDATALEN - 1)));
	/* it is written to the log and shown as the name of a process */
	for (const char *c = name; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ' || *c == '\177')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("name of a %s must not contain control characters", kind),
					 errdetail("Byte %d has code %d.", (int) (c - name) + 1, (int) *c)));
	}
}

/*-------------------------------------------------------------------------
 *
 * guard_extension.c
 *	  Refuses to alter what the extension consists of, but in its own scripts.
 *
 * The guards know the schema, the type and the trigger's function by their
 * names, the functions are what keeps tables append-only, and what is written
 * in C knows the columns of tables and types by their numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "daybook.h"
#include "event_table/guard.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#define HINT_UPDATE		"ALTER EXTENSION daybook UPDATE replaces what the extension consists of."

static bool is_guarded(Oid class_id, Oid object_id);
static bool is_moved(Oid class_id, Oid object_id);
pg_noreturn static void refuse(const char *what, Oid class_id, Oid object_id);

/* CREATE EXTENSION daybook, or ALTER EXTENSION daybook UPDATE */
bool
OwnScriptRuns(void)
{
	return creating_extension && CurrentExtensionObject == GetDaybookOids()->extension;
}

/* Something that is no relation has been altered, or replaced. */
void
GuardMember(Oid class_id, Oid object_id, bool replaced)
{
	if (class_id != ProcedureRelationId && class_id != TypeRelationId &&
		class_id != NamespaceRelationId && class_id != PublicationRelationId)
		return;
	if (is_guarded(class_id, object_id) && (replaced || is_moved(class_id, object_id)))
		refuse(replaced ? "replace" : "alter", class_id, object_id);
}

/*
 * A relation gets another name, schema, query or column.  An index is no
 * member, but its table is; a composite type is one by its row of pg_type.
 */
void
GuardMemberRelation(Oid relid)
{
	Oid			table = IndexGetRelation(relid, true);

	if (get_rel_relkind(relid) == RELKIND_COMPOSITE_TYPE)
	{
		if (is_guarded(TypeRelationId, get_rel_type_id(relid)))
			refuse("alter", TypeRelationId, get_rel_type_id(relid));
	}
	else if (is_guarded(RelationRelationId, OidIsValid(table) ? table : relid))
		refuse("alter", RelationRelationId, relid);
}

/* What leaves the extension is guarded no more, and what joins it could not leave. */
void
GuardMembership(AlterExtensionContentsStmt *command)
{
	if (strcmp(command->extname, DAYBOOK_EXTENSION) != 0 || OwnScriptRuns() ||
		!OidIsValid(GetDaybookOids()->extension))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s extension daybook",
					command->action > 0 ? "add an object to" : "drop an object from"),
			 errdetail("Event tables rest on what it consists of."),
			 errhint(HINT_UPDATE)));
}

static bool
is_guarded(Oid class_id, Oid object_id)
{
	Oid			extension = GetDaybookOids()->extension;

	return OidIsValid(extension) && !OwnScriptRuns() &&
		getExtensionOfObject(class_id, object_id) == extension;
}

/* Has it another name or schema now?  The publication must go on publishing, too. */
static bool
is_moved(Oid class_id, Oid object_id)
{
	void	   *before = FetchCatalogRow(class_id, object_id, NULL);
	void	   *after = FetchCatalogRow(class_id, object_id, SnapshotSelf);

	if (before == NULL || after == NULL)
		return false;
	if (class_id == NamespaceRelationId)
		return namestrcmp(&((Form_pg_namespace) before)->nspname,
						  NameStr(((Form_pg_namespace) after)->nspname)) != 0;
	if (class_id == PublicationRelationId)
		return !((Form_pg_publication) after)->pubinsert ||
			namestrcmp(&((Form_pg_publication) before)->pubname,
					   NameStr(((Form_pg_publication) after)->pubname)) != 0;
	if (class_id == TypeRelationId)
		return ((Form_pg_type) before)->typnamespace != ((Form_pg_type) after)->typnamespace ||
			namestrcmp(&((Form_pg_type) before)->typname,
					   NameStr(((Form_pg_type) after)->typname)) != 0;
	return ((Form_pg_proc) before)->pronamespace != ((Form_pg_proc) after)->pronamespace ||
		namestrcmp(&((Form_pg_proc) before)->proname,
				   NameStr(((Form_pg_proc) after)->proname)) != 0;
}

static void
refuse(const char *what, Oid class_id, Oid object_id)
{
	ObjectAddress address;

	ObjectAddressSet(address, class_id, object_id);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s %s", what, getObjectDescription(&address, false)),
			 errdetail("Event tables rest on it."),
			 errhint(HINT_UPDATE)));
}

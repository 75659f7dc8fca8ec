/*-------------------------------------------------------------------------
 *
 * daybook.h
 *	  Settings and names that all of daybook shares.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_H
#define DAYBOOK_H

#define DAYBOOK_EXTENSION	"daybook"
#define DAYBOOK_SCHEMA		"daybook"
#define DAYBOOK_PUBLICATION "daybook"

/* settings, defined in daybook.c */
extern char *daybook_metadata;
extern bool daybook_restore;
extern bool daybook_decoding;
extern bool daybook_early_lock_release;
extern int	daybook_version_cache_size;
extern int	daybook_max_databases;
extern int	daybook_max_projectors;
extern int	daybook_notify_interval;

/*
 * OIDs of the extension's objects, looked up once and again after a change
 * of the catalogs.  InvalidOid where the object is missing.
 */
typedef struct DaybookOids
{
	Oid			extension;
	Oid			schema;
	Oid			access_method;
	Oid			event_type;		/* daybook.event */
	Oid			event_id_seq;
	Oid			event_table;	/* the registry */
	Oid			event_trigger_function;
	Oid			event_id_given_function;
} DaybookOids;

extern const DaybookOids *GetDaybookOids(void);
extern Oid	LockDaybookExtension(void);
extern Oid	DaybookRelation(const char *name);
extern char *DaybookFunctionName(Oid function);

#endif							/* DAYBOOK_H */

/*-------------------------------------------------------------------------
 *
 * event_table.h
 *	  Event tables: storage that is never changed, the guards around it, and
 *	  the numbering of events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_EVENT_TABLE_H
#define DAYBOOK_EVENT_TABLE_H

#include "compat.h"
#include "access/sdir.h"
#include "access/transam.h"
#include "executor/tuptable.h"
#include "storage/lockdefs.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* Columns of daybook.event, in order. */
#define EVENT_ID				1
#define EVENT_VERSION			2
#define EVENT_RECORDED_AT		3
#define EVENT_SCHEMA_VERSION	4
#define EVENT_EVENT_ID			5
#define EVENT_RECORDED_BY		6
#define EVENT_STREAM_ID			7
#define EVENT_TYPE				8
#define EVENT_DATA				9
#define EVENT_METADATA			10
#define EVENT_TAGS				11
#define EVENT_NATTS				11

#define EVENT_TRIGGER_NAME		"daybook_append"

/* event_table_cache.c */
typedef struct EventTable
{
	Oid			relid;			/* hash key */
	bool		is_event_table; /* typed table OF daybook.event USING daybook */
	bool		has_trigger;
	bool		registered;		/* once seen to be; ask EventTableIsLogged() */
	Oid			id_index;		/* unique (id) */
	Oid			stream_index;	/* unique (stream_id, version) */
	Oid			event_id_index; /* unique (event_id, stream_id), partial */
	uint16		own_defaults;	/* bits of columns whose default the user has set */
} EventTable;

#define EVENT_COLUMN_BIT(column)	(1 << (column))

typedef enum EventKey
{
	EVENT_KEY_NONE,
	EVENT_KEY_ID,
	EVENT_KEY_STREAM,
	EVENT_KEY_EVENT_ID
} EventKey;

extern EventKey EventKeyOfIndex(Oid index_oid);
extern const EventTable *LookUpEventTable(Relation rel);
extern const EventTable *RequireEventTable(Relation rel);
extern bool IsEventTable(Oid relid);
extern const EventTable *RequireVersionTrigger(Relation rel);
extern bool EventTableIsLogged(Relation rel);

/* open_table.c */
extern Relation OpenTable(Oid relid, LOCKMODE lockmode);
extern Relation OpenTableIfAllowed(Oid relid, LOCKMODE lockmode, void (*check) (Oid relid));
extern void RequireOwner(Oid relid);

/* guard.c */
extern void GuardInit(void);
extern bool TableIsProtected(Oid relid);
extern Oid	GuardAllowDrop(Oid relid);
extern bool EventTableIsEmpty(Oid relid);

/* stream_tail.c */
extern int64 StreamTailLock(Relation rel, const EventTable *table,
							text *stream_id, bool *locked);
typedef struct StreamPin
{
	bool		locked;			/* the pin holds the stream's lock */
	uint64		hash;
	Oid			relid;
	text	   *stream_id;
	int64		version;		/* the stream's last one, when it was pinned */
} StreamPin;

extern int64 StreamTailPin(Relation rel, const EventTable *table, text *stream_id,
						   StreamPin *pin);
extern void StreamTailUnpin(const StreamPin *pin);
extern void StreamTailConfirm(Relation rel, text *stream_id, int64 version,
							  bool is_last, bool speculative);
extern void StreamTailForget(Relation rel, text *stream_id);
extern bool StreamTailsWritten(void);
extern void StreamTailsForget(void);
extern void StreamTailsEnd(void);

/* version_cache.c */
typedef struct CachedVersion
{
	int64		version;
	FullTransactionId writer;
} CachedVersion;

typedef enum WriterState
{
	WRITER_OURS,
	WRITER_IN_PROGRESS,
	WRITER_COMMITTED,
	WRITER_UNKNOWN				/* rolled back, or too long ago to tell */
} WriterState;

extern Size VersionCacheSize(void);
extern void VersionCacheInit(void);
extern bool VersionCacheFind(Relation rel, uint64 hash, text *stream_id,
							 CachedVersion *found);
extern WriterState VersionCacheWriterState(const CachedVersion *cached);
extern bool VersionCacheStore(Relation rel, uint64 hash, text *stream_id, int64 version);
extern void VersionCacheForget(Relation rel, uint64 hash, text *stream_id);
extern void VersionCacheForgetAll(Oid database, Oid relid);

/* event_ticket.c */
extern void EventTicketsSettle(void);
extern void EventTicketSetPinned(uint64 stream_hash, bool pinned);
extern bool EventTicketLockStream(uint64 stream_hash, bool wait);
extern void EventTicketsLapse(int depth);
extern void EventTicketIssue(Relation rel, int depth, const Datum *values,
							 const bool *nulls, bool is_last, bool locked);
extern void EventTicketRedeem(Relation rel, TupleTableSlot *slot, bool speculative);
extern void EventTicketComplete(Relation rel, TupleTableSlot *slot, bool succeeded);
extern void EventTicketsVoid(SubTransactionId subid);
extern void EventTicketsRelease(void);
extern void EventTicketsForget(void);

/* early_lock_release.c */
extern void EarlyLockReleaseInit(void);
extern void FlushCommitted(void);

/* restored_id.c */
extern void RestoredIdTaken(int64 id);
extern void RestoredIdsForget(void);

/* event_id.c */
extern bool EventIdIsGiven(const unsigned char *uuid);
extern void MakeEventId(unsigned char *uuid, TimestampTz now);

/* insertion_ids.c */
extern int64 FirstInsertionId(Relation rel, ScanDirection direction);
extern bool InsertionIdsMeet(Relation a, Relation b);

/* event_insert.c */
extern void AppendCallbacksInit(void);
extern void MakeEventRow(Relation rel, TupleTableSlot *slot);
/* Set while append() writes, which runs no statement, as replication does not. */
extern bool event_append_running;
extern void CheckEventType(Relation rel, const Datum *values, const bool *nulls);
pg_noreturn extern void ReportVersionConflict(Relation rel, text *stream_id, int64 expected,
											  int64 actual);

/* access_method.c */
extern void EventRowAccept(Relation rel, TupleTableSlot *slot);
extern void RefuseIfBusy(Oid relid);

/* called with each row of a typed table that is stored */
typedef void (*EventRowHook) (Relation rel, TupleTableSlot *slot);
extern EventRowHook event_row_hook;

/*
 * Set while the hook runs code of users, whose subtransactions are then known
 * to have appended nothing.
 */
extern bool event_row_check_running;

/* session_metadata.c */
extern bool CheckSessionMetadata(char **newval, void **extra, GucSource source);
extern void AssignSessionMetadata(const char *newval, void *extra);
extern bool MergeSessionMetadata(Datum *metadata, bool is_null);

#endif							/* DAYBOOK_EVENT_TABLE_H */

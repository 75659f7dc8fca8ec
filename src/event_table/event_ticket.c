/*-------------------------------------------------------------------------
 *
 * event_ticket.c
 *	  From the version trigger to the heap: only the row that the trigger
 *	  made is stored.
 *
 * The trigger, or append() in its place, issues a ticket for each row, and the
 * access method redeems it when the row arrives.  A row without a ticket, or
 * one that a later trigger has altered, is refused.  A row that is never stored
 * (ON CONFLICT DO NOTHING, a later trigger that returns NULL) leaves its ticket
 * unredeemed, so the last version of its stream is not believed to have moved;
 * the ticket lapses with the next row.
 *
 * A ticket also holds its stream's lock, which can go as soon as the row and
 * its index entries are in: who comes next sees the uncommitted row and waits
 * for its transaction.  That is why a transaction can append to any number of
 * streams without filling the lock table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "event_table/event_table.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* Tells our locks from pg_advisory_lock()'s, which have 1 and 2 here. */
#define STREAM_LOCK_CLASS	219

/* Room made at first; rows are on their way at several levels only where triggers append. */
#define FIRST_TICKETS		8

typedef struct EventTicket
{
	Oid			relid;
	int64		id;
	int64		version;
	bool		redeemed;
	bool		locked;
	bool		pinned;			/* the lock stays until unpinned */
	bool		is_last;		/* the version is the stream's next one */
	int			depth;			/* of nested triggers */
	SubTransactionId subid;		/* in which it was issued */
	LOCKTAG		lock;
	TimestampTz recorded_at;
	StringInfoData stream_id;	/* buffers stay with their places and are reused */
	StringInfoData recorded_by;
	StringInfoData tags;
	bool		has_tags;
} EventTicket;

static EventTicket *tickets = NULL;
static int	ticket_count = 0;
static int	ticket_room = 0;

/* The last row whose ticket lapsed while it may have been on its way. */
static int64 lapsed_id = 0;

static EventTicket *add_ticket(void);
static void make_room(void);
static void drop_ticket(int i);
static void release_lock(EventTicket *ticket);
static bool came_with_interrupt(const EventTicket *ticket);
static void store_text(StringInfo buffer, Datum value);
static EventTicket *find_ticket(Relation rel, TupleTableSlot *slot, bool redeemed);
pg_noreturn static void refuse_row(Relation rel, TupleTableSlot *slot);
static void forget_stream_of(Relation rel, TupleTableSlot *slot);
static text *stream_of(TupleTableSlot *slot);
static bool matches(EventTicket *ticket, TupleTableSlot *slot);
static bool same_text(TupleTableSlot *slot, int attnum, StringInfo expected);
static bool same_tags(EventTicket *ticket, TupleTableSlot *slot);

/* Lets go of the streams whose rows are in. */
void
EventTicketsSettle(void)
{
	for (int i = ticket_count - 1; i >= 0; i--)
		if (tickets[i].redeemed && !tickets[i].pinned)
			drop_ticket(i);
}

/*
 * The trigger has come to another row at this depth: rows that were on their
 * way there, or deeper, have come to nothing.
 */
void
EventTicketsLapse(int depth)
{
	for (int i = 0; i < ticket_count; i++)
		if (tickets[i].depth >= depth && !tickets[i].redeemed)
		{
			tickets[i].redeemed = true;
			lapsed_id = tickets[i].id;
		}
}

/* Keeps a stream's lock, which this transaction holds, until it is unpinned. */
void
EventTicketSetPinned(uint64 stream_hash, bool pinned)
{
	for (int i = ticket_count - 1; i >= 0; i--)
		if (tickets[i].locked &&
			tickets[i].lock.locktag_field2 == (uint32) (stream_hash >> 32) &&
			tickets[i].lock.locktag_field3 == (uint32) stream_hash)
		{
			tickets[i].pinned = pinned;
			return;
		}
}

static EventTicket *
add_ticket(void)
{
	EventTicket *ticket;

	if (ticket_count == ticket_room)
		make_room();
	ticket = &tickets[ticket_count++];
	ticket->relid = InvalidOid;
	ticket->redeemed = true;
	ticket->locked = false;
	ticket->pinned = false;
	ticket->subid = GetCurrentSubTransactionId();
	return ticket;
}

static void
make_room(void)
{
	int			room = Max(FIRST_TICKETS, 2 * ticket_room);

	if (tickets == NULL)
		tickets = MemoryContextAlloc(TopMemoryContext, room * sizeof(EventTicket));
	else
		tickets = repalloc(tickets, room * sizeof(EventTicket));
	memset(&tickets[ticket_room], 0, (room - ticket_room) * sizeof(EventTicket));
	ticket_room = room;
}

/* Takes a ticket out; its place, with the buffers, goes to the end. */
static void
drop_ticket(int i)
{
	EventTicket dropped;

	release_lock(&tickets[i]);
	dropped = tickets[i];
	memmove(&tickets[i], &tickets[i + 1],
			(ticket_count - i - 1) * sizeof(EventTicket));
	tickets[--ticket_count] = dropped;
}

static void
release_lock(EventTicket *ticket)
{
	ResourceOwner saved = CurrentResourceOwner;

	if (!ticket->locked)
		return;
	CurrentResourceOwner = TopTransactionResourceOwner;
	LockRelease(&ticket->lock, ExclusiveLock, false);
	CurrentResourceOwner = saved;
	ticket->locked = false;
}

/*
 * Locks a stream for the ticket that will be issued next; false if others have
 * it locked and we are not to wait.  The lock belongs to the transaction as a
 * whole, so that it can be released from any of its subtransactions.
 */
bool
EventTicketLockStream(uint64 stream_hash, bool wait)
{
	ResourceOwner saved = CurrentResourceOwner;
	EventTicket *ticket = add_ticket();

	SET_LOCKTAG_ADVISORY(ticket->lock, MyDatabaseId, (uint32) (stream_hash >> 32),
						 (uint32) stream_hash, STREAM_LOCK_CLASS);
	CurrentResourceOwner = TopTransactionResourceOwner;
	PG_TRY();
	{
		/* counts as redeemed until issued: after a failure the next append settles it */
		ticket->locked = LockAcquire(&ticket->lock, ExclusiveLock, false, !wait) !=
			LOCKACQUIRE_NOT_AVAIL;
	}
	PG_CATCH();
	{
		CurrentResourceOwner = saved;
		ticket->locked = came_with_interrupt(ticket);
		PG_RE_THROW();
	}
	PG_END_TRY();
	CurrentResourceOwner = saved;

	if (!ticket->locked)
		ticket_count--;
	return ticket->locked;
}

/*
 * A lock that is granted as its waiter is interrupted is the transaction's all
 * the same.  Nobody waits for a lock that another ticket has.
 */
static bool
came_with_interrupt(const EventTicket *ticket)
{
	for (int i = 0; i < ticket_count; i++)
		if (tickets[i].locked &&
			memcmp(&tickets[i].lock, &ticket->lock, sizeof(LOCKTAG)) == 0)
			return false;
	return lock_held_by_me_compat(&ticket->lock, ExclusiveLock);
}

/*
 * Issues the ticket of a row that the trigger has made; if its stream was
 * locked for it, the ticket is already there.
 */
void
EventTicketIssue(Relation rel, int depth, const Datum *values, const bool *nulls,
				 bool is_last, bool locked)
{
	EventTicket *ticket = locked ? &tickets[ticket_count - 1] : add_ticket();

	ticket->relid = RelationGetRelid(rel);
	ticket->depth = depth;
	ticket->id = DatumGetInt64(values[EVENT_ID - 1]);
	ticket->version = DatumGetInt64(values[EVENT_VERSION - 1]);
	ticket->is_last = is_last;
	ticket->recorded_at = DatumGetTimestampTz(values[EVENT_RECORDED_AT - 1]);
	store_text(&ticket->stream_id, values[EVENT_STREAM_ID - 1]);
	store_text(&ticket->recorded_by, values[EVENT_RECORDED_BY - 1]);
	ticket->has_tags = !nulls[EVENT_TAGS - 1];
	if (ticket->has_tags)
		store_text(&ticket->tags, values[EVENT_TAGS - 1]);
	ticket->redeemed = false;
}

/* Keeps the bytes of a text, or of another value of variable length. */
static void
store_text(StringInfo buffer, Datum value)
{
	text	   *bytes = DatumGetTextPP(value);

	if (buffer->data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(buffer);
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(buffer);
	appendBinaryStringInfo(buffer, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
}

/* Called by the access method for each row of a typed table. */
void
EventTicketRedeem(Relation rel, TupleTableSlot *slot, bool speculative)
{
	EventTicket *ticket = find_ticket(rel, slot, false);
	const EventTable *table;

	if (ticket)
	{
		slot_getallattrs(slot);
		CheckEventType(rel, slot->tts_values, slot->tts_isnull);
		ticket->redeemed = true;
		StreamTailConfirm(rel, stream_of(slot), ticket->version, ticket->is_last,
						  speculative);
		return;
	}

	table = LookUpEventTable(rel);
	if (table->is_event_table && table->has_trigger)
		refuse_row(rel, slot);
	if (table->is_event_table)
		forget_stream_of(rel, slot);
}

/*
 * What is evaluated between the trigger and the heap, a CHECK constraint or the
 * condition of another trigger, is at the trigger's depth: events that it
 * appends let the row's ticket lapse.
 */
static void
refuse_row(Relation rel, TupleTableSlot *slot)
{
	bool		is_null;
	Datum		id = slot_getattr(slot, EVENT_ID, &is_null);

	if (!is_null && DatumGetInt64(id) == lapsed_id)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("another event was appended while a row for event table \"%s\" was on its way",
						RelationGetRelationName(rel)),
				 errdetail("A CHECK constraint, or the condition of a trigger, has called a function that appends."),
				 errhint("Let an AFTER trigger append it.")));
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("row for event table \"%s\" is not as its version trigger made it",
					RelationGetRelationName(rel)),
			 errdetail("Another trigger has changed its id, stream, version, tags or origin."),
			 errhint("A trigger that comes after \"" EVENT_TRIGGER_NAME "\" by name may add to data and metadata, or refuse the event; set tags in one that comes before.")));
}

/* A dump's row comes before the triggers do. */
static void
forget_stream_of(Relation rel, TupleTableSlot *slot)
{
	bool		is_null;
	Datum		stream_id = slot_getattr(slot, EVENT_STREAM_ID, &is_null);

	if (!is_null)
		StreamTailForget(rel, DatumGetTextPP(stream_id));
}

/* A row stored speculatively is there to stay, or has been taken out again. */
void
EventTicketComplete(Relation rel, TupleTableSlot *slot, bool succeeded)
{
	EventTicket *ticket = find_ticket(rel, slot, true);

	if (ticket == NULL)
		return;
	if (succeeded)
		StreamTailConfirm(rel, stream_of(slot), ticket->version, ticket->is_last, false);
	else
	{
		ticket->redeemed = false;
		StreamTailForget(rel, stream_of(slot));
	}
}

static EventTicket *
find_ticket(Relation rel, TupleTableSlot *slot, bool redeemed)
{
	for (int i = ticket_count - 1; i >= 0; i--)
		if (tickets[i].redeemed == redeemed &&
			tickets[i].relid == RelationGetRelid(rel) && matches(&tickets[i], slot))
			return &tickets[i];
	return NULL;
}

static text *
stream_of(TupleTableSlot *slot)
{
	bool		is_null;

	return DatumGetTextPP(slot_getattr(slot, EVENT_STREAM_ID, &is_null));
}

static bool
matches(EventTicket *ticket, TupleTableSlot *slot)
{
	bool		null_id;
	bool		null_version;
	bool		null_time;

	return DatumGetInt64(slot_getattr(slot, EVENT_ID, &null_id)) == ticket->id &&
		!null_id &&
		DatumGetInt64(slot_getattr(slot, EVENT_VERSION, &null_version)) == ticket->version &&
		!null_version &&
		DatumGetTimestampTz(slot_getattr(slot, EVENT_RECORDED_AT, &null_time)) == ticket->recorded_at &&
		!null_time &&
		same_text(slot, EVENT_STREAM_ID, &ticket->stream_id) &&
		same_text(slot, EVENT_RECORDED_BY, &ticket->recorded_by) &&
		same_tags(ticket, slot);
}

static bool
same_text(TupleTableSlot *slot, int attnum, StringInfo expected)
{
	bool		is_null;
	Datum		value = slot_getattr(slot, attnum, &is_null);
	text	   *found;
	bool		same;

	if (is_null)
		return false;
	found = DatumGetTextPP(value);
	same = VARSIZE_ANY_EXHDR(found) == expected->len &&
		memcmp(VARDATA_ANY(found), expected->data, expected->len) == 0;
	/* memory lasts as long as the statement here */
	if (PointerGetDatum(found) != value)
		pfree(found);
	return same;
}

/*
 * Tags are locked before the id is taken, so that ids rise in the order of
 * these locks: for what is new among them it would be too late.
 */
static bool
same_tags(EventTicket *ticket, TupleTableSlot *slot)
{
	if (!ticket->has_tags)
		return slot_attisnull(slot, EVENT_TAGS);
	return same_text(slot, EVENT_TAGS, &ticket->tags);
}

/*
 * After a subtransaction's rollback nothing of it is on its way any more, and
 * its streams are free for others.
 */
void
EventTicketsVoid(SubTransactionId subid)
{
	for (int i = ticket_count - 1; i >= 0; i--)
		if (tickets[i].subid >= subid)
			drop_ticket(i);
}

/* Lets go of all streams. */
void
EventTicketsRelease(void)
{
	for (int i = 0; i < ticket_count; i++)
		release_lock(&tickets[i]);
}

/* At the end of a transaction its locks go by themselves. */
void
EventTicketsForget(void)
{
	ticket_count = 0;
}

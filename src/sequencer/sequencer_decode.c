/*-------------------------------------------------------------------------
 *
 * sequencer_decode.c
 *	  Reads committed events from the write-ahead log, in commit order.
 *
 * A temporary slot with the built-in pgoutput plugin decodes the inserts into
 * the tables of our publication, of which only the column id.  The decoding
 * context stays open from round to round.  Callbacks run under a historic
 * snapshot and only note relation and id of each event; all else is done
 * afterwards in an ordinary transaction.
 *
 * Of a large transaction pgoutput hands over what there is while it is still
 * in progress, so that its rows need not be kept.  What its subtransactions
 * roll back is passed over when it has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "daybook.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "port/pg_bswap.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/logicalproto.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "sequencer/sequencer_internal.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"
#include "varint.h"
#include "wal_place.h"

/* A round stops decoding after this many events or bytes of them. */
#define MAX_DECODED_EVENTS	20000

/* Events of one transaction that are kept in memory, encoded. */
#define MAX_EVENT_BYTES		(256 * 1024)

/* Between looks for WAL that nobody has written yet, in milliseconds. */
#define WAL_PAUSE			10

/* The first one that knows of transactions in progress. */
#define PGOUTPUT_PROTOCOL	"2"

/* Stands for a relation where the next number is the xid of what follows. */
#define XID_MARK			1

/* Where the replay of a transaction's events has come to. */
typedef struct EventReplay
{
	DecodedTransaction *transaction;
	Oid			relid;
	int64		id;
	bool		skip;			/* rolled back */
	DecodedEventCallback callback;
	void	   *arg;
} EventReplay;

static LogicalDecodingContext *decoding = NULL;
static ResourceOwner decode_owner = NULL;
static MemoryContext decode_context = NULL;	/* what has been decoded */
static MemoryContext message_context = NULL;
static List *transactions = NIL;
static List *in_progress = NIL; /* transactions handed over in parts */
static DecodedTransaction *open_transaction = NULL;
static bool in_part = false;	/* the open transaction is one of those */
static int64 pending_events = 0;	/* not handed over yet */

static void create_slot(void);
static void abandon_slot(void);
static void open_decoding(void);
static void decode_record(void);
static int	read_page(XLogReaderState *reader, XLogRecPtr page, int length,
					  XLogRecPtr record, char *buffer);
static int	read_page_to_come(XLogReaderState *reader, XLogRecPtr page, int length,
							  XLogRecPtr record, char *buffer);
static void prepare_write(LogicalDecodingContext *context, XLogRecPtr lsn,
						  TransactionId xid, bool last);
static void take_message(LogicalDecodingContext *context, XLogRecPtr lsn,
						 TransactionId xid, bool last);
static void take_begin(StringInfo message);
static void take_commit(StringInfo message);
static void take_part_begin(StringInfo message);
static void take_part_end(void);
static void take_commit_of_parts(StringInfo message);
static void take_abort(StringInfo message);
static void take_insert(StringInfo message);
static DecodedTransaction *make_transaction(TransactionId xid);
static DecodedTransaction *find_in_progress(TransactionId xid);
static void hand_over(DecodedTransaction *transaction, const LogicalRepCommitData *commit);
static void mark_xid(DecodedTransaction *transaction, TransactionId xid);
static void note_event(DecodedTransaction *transaction, Oid relid, int64 id);
static void spill(DecodedTransaction *transaction);
static void replay_events(StringInfo events, EventReplay *replay);
static bool was_rolled_back(DecodedTransaction *transaction, TransactionId xid);

/*
 * Tries to open a slot and to find the point from which it decodes.  That
 * waits for every transaction that is running, each wait at most as long as
 * the timeout says.  If it does not come to that, *reason, which is allocated,
 * says why.  Called outside a transaction.
 */
DecodeStartResult
DecodeStart(int lock_timeout_ms, char **reason)
{
	MemoryContext old = CurrentMemoryContext;
	char		timeout[32];
	volatile DecodeStartResult result = DECODE_READY;

	if (decode_context == NULL)
	{
		decode_context = AllocSetContextCreate(TopMemoryContext, "daybook decoded events",
											   ALLOCSET_DEFAULT_SIZES);
		message_context = AllocSetContextCreate(TopMemoryContext, "daybook decoded message",
												ALLOCSET_SMALL_SIZES);
		decode_owner = ResourceOwnerCreate(NULL, "daybook decoding");
	}
	snprintf(timeout, sizeof(timeout), "%dms", lock_timeout_ms);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	PG_TRY();
	{
		StartTransactionCommand();
		create_slot();
		open_decoding();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		result = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ?
			DECODE_OBSTRUCTED : DECODE_REFUSED;
		*reason = pstrdup(result == DECODE_REFUSED ? error->message :
						  "waiting for transactions that are in progress before the write-ahead log can be followed");
		FreeErrorData(error);
		FlushErrorState();
		abandon_slot();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	return result;
}

static void
create_slot(void)
{
	LogicalDecodingContext *context;
	char		name[NAMEDATALEN];

	CheckLogicalDecodingRequirements();
	snprintf(name, sizeof(name), "daybook_%u_%d", MyDatabaseId, MyProcPid);
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCreate(name, true, RS_TEMPORARY, false, false, false);
#else
	ReplicationSlotCreate(name, true, RS_TEMPORARY, false);
#endif
	context = CreateInitDecodingContext("pgoutput", NIL, false, InvalidXLogRecPtr,
										XL_ROUTINE(.page_read = read_page_to_come,
												   .segment_open = wal_segment_open,
												   .segment_close = wal_segment_close),
										prepare_write, take_message, NULL);
	decoding = context;
	DecodingContextFindStartpoint(context);
	FreeDecodingContext(context);
	decoding = NULL;
}

static void
abandon_slot(void)
{
	/* before the abort: a context that create_slot made is the transaction's */
	if (decoding)
		FreeDecodingContext(decoding);
	decoding = NULL;
	AbortCurrentTransaction();
	if (MyReplicationSlot)
		ReplicationSlotRelease();
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCleanup(false);
#else
	ReplicationSlotCleanup();
#endif
	InvalidateSystemCaches();
}

/*
 * Within a transaction, since PostgreSQL takes a process that opens a context
 * outside of one for one that never writes: others' snapshots would leave out
 * our transactions, and take rows that we have not committed yet for aborted.
 */
static void
open_decoding(void)
{
	List	   *options = NIL;
	MemoryContext old = MemoryContextSwitchTo(decode_context);

	options = lappend(options, makeDefElem("proto_version",
										   (Node *) makeString(PGOUTPUT_PROTOCOL), -1));
	options = lappend(options, makeDefElem("publication_names",
										   (Node *) makeString(DAYBOOK_PUBLICATION), -1));
	options = lappend(options, makeDefElem("binary", (Node *) makeString("true"), -1));
	options = lappend(options, makeDefElem("streaming", (Node *) makeString("on"), -1));
	decoding = CreateDecodingContext(InvalidXLogRecPtr, options, false,
									 XL_ROUTINE(.page_read = read_page,
												.segment_open = wal_segment_open,
												.segment_close = wal_segment_close),
									 prepare_write, take_message, NULL);
	XLogBeginRead(decoding->reader, MyReplicationSlot->data.restart_lsn);
	InvalidateSystemCaches();
	MemoryContextSwitchTo(old);
}

/* Gives WAL that has been flushed, and does not wait for more. */
static int
read_page(XLogReaderState *reader, XLogRecPtr page, int length,
		  XLogRecPtr record, char *buffer)
{
	TimeLineID	timeline;
	XLogRecPtr	flushed = GetFlushRecPtr(&timeline);
	WALReadError error;
	int			count;

	if (page + length > flushed)
		return -1;
	count = Min(flushed - page, XLOG_BLCKSZ);

	/* the rest of a page that is being filled is read again later */
	if (!WALRead(reader, buffer, page, count, timeline, &error))
		WALReadRaiseError(&error);
	return count;
}

/*
 * Waits for WAL to come.  Not by read_local_xlog_page(), which waits for others
 * to flush, on and on when the postmaster has died: no new server could start.
 */
static int
read_page_to_come(XLogReaderState *reader, XLogRecPtr page, int length,
				  XLogRecPtr record, char *buffer)
{
	int			count;

	while ((count = read_page(reader, page, length, record, buffer)) < 0)
	{
		XLogRecPtr	end = WalPlace(GetXLogInsertRecPtr());

		if (end > GetFlushRecPtr(NULL))
			XLogFlush(end);
		else
			(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WAL_PAUSE,
							 PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	return count;
}

/*
 * Decodes what has been flushed, up to a bound.  True if there is more.
 * Called outside a transaction.
 */
bool
DecodeSome(void)
{
	XLogRecPtr	end = GetFlushRecPtr(NULL);
	ResourceOwner saved_owner = CurrentResourceOwner;

	while (decoding->reader->EndRecPtr < end && pending_events < MAX_DECODED_EVENTS)
	{
		char	   *error = NULL;
		XLogRecord *record;

		CurrentResourceOwner = decode_owner;
		MemoryContextSwitchTo(decode_context);
		record = XLogReadRecord(decoding->reader, &error);
		if (error)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("could not read the write-ahead log at %X/%X: %s",
							LSN_FORMAT_ARGS(decoding->reader->EndRecPtr), error)));
		if (record == NULL)
			break;
		decode_record();
		CHECK_FOR_INTERRUPTS();
	}
	CurrentResourceOwner = saved_owner;
	MemoryContextSwitchTo(TopMemoryContext);
	return pending_events >= MAX_DECODED_EVENTS;
}

static void
decode_record(void)
{
	XLogReaderState *record = decoding->reader;

	if (!RecordIsForeign(record))
		LogicalDecodingProcessRecord(decoding, record);
	else if (TransactionIdIsValid(XLogRecGetTopXid(record)))
		ReorderBufferAssignChild(decoding->reorder, XLogRecGetTopXid(record),
								 XLogRecGetXid(record), record->ReadRecPtr);
}

/* All commits whose records end here or before have been decoded. */
XLogRecPtr
DecodedUpTo(void)
{
	return decoding->reader->EndRecPtr;
}

/* Lets go of WAL up to lsn: its events are in the log. */
void
DecodeConfirm(XLogRecPtr lsn)
{
	if (!XLogRecPtrIsInvalid(lsn))
		LogicalConfirmReceivedLocation(lsn);
}

static void
prepare_write(LogicalDecodingContext *context, XLogRecPtr lsn,
			  TransactionId xid, bool last)
{
	resetStringInfo(context->out);
}

/* pgoutput has written a message. */
static void
take_message(LogicalDecodingContext *context, XLogRecPtr lsn,
			 TransactionId xid, bool last)
{
	MemoryContext old = MemoryContextSwitchTo(message_context);
	StringInfoData message = *context->out;

	message.cursor = 0;
	switch (pq_getmsgbyte(&message))
	{
		case LOGICAL_REP_MSG_BEGIN:
			take_begin(&message);
			break;
		case LOGICAL_REP_MSG_COMMIT:
			take_commit(&message);
			break;
		case LOGICAL_REP_MSG_INSERT:
			take_insert(&message);
			break;
		case LOGICAL_REP_MSG_STREAM_START:
			take_part_begin(&message);
			break;
		case LOGICAL_REP_MSG_STREAM_STOP:
			take_part_end();
			break;
		case LOGICAL_REP_MSG_STREAM_COMMIT:
			take_commit_of_parts(&message);
			break;
		case LOGICAL_REP_MSG_STREAM_ABORT:
			take_abort(&message);
			break;
		default:
			break;				/* relations, types and origins tell us nothing */
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(message_context);
}

static void
take_begin(StringInfo message)
{
	LogicalRepBeginData begin;

	logicalrep_read_begin(message, &begin);
	open_transaction = make_transaction(begin.xid);
}

static void
take_commit(StringInfo message)
{
	LogicalRepCommitData commit;

	logicalrep_read_commit(message, &commit);
	hand_over(open_transaction, &commit);
	open_transaction = NULL;
}

static void
take_part_begin(StringInfo message)
{
	bool		is_first;
	TransactionId xid = logicalrep_read_stream_start(message, &is_first);

	in_part = true;
	open_transaction = find_in_progress(xid);
	if (open_transaction)
		return;
	open_transaction = make_transaction(xid);
	MemoryContextSwitchTo(decode_context);
	in_progress = lappend(in_progress, open_transaction);
}

static void
take_part_end(void)
{
	in_part = false;
	open_transaction = NULL;
}

static void
take_commit_of_parts(StringInfo message)
{
	LogicalRepCommitData commit;
	DecodedTransaction *transaction = find_in_progress(logicalrep_read_stream_commit(message, &commit));

	if (transaction == NULL)
		return;
	in_progress = list_delete_ptr(in_progress, transaction);
	hand_over(transaction, &commit);
}

/* Of a subtransaction it is not always told, so its state is asked for later. */
static void
take_abort(StringInfo message)
{
	DecodedTransaction *transaction = find_in_progress(pq_getmsgint(message, 4));
	TransactionId xid = pq_getmsgint(message, 4);

	if (transaction == NULL || transaction->xid != xid)
		return;
	in_progress = list_delete_ptr(in_progress, transaction);
	DecodedFree(transaction);
}

static void
take_insert(StringInfo message)
{
	TransactionId xid = in_part ? pq_getmsgint(message, 4) : open_transaction->xid;
	LogicalRepTupleData row;
	LogicalRepRelId relid = logicalrep_read_insert(message, &row);
	uint64		id;

	/* id comes first; a table that somebody else has added may have anything */
	if (row.ncols < 1 || row.colstatus[0] != LOGICALREP_COLUMN_BINARY ||
		row.colvalues[0].len != sizeof(id))
		return;
	memcpy(&id, row.colvalues[0].data, sizeof(id));
	MemoryContextSwitchTo(decode_context);
	if (xid != open_transaction->last_xid)
		mark_xid(open_transaction, xid);
	note_event(open_transaction, relid, pg_ntoh64(id));
}

static DecodedTransaction *
make_transaction(TransactionId xid)
{
	MemoryContext old = MemoryContextSwitchTo(decode_context);
	DecodedTransaction *transaction = palloc0(sizeof(DecodedTransaction));

	transaction->xid = transaction->last_xid = xid;
	initStringInfo(&transaction->events);
	MemoryContextSwitchTo(old);
	return transaction;
}

static DecodedTransaction *
find_in_progress(TransactionId xid)
{
	ListCell   *lc;

	foreach(lc, in_progress)
		if (((DecodedTransaction *) lfirst(lc))->xid == xid)
			return lfirst(lc);
	return NULL;
}

static void
hand_over(DecodedTransaction *transaction, const LogicalRepCommitData *commit)
{
	if (transaction->event_count == 0)
	{
		DecodedFree(transaction);
		return;
	}
	transaction->commit_lsn = commit->end_lsn;
	transaction->committed_at = commit->committime;
	pending_events += transaction->event_count;
	MemoryContextSwitchTo(decode_context);
	transactions = lappend(transactions, transaction);
}

static void
mark_xid(DecodedTransaction *transaction, TransactionId xid)
{
	AppendVarint(&transaction->events, XID_MARK);
	AppendVarint(&transaction->events, xid);
	transaction->last_xid = xid;
}

/*
 * An event's encoding: the relation's OID, or 0 for that of the event before,
 * and the distance from the id before.
 */
static void
note_event(DecodedTransaction *transaction, Oid relid, int64 id)
{
	AppendVarint(&transaction->events, relid == transaction->last_relid ? 0 : relid);
	AppendZigzag(&transaction->events, id - transaction->last_id);
	transaction->last_relid = relid;
	transaction->last_id = id;
	transaction->event_count++;
	if (transaction->events.len >= MAX_EVENT_BYTES)
		spill(transaction);
}

/* Moves the events of a huge transaction to a temporary file, a part at a time. */
static void
spill(DecodedTransaction *transaction)
{
	ResourceOwner saved = CurrentResourceOwner;
	int32		length = transaction->events.len;

	CurrentResourceOwner = decode_owner;
	if (transaction->spilled == NULL)
		transaction->spilled = BufFileCreateTemp(true);
	BufFileWrite(transaction->spilled, &length, sizeof(length));
	BufFileWrite(transaction->spilled, transaction->events.data, length);
	CurrentResourceOwner = saved;
	resetStringInfo(&transaction->events);
}

/* Hands over the transactions decoded so far, in commit order. */
List *
DecodedTake(void)
{
	List	   *taken = transactions;

	transactions = NIL;
	pending_events = 0;
	return taken;
}

/*
 * Takes back those that are not visible to others yet; they stay in front,
 * and do not keep more from being decoded.
 */
void
DecodedPutBack(DecodedTransaction *transaction)
{
	MemoryContext old = MemoryContextSwitchTo(decode_context);

	transactions = lappend(transactions, transaction);
	MemoryContextSwitchTo(old);
}

void
DecodedFree(DecodedTransaction *transaction)
{
	if (transaction->spilled)
		BufFileClose(transaction->spilled);
	pfree(transaction->events.data);
	pfree(transaction);
}

/* Calls back for each event of a transaction, in the order of insertion. */
void
DecodedEvents(DecodedTransaction *transaction, DecodedEventCallback callback, void *arg)
{
	EventReplay replay = {.transaction = transaction, .callback = callback, .arg = arg};

	if (transaction->spilled)
	{
		StringInfoData part;
		int32		length;

		initStringInfo(&part);
		if (BufFileSeek(transaction->spilled, 0, 0, SEEK_SET) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not rewind the file of decoded events: %m")));
		while (BufFileRead(transaction->spilled, &length, sizeof(length)) == sizeof(length))
		{
			resetStringInfo(&part);
			enlargeStringInfo(&part, length);
			if (BufFileRead(transaction->spilled, part.data, length) != length)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("file of decoded events ends too soon")));
			part.len = length;
			replay_events(&part, &replay);
		}
		pfree(part.data);
	}
	replay_events(&transaction->events, &replay);
}

static void
replay_events(StringInfo events, EventReplay *replay)
{
	const unsigned char *next = (const unsigned char *) events->data;
	const unsigned char *end = next + events->len;
	uint64		table;
	uint64		xid;
	int64		step;

	while (next < end)
	{
		if (!ReadVarint(&next, end, &table) ||
			!(table == XID_MARK ? ReadVarint(&next, end, &xid) : ReadZigzag(&next, end, &step)))
			elog(ERROR, "decoded events are cut off");
		CHECK_FOR_INTERRUPTS();
		if (table == XID_MARK)
		{
			replay->skip = was_rolled_back(replay->transaction, (TransactionId) xid);
			continue;
		}
		if (table != 0)
			replay->relid = (Oid) table;
		replay->id += step;
		if (!replay->skip)
			replay->callback(replay->relid, replay->id, replay->arg);
	}
}

/*
 * The transaction has ended for others, and its commit includes those of its
 * subtransactions that committed.  Their state is kept as long as the slot
 * holds back the horizon of the catalogs.
 */
static bool
was_rolled_back(DecodedTransaction *transaction, TransactionId xid)
{
	return xid != transaction->xid && !TransactionIdDidCommit(xid);
}

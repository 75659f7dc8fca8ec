/*-------------------------------------------------------------------------
 *
 * sequencer_decode.c
 *	  Reads committed events from the write-ahead log, in commit order.
 *
 * A temporary slot keeps the WAL, and the built-in pgoutput plugin decodes the
 * inserts into the tables of our publication, of which only the column id,
 * where they are not taken from their records (sequencer_rows.c) or known to be
 * of no interest (sequencer_files.c).  The decoding context stays open from
 * round to round.  Callbacks run under a historic snapshot and only note
 * relation and id of each event; all else is done afterwards in an ordinary
 * transaction.
 *
 * Of a large transaction pgoutput hands over what there is while it is still
 * in progress, so that its rows need not be kept.
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
#include "error_class.h"
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
#include "wal_place.h"

/* A round stops decoding after this many events. */
#define MAX_DECODED_EVENTS	20000

/* Between looks for WAL that nobody has written yet, in milliseconds. */
#define WAL_PAUSE			10

/* The first one that knows of transactions in progress. */
#define PGOUTPUT_PROTOCOL	"2"

static LogicalDecodingContext *decoding = NULL;
static ResourceOwner decode_owner = NULL;
static MemoryContext decode_context = NULL;
static MemoryContext message_context = NULL;
static DecodedTransaction *open_transaction = NULL;
static bool in_part = false;	/* of a transaction that is still in progress */

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
static void take_insert(StringInfo message);

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
		decode_context = AllocSetContextCreate(TopMemoryContext, "daybook decoding",
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
						  HINT_IN_PROGRESS);
		FreeErrorData(error);
		FlushErrorState();
		abandon_slot();
		LookAtInterruptsAgain();
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

	while (decoding->reader->EndRecPtr < end && DecodedPending() < MAX_DECODED_EVENTS &&
		   !FilesMayHaveChanged())
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
	return DecodedPending() >= MAX_DECODED_EVENTS || FilesMayHaveChanged();
}

static void
decode_record(void)
{
	XLogReaderState *record = decoding->reader;
	TransactionId xid = XLogRecGetXid(record);
	TransactionId top = XLogRecGetTopXid(record);

	/* said by a subtransaction's first record */
	if (TransactionIdIsValid(top))
		DecodedAssignChild(xid, top);
	if (!RecordIsForeign(record) && !RowsTake(record))
		LogicalDecodingProcessRecord(decoding, record);
	else if (TransactionIdIsValid(top))
		ReorderBufferAssignChild(decoding->reorder, top, xid, record->ReadRecPtr);
	RowsEndTransaction(record);
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
	LogicalConfirmReceivedLocation(lsn);
}

static void
prepare_write(LogicalDecodingContext *context, XLogRecPtr lsn,
			  TransactionId xid, bool last)
{
	resetStringInfo(context->out);
}

/*
 * pgoutput has written a message: of a transaction that has just committed, or
 * a part of one in progress.  How transactions end is seen from their records.
 */
static void
take_message(LogicalDecodingContext *context, XLogRecPtr lsn,
			 TransactionId xid, bool last)
{
	MemoryContext old = MemoryContextSwitchTo(message_context);
	StringInfoData message = *context->out;
	LogicalRepBeginData begin;
	bool		is_first;

	message.cursor = 0;
	switch (pq_getmsgbyte(&message))
	{
		case LOGICAL_REP_MSG_BEGIN:
			logicalrep_read_begin(&message, &begin);
			open_transaction = DecodedOpen(begin.xid);
			in_part = false;
			break;
		case LOGICAL_REP_MSG_STREAM_START:
			open_transaction = DecodedOpen(logicalrep_read_stream_start(&message, &is_first));
			in_part = true;
			break;
		case LOGICAL_REP_MSG_INSERT:
			take_insert(&message);
			break;
		default:
			break;				/* relations, types, origins and ends tell us nothing */
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(message_context);
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
	DecodedNote(open_transaction, xid, relid, pg_ntoh64(id));
}

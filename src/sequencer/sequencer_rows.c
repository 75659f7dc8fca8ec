/*-------------------------------------------------------------------------
 *
 * sequencer_rows.c
 *	  Takes events from the records that store them.
 *
 * An event table's rows are inserted and never changed, and of an event the
 * log wants the id alone, the first column.  It is read where the record has
 * it, for what PostgreSQL's decoding costs a transaction is many times that.
 *
 * Whatever is not as simple is left to decoding: rows of a file that is not
 * known to be an event table's, and those that are stored speculatively.  With
 * the first such row all that the transaction inserts from there on is left to
 * it, so that events keep their order: those from here, then those from
 * decoding, which come with the commit or in parts before that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "event_table/event_table.h"
#include "sequencer/sequencer_internal.h"

static bool inserts_rows(XLogReaderState *record);
static bool is_speculative(XLogReaderState *record);
static void note_row(DecodedTransaction *transaction, TransactionId xid, Oid relid,
					 uint16 infomask, uint8 hoff, const char *data);
static void note_rows(DecodedTransaction *transaction, XLogReaderState *record, Oid relid);

/* False if the record is left to decoding. */
bool
RowsTake(XLogReaderState *record)
{
	TransactionId top;
	DecodedTransaction *transaction;
	Oid			relid;

	if (!inserts_rows(record))
		return false;
	top = DecodedTopXid(XLogRecGetXid(record));
	transaction = DecodedFind(top);
	if (transaction && transaction->left_to_decoding)
		return false;
	relid = is_speculative(record) ? InvalidOid : RecordEventTable(record, top);
	if (transaction == NULL)
		transaction = DecodedOpen(top);
	if (!OidIsValid(relid))
	{
		transaction->left_to_decoding = true;
		return false;
	}
	note_rows(transaction, record, relid);
	return true;
}

/* Rows that decoding would see; it does not see those of catalogs. */
static bool
inserts_rows(XLogReaderState *record)
{
	uint8		operation = XLogRecGetInfo(record) & XLOG_HEAP_OPMASK;
	char	   *data = XLogRecGetData(record);
	uint8		flags = 0;

	if (XLogRecGetRmid(record) == RM_HEAP_ID && operation == XLOG_HEAP_INSERT)
		flags = ((xl_heap_insert *) data)->flags;
	else if (XLogRecGetRmid(record) == RM_HEAP2_ID && operation == XLOG_HEAP2_MULTI_INSERT)
		flags = ((xl_heap_multi_insert *) data)->flags;
	return (flags & XLH_INSERT_CONTAINS_NEW_TUPLE) != 0;
}

static bool
is_speculative(XLogReaderState *record)
{
	return XLogRecGetRmid(record) == RM_HEAP_ID &&
		(((xl_heap_insert *) XLogRecGetData(record))->flags & XLH_INSERT_IS_SPECULATIVE) != 0;
}

static void
note_rows(DecodedTransaction *transaction, XLogReaderState *record, Oid relid)
{
	TransactionId xid = XLogRecGetXid(record);
	char	   *data = XLogRecGetBlockData(record, 0, NULL);

	if (XLogRecGetRmid(record) == RM_HEAP_ID)
	{
		xl_heap_header header;

		memcpy(&header, data, SizeOfHeapHeader);
		data += SizeOfHeapHeader;
		note_row(transaction, xid, relid, header.t_infomask, header.t_hoff, data);
		return;
	}
	for (int rows = ((xl_heap_multi_insert *) XLogRecGetData(record))->ntuples; rows > 0; rows--)
	{
		xl_multi_insert_tuple *header = (xl_multi_insert_tuple *) SHORTALIGN(data);

		data = (char *) header + SizeOfMultiInsertTuple;
		note_row(transaction, xid, relid, header->t_infomask, header->t_hoff, data);
		data += header->datalen;
	}
}

/*
 * data begins behind the fixed part of the row's header, and has the map of
 * nulls first.  A row without an id is no event, whoever has managed to store it.
 */
static void
note_row(DecodedTransaction *transaction, TransactionId xid, Oid relid,
		 uint16 infomask, uint8 hoff, const char *data)
{
	int64		id;

	if ((infomask & HEAP_HASNULL) && att_isnull(EVENT_ID - 1, (const bits8 *) data))
		return;
	memcpy(&id, data + hoff - SizeofHeapTupleHeader, sizeof(id));
	DecodedNote(transaction, xid, relid, id);
}

/*
 * Follows the ends of transactions; decoding has seen the record before, and
 * has handed over what was left to it.
 */
void
RowsEndTransaction(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record);

	if (XLogRecGetRmid(record) != RM_XACT_ID)
		return;
	switch (info & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_COMMIT:
		case XLOG_XACT_COMMIT_PREPARED:
			{
				xl_xact_parsed_commit parsed;

				ParseCommitRecord(info, (xl_xact_commit *) XLogRecGetData(record), &parsed);
				for (int i = 0; i < parsed.nsubxacts; i++)
					DecodedEnd(parsed.subxacts[i]);
				DecodedCommit(TransactionIdIsValid(parsed.twophase_xid) ? parsed.twophase_xid :
							  XLogRecGetXid(record), record->EndRecPtr, parsed.xact_time);
				break;
			}
		case XLOG_XACT_ABORT:
		case XLOG_XACT_ABORT_PREPARED:
			{
				xl_xact_parsed_abort parsed;

				ParseAbortRecord(info, (xl_xact_abort *) XLogRecGetData(record), &parsed);
				for (int i = 0; i < parsed.nsubxacts; i++)
					DecodedEnd(parsed.subxacts[i]);
				DecodedEnd(TransactionIdIsValid(parsed.twophase_xid) ? parsed.twophase_xid :
						   XLogRecGetXid(record));
				break;
			}
		default:
			break;
	}
}

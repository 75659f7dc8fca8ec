/*-------------------------------------------------------------------------
 *
 * sequencer_internal.h
 *	  What the sequencer's phases share: scanning, decoding, publishing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_SEQUENCER_INTERNAL_H
#define DAYBOOK_SEQUENCER_INTERNAL_H

#include "access/xlogreader.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "sequencer/log_segment.h"
#include "storage/buffile.h"
#include "utils/snapshot.h"

/* log_write.c: appends to the log within one transaction */
extern void LogWriteBegin(int64 head);
extern int64 LogWriteNextPosition(void);
extern void LogWriteEvent(int32 table_no, int64 id, TimestampTz committed_at,
						  int64 transaction);
extern int64 LogWriteEnd(void);

/* log_merge.c: puts small segments together */
extern void LogMergeStart(void);
extern void LogMergeNote(int64 first_position, int segments, int64 events);
extern bool LogMergeIsDue(bool idle);
extern void LogMerge(void);

/* id_set.c: a set of events, whose ids are dense above some id */
typedef struct IdSet IdSet;
extern IdSet *IdSetCreate(MemoryContext context);
extern void IdSetAdd(IdSet *set, int32 table_no, int64 id);
extern bool IdSetHas(const IdSet *set, int32 table_no, int64 id);
extern int64 IdSetMax(const IdSet *set);
extern void IdSetFree(IdSet *set);

/* sequencer_gaps.c: ids given out that have not been seen yet */
extern void GapsInit(MemoryContext context);
extern void GapsNote(int64 low, int64 high, const int64 *present, int npresent,
					 Snapshot snapshot);
extern bool GapsHas(int64 id);
extern void GapsTake(int64 id);
extern int	GapsCount(void);
extern bool GapsBelow(int64 id);

/* looks at ids from low on; returns how far it has come, high at most */
typedef int64 (*GapProbe) (int64 low, int64 high, void *arg);
extern bool GapsProbe(Snapshot snapshot, GapProbe probe, void *arg);

/* sequencer_tables.c: the event tables, as far as they can be sequenced */
typedef struct SequencedTable
{
	int32		table_no;
	Oid			relid;
	Oid			published_as;	/* its row of the publication, as far as it is known */
} SequencedTable;

extern void TablesInit(void);
extern bool TablesRefresh(bool scanning);
extern List *TablesList(void);
extern bool TablesPresent(void);
extern bool TablesComplete(void);
extern bool TablesHavePublication(void);
extern const char *TablesHint(void);
extern bool TableIsListed(Oid relid);
extern int32 TableNumber(Oid relid);

/* sequencer_scan.c: events found by their ids */
extern int64 ScanStart(int64 low_water, int64 log_position, MemoryContext context);
extern int	ScanPass(Snapshot snapshot, List *tables, bool *complete);
extern int64 ScanHighest(void);
extern void ScanEnd(void);

/* sequencer_files.c: whose files they are that records change */
extern void FilesInit(void);
extern void FilesLearn(void);
extern bool FilesMayHaveChanged(void);
extern bool RecordIsForeign(XLogReaderState *record);
extern Oid	RecordEventTable(XLogReaderState *record, TransactionId top);

/* sequencer_decoded.c: transactions in the write-ahead log, and their events */
typedef struct DecodedTransaction
{
	TransactionId xid;
	TimestampTz committed_at;
	XLogRecPtr	commit_lsn;
	bool		left_to_decoding;	/* what it inserts from now on */
	int64		event_count;
	StringInfoData events;		/* or the last part of them, if there is a file */
	BufFile    *spilled;
	Oid			last_relid;
	int64		last_id;
	TransactionId last_xid;		/* its own, or a subtransaction's */
} DecodedTransaction;

typedef void (*DecodedEventCallback) (Oid relid, int64 id, void *arg);

extern void DecodedInit(void);
extern void DecodedAssignChild(TransactionId xid, TransactionId top);
extern TransactionId DecodedTopXid(TransactionId xid);
extern DecodedTransaction *DecodedFind(TransactionId top);
extern DecodedTransaction *DecodedOpen(TransactionId top);
extern void DecodedNote(DecodedTransaction *transaction, TransactionId xid, Oid relid, int64 id);
extern void DecodedEnd(TransactionId xid);
extern void DecodedCommit(TransactionId xid, XLogRecPtr end, TimestampTz committed_at);
extern int64 DecodedPending(void);
extern List *DecodedTake(void);
extern void DecodedPutBack(DecodedTransaction *transaction);
extern void DecodedFree(DecodedTransaction *transaction);
extern void DecodedEvents(DecodedTransaction *transaction,
						  DecodedEventCallback callback, void *arg);

/* sequencer_rows.c: events taken from the records that store them */
extern bool RowsTake(XLogReaderState *record);
extern void RowsEndTransaction(XLogReaderState *record);

/* sequencer_decode.c: the write-ahead log, from the slot on */
typedef enum DecodeStartResult
{
	DECODE_READY,
	DECODE_OBSTRUCTED,			/* some transaction has been in progress for too long */
	DECODE_REFUSED
} DecodeStartResult;

#define HINT_IN_PROGRESS \
	"waiting for transactions that are in progress before the write-ahead log can be followed"

extern DecodeStartResult DecodeStart(int lock_timeout_ms, char **reason);
extern bool DecodeSome(void);	/* true: stopped short of the end of the WAL */
extern XLogRecPtr DecodedUpTo(void);
extern void DecodeConfirm(XLogRecPtr lsn);

/* sequencer_snapshot.c: what a snapshot says of transactions */
extern int	TransactionsInProgress(Snapshot snapshot, TransactionId **xids);
extern int	DropEndedTransactions(Snapshot snapshot, TransactionId *xids, int nxids);
extern void HandOver(Snapshot snapshot);
extern bool WasScanned(const DecodedTransaction *transaction);
extern void PassageBegin(void);
extern XLogRecPtr PassageEnd(Snapshot snapshot);

#endif							/* DAYBOOK_SEQUENCER_INTERNAL_H */

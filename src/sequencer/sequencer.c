/*-------------------------------------------------------------------------
 *
 * sequencer.c
 *	  Brings committed events into one order and writes it down in the log.
 *
 * README.md in this folder draws the states.  In short: at the start, and as
 * long as there is no slot, a round scans for events that the log lacks.
 * When a slot has been made, scanning and decoding go on side by side until
 * no transaction is left that the slot may have come too late for; from then
 * on decoding alone finds new events.
 *
 * Whatever goes wrong ends the worker.  It starts again from two numbers in
 * daybook.sequencer_state, and finds out what the log has and what it lacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "daybook.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "sequencer/log_durable.h"
#include "sequencer/log_scan.h"
#include "sequencer/sequencer.h"
#include "sequencer/sequencer_internal.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "wal_place.h"
#include "worker/worker_state.h"

/* Tries for a slot: how long each waits for a transaction, and pauses between, in milliseconds. */
#define FIRST_SLOT_TIMEOUT		100
#define LAST_SLOT_TIMEOUT		2000
#define FIRST_SLOT_PAUSE		250
#define LAST_SLOT_PAUSE			60000

/* Marks are moved forward after so many events, or when nothing else is to do. */
#define EVENTS_PER_MARK			20000

/* The slot lets go of WAL after so much of it. */
#define WAL_PER_CONFIRM			(16 * 1024 * 1024)

/*
 * Above this rate a round is followed by a rest, in milliseconds, so that the
 * next one has more to do: a round costs a transaction.
 */
#define BUSY_EVENTS_PER_SECOND	250
#define REST_LENGTH				10

/* Seconds over which the rate is smoothed. */
#define RATE_WINDOW				0.05

/*
 * With work pending that nobody will wake us for, look again after this time,
 * in milliseconds; sooner if somebody may be waiting for a scan to pass a
 * commit, but less and less so if it does not.
 */
#define PASSAGE_NAPTIME			10
#define PENDING_NAPTIME			1000
#define IDLE_NAPTIME			10000

typedef struct Sequencer
{
	Oid			extension;
	bool		started;		/* marks read, scan set up */
	bool		following;		/* there is a slot */
	bool		catching_up;	/* and still the need to scan */
	int64		head;
	int64		max_id;			/* highest id in the log */

	/* stored marks, see ScanStart() */
	int64		low_water;
	int64		log_position;
	int64		events_since_mark;

	/* the next marks, and what has to come to pass before they hold */
	int64		next_low_water; /* 0: none */
	int64		next_log_position;
	FullTransactionId next_horizon;
	XLogRecPtr	next_lsn;		/* set once the horizon has been passed */

	/* tries for a slot */
	TimestampTz next_try;
	int			try_timeout;
	int			try_pause;
	TransactionId obstacle;		/* in progress when a try failed: none before it ends */
	TransactionId *too_early;	/* in progress when the slot was made */
	int			ntoo_early;

	XLogRecPtr	confirmed;
	XLogRecPtr	held_back;		/* commit of the first decoded and not visible */
	TimestampTz round_started;
	TimestampTz last_round;
	double		rate;			/* events per second, smoothed */
	bool		rest_is_due;
	XLogRecPtr	awaited_before; /* at the last rest */
	long		passage_pause;
} Sequencer;

/*
 * What the settings of the server, the database or the role must not change,
 * besides those of all workers.  Little memory makes pgoutput hand over large
 * transactions early and in parts that fit the processor's cache: three times
 * as fast as with the default.
 */
static const struct
{
	const char *name;
	const char *value;
} own_settings[] = {
	{"application_name", "daybook sequencer"},
	{"lock_timeout", "0"},
	{"logical_decoding_work_mem", "1MB"},
	{"search_path", "pg_catalog"},
	{"temp_file_limit", "-1"},

	/* not to be looked up in catalogs while a transaction in progress is decoded */
	{"temp_tablespaces", ""}
};

static Sequencer seq;
static DatabaseState *db;

/* What lives as long as the marks that a scan began from. */
static MemoryContext scan_context;

static bool is_scanning(void);
static bool begin_round(bool *more);
static bool lock_extension(void);
static bool read_marks(void);
static bool decode(void);
static XLogRecPtr flush_request(void);
static void try_to_follow(void);
static bool scan_round(Snapshot snapshot, int *events);
static int	publish_decoded(Snapshot snapshot);
static void publish_event(Oid relid, int64 id, void *arg);
static XLogRecPtr decoded_and_published(void);
static void merge_if_due(bool idle);
static void advance_marks(bool idle);
static void store_marks(int64 low_water, int64 log_position);
static bool somebody_waits(void);
static void report(int events, XLogRecPtr sequenced);
static const char *hint_while_following(void);
static void set_hint(const char *hint);
static void confirm_decoded(void);
static long pause_after(int events, bool passed);

void
SequencerStart(void)
{
	db = MyDatabaseState();
	memset(&seq, 0, sizeof(seq));
	seq.try_timeout = FIRST_SLOT_TIMEOUT;
	seq.try_pause = FIRST_SLOT_PAUSE;
	seq.passage_pause = PASSAGE_NAPTIME;
	scan_context = AllocSetContextCreate(TopMemoryContext, "daybook scan",
										 ALLOCSET_DEFAULT_SIZES);
	GapsInit(scan_context);
	TablesInit();
	DecodedInit();
	FilesInit();

	for (int i = 0; i < lengthof(own_settings); i++)
		SetConfigOption(own_settings[i].name, own_settings[i].value,
						PGC_SUSET, PGC_S_OVERRIDE);
}

bool
SequencerRound(long *wait)
{
	XLogRecPtr	sequenced = InvalidXLogRecPtr;
	bool		more = false;
	bool		awaited;
	int			events = 0;

	/* of the round's transactions, too, which would be as old as the worker */
	SetCurrentStatementStartTimestamp();
	seq.round_started = GetCurrentStatementStartTimestamp();
	seq.rest_is_due = false;
	if (is_scanning())
		XLogFlush(flush_request());
	try_to_follow();
	PassageBegin();
	if (seq.following)
		more = decode();

	if (!begin_round(&more))
		return false;
	if (seq.started)
	{
		Snapshot	snapshot = GetActiveSnapshot();
		bool		complete = true;

		LogWriteBegin(seq.head);
		if (is_scanning())
			complete = scan_round(snapshot, &events);
		if (seq.following && complete)
			events += publish_decoded(snapshot);
		seq.head = LogWriteEnd();
		seq.events_since_mark += events;
		more |= !complete;
		merge_if_due(events == 0 && !more);
		if (complete && (is_scanning() ? TablesPresent() : TablesComplete()))
		{
			advance_marks(events == 0);
			sequenced = is_scanning() ? PassageEnd(snapshot) : decoded_and_published();
		}
	}
	PopActiveSnapshot();
	CommitLog();

	/*
	 * One flush for all who wait, rather than one for each of many small
	 * rounds; those who read the log wait for it when they have woken.
	 */
	awaited = somebody_waits();
	report(events, sequenced);
	if (awaited)
		MakeLogDurable();
	pgstat_report_stat(true);
	if (seq.following && DecodedPending() == 0)
		confirm_decoded();
	*wait = more ? 0 : pause_after(events, !XLogRecPtrIsInvalid(sequenced));

	/* standbys wait for it; soon enough somebody else flushes if commits come fast */
	if (!more && !seq.rest_is_due)
		MakeLogDurable();
	return true;
}

/* Are new events looked for by their ids? */
static bool
is_scanning(void)
{
	return !seq.following || seq.catching_up;
}

/*
 * Opens the round's transaction and snapshot; false if the extension is gone.
 */
static bool
begin_round(bool *more)
{
	StartTransactionCommand();
	if (!lock_extension())
	{
		CommitTransactionCommand();
		return false;
	}
	PushActiveSnapshot(GetTransactionSnapshot());

	/*
	 * What may have been passed over is looked for from the marks, from the
	 * next round on: its snapshot is one to which all is well.
	 */
	if (TablesRefresh(is_scanning()))
	{
		seq.started = false;
		seq.catching_up = true;
		*more = true;
	}
	else if (!seq.started)
		seq.started = read_marks();
	if (seq.following)
		FilesLearn();
	return true;
}

/*
 * DROP EXTENSION waits for this lock until the round is over.  False if that
 * came first; an extension that was made since is for another worker, since
 * this one remembers the log of the old.
 */
static bool
lock_extension(void)
{
	Oid			extension = LockDaybookExtension();

	if (!OidIsValid(seq.extension))
		seq.extension = extension;
	return OidIsValid(extension) && extension == seq.extension;
}

/*
 * Reads the marks and what the log has above them.  False while there are no
 * marks: no event table has been made, or a dump's log is still being loaded.
 */
static bool
read_marks(void)
{
	bool		found;
	bool		is_null;

	SPI_connect();
	SPI_execute("SELECT low_water, log_position FROM daybook.sequencer_state", true, 1);
	found = SPI_processed == 1;
	if (found)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		seq.low_water = DatumGetInt64(SPI_getbinval(row, desc, 1, &is_null));
		seq.log_position = DatumGetInt64(SPI_getbinval(row, desc, 2, &is_null));
	}
	SPI_finish();
	if (!found)
		return false;

	MemoryContextReset(scan_context);
	GapsInit(scan_context);
	seq.head = LogHead(GetActiveSnapshot());
	seq.max_id = ScanStart(seq.low_water, seq.log_position, scan_context);
	seq.next_low_water = 0;
	seq.ntoo_early = -1;
	LogMergeStart();
	return true;
}

/*
 * Decodes what has been flushed.  Without a flush of ours events of commits
 * that did not wait for theirs would come when the WAL writer gets to them.
 */
static bool
decode(void)
{
	XLogRecPtr	request = flush_request();
	bool		more = DecodeSome();

	if (more || is_scanning() || DecodedUpTo() >= request)
		return more;

	/* a place within a record is decoded together with all of the record */
	if (request <= GetFlushRecPtr(NULL))
		request = WalPlace(GetXLogInsertRecPtr());
	XLogFlush(request);
	return DecodeSome();
}

/* Up to where somebody wants WAL flushed; invalid if there is no such place yet. */
static XLogRecPtr
flush_request(void)
{
	XLogRecPtr	request = WalPlace(pg_atomic_read_u64(&db->flush_request));

	return request <= GetXLogInsertRecPtr() ? request : InvalidXLogRecPtr;
}

/*
 * Tries for a slot now and then; scanning goes on in between.  It stands still
 * during a try, so none is made while a transaction that the last one waited
 * for in vain is still there.
 */
static void
try_to_follow(void)
{
	char	   *reason = NULL;
	DecodeStartResult result;

	/* pgoutput makes do without its publication from PostgreSQL 18 on, silently */
	if (seq.following && (!daybook_decoding || !TablesHavePublication()))
		proc_exit(0);			/* starts again without */
	if (seq.following || !seq.started)
		return;
	if (!XLogLogicalInfoActive())
	{
		set_hint("wal_level is below logical; set it to logical and restart the server for events in commit order and less work");
		return;
	}
	if (!daybook_decoding)
	{
		set_hint("daybook.decoding is off");
		return;
	}
	if (!TablesComplete())
	{
		set_hint(TablesHint());
		return;
	}
	if (seq.round_started < seq.next_try ||
		(TransactionIdIsValid(seq.obstacle) &&
		 TransactionIdPrecedesOrEquals(GetOldestActiveTransactionId(), seq.obstacle)))
		return;

	result = DecodeStart(seq.try_timeout, &reason);
	if (result == DECODE_READY)
	{
		seq.following = true;
		seq.catching_up = true;
		seq.ntoo_early = -1;
		seq.confirmed = DecodedUpTo();
		return;
	}
	if (result == DECODE_REFUSED && strcmp(db->hint, reason) != 0)
		ereport(LOG,
				(errmsg("daybook cannot follow the write-ahead log: %s", reason),
				 errdetail("New events are looked for by scanning."),
				 errhint("See daybook.sequencer_status.")));
	set_hint(reason);
	pfree(reason);
	seq.obstacle = result == DECODE_OBSTRUCTED ?
		GetOldestActiveTransactionId() : InvalidTransactionId;
	seq.next_try = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), seq.try_pause);
	seq.try_timeout = Min(seq.try_timeout * 2, LAST_SLOT_TIMEOUT);
	seq.try_pause = Min(seq.try_pause * 2, LAST_SLOT_PAUSE);
}

/*
 * Scans; returns whether that came to the end.  When all transactions that
 * were in progress at the making of the slot have ended and a scan has seen
 * their events, decoding sees to all the rest.
 */
static bool
scan_round(Snapshot snapshot, int *events)
{
	bool		complete;

	*events = ScanPass(snapshot, TablesList(), &complete);
	seq.max_id = Max(seq.max_id, ScanHighest());
	if (!seq.following)
		return complete;

	if (seq.ntoo_early < 0)
	{
		MemoryContext old = MemoryContextSwitchTo(scan_context);

		seq.ntoo_early = TransactionsInProgress(snapshot, &seq.too_early);
		MemoryContextSwitchTo(old);
	}
	seq.ntoo_early = DropEndedTransactions(snapshot, seq.too_early, seq.ntoo_early);
	if (complete && seq.ntoo_early == 0 && TablesComplete())
	{
		HandOver(snapshot);
		seq.catching_up = false;
		ScanEnd();
		GapsInit(scan_context);
		MemoryContextReset(scan_context);
	}
	return complete;
}

/* What publish_event() needs to know. */
typedef struct DecodedPublication
{
	DecodedTransaction *transaction;
	int64		first_position;
	int			published;
	Oid			relid;			/* the table looked up last, and its number */
	int32		table_no;		/* 0: none of ours */
} DecodedPublication;

/*
 * Publishes decoded transactions that others can see, unless a scan has done
 * so.  A commit record can be read before its transaction has ended for
 * others, long before with synchronous replication: such a transaction is
 * kept for a later round.  Nobody can have acted upon it, so what comes after
 * it need not wait.
 */
static int
publish_decoded(Snapshot snapshot)
{
	List	   *transactions = DecodedTake();
	ListCell   *lc;
	int			published = 0;

	seq.held_back = InvalidXLogRecPtr;
	foreach(lc, transactions)
	{
		DecodedTransaction *transaction = lfirst(lc);
		DecodedPublication publication = {.transaction = transaction};

		if (XidInMVCCSnapshot(transaction->xid, snapshot))
		{
			if (XLogRecPtrIsInvalid(seq.held_back))
				seq.held_back = transaction->commit_lsn;
			DecodedPutBack(transaction);
			continue;
		}
		publication.first_position = LogWriteNextPosition();
		if (!seq.catching_up && !WasScanned(transaction))
			DecodedEvents(transaction, publish_event, &publication);
		published += publication.published;
		DecodedFree(transaction);
	}
	list_free(transactions);
	return published;
}

static void
publish_event(Oid relid, int64 id, void *arg)
{
	DecodedPublication *publication = arg;

	if (relid != publication->relid)
	{
		publication->relid = relid;
		publication->table_no = TableNumber(relid);
	}
	if (publication->table_no == 0)
		return;
	LogWriteEvent(publication->table_no, id, publication->transaction->committed_at,
				  publication->first_position);
	publication->published++;
	seq.max_id = Max(seq.max_id, id);
}

/*
 * The events of all commits up to here are in the log.  At the end of a page
 * that includes the next one's header, behind which the WAL goes on: whoever
 * waits for all of it asks for that place.
 */
static XLogRecPtr
decoded_and_published(void)
{
	XLogRecPtr	decoded = DecodedUpTo();

	if (!XLogRecPtrIsInvalid(seq.held_back))
		return seq.held_back - 1;
	return decoded % XLOG_BLCKSZ == 0 ? decoded + SizeOfXLogLongPHD : decoded;
}

static void
merge_if_due(bool idle)
{
	if (!LogMergeIsDue(idle))
		return;
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	LogMerge();
	PopActiveSnapshot();
}

/*
 * Moves the marks from which a start has to look for events.  Today's highest
 * id will do as soon as all transactions that can have a lower one have ended
 * and what they committed is in the log.
 */
static void
advance_marks(bool idle)
{
	if (seq.next_low_water == 0)
	{
		if (seq.max_id <= seq.low_water ||
			(!idle && seq.events_since_mark < EVENTS_PER_MARK))
			return;
		seq.next_low_water = seq.max_id;
		seq.next_log_position = seq.head;
		seq.next_horizon = ReadNextFullTransactionId();
		seq.next_lsn = InvalidXLogRecPtr;
		seq.events_since_mark = 0;
		return;
	}
	if (XLogRecPtrIsInvalid(seq.next_lsn))
	{
		TransactionId oldest = GetOldestActiveTransactionId();

		if (TransactionIdPrecedes(oldest, XidFromFullTransactionId(seq.next_horizon)))
			return;
		seq.next_lsn = GetXLogInsertRecPtr();
		return;
	}

	/* the scan of this round has begun after that */
	if (is_scanning() ? GapsBelow(seq.next_low_water) : decoded_and_published() < seq.next_lsn)
		return;
	store_marks(seq.next_low_water, seq.next_log_position);
	seq.next_low_water = 0;
}

static void
store_marks(int64 low_water, int64 log_position)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(low_water), Int64GetDatum(log_position)};

	SPI_connect();
	SPI_execute_with_args("UPDATE daybook.sequencer_state SET low_water = $1, log_position = $2",
						  2, types, values, NULL, false, 0);
	SPI_finish();
	seq.low_water = low_water;
	seq.log_position = log_position;
}

/* Does a session wait for what this round has published, or for a later one? */
static bool
somebody_waits(void)
{
	return pg_atomic_read_u64(&db->awaited_lsn) > pg_atomic_read_u64(&db->sequenced_lsn);
}

/* Tells the waiters and the status view how far the round has come. */
static void
report(int events, XLogRecPtr sequenced)
{
	db->mode = is_scanning() ? SEQUENCER_SCANNING : SEQUENCER_DECODING;
	db->low_water = seq.low_water;
	db->open_gaps = GapsCount();
	db->decoded_lsn = seq.following ? DecodedUpTo() : InvalidXLogRecPtr;
	if (events > 0)
		db->last_published_at = GetCurrentTimestamp();
	if (seq.following)
		set_hint(hint_while_following());
	/* zero until the marks have been read */
	pg_atomic_write_u64(&db->head, seq.head);
	pg_write_barrier();
	if (sequenced > pg_atomic_read_u64(&db->sequenced_lsn))
		pg_atomic_write_u64(&db->sequenced_lsn, sequenced);
	ConditionVariableBroadcast(&db->published);
}

/* Why scanning goes on beside decoding, or some events are left out of it. */
static const char *
hint_while_following(void)
{
	if (!TablesComplete())
		return TablesHint();
	return seq.catching_up && seq.ntoo_early > 0 ? HINT_IN_PROGRESS : "";
}

static void
set_hint(const char *hint)
{
	strlcpy(db->hint, hint, SEQUENCER_HINT_LEN);
}

/* Events of commits that are held back are in memory: no WAL before the first of these is needed. */
static void
confirm_decoded(void)
{
	XLogRecPtr	published = decoded_and_published();

	if (published < seq.confirmed + WAL_PER_CONFIRM)
		return;
	seq.confirmed = published;
	DecodeConfirm(published);
}

/*
 * Lets commits come together if they come fast, unless a session waits for its
 * own; one that begins to wait ends the rest.  One that has waited through a
 * round may have given up, and keeps none from being taken any more.  After a
 * rest, during which commits do not set the latch, the next round has to
 * follow at once.
 */
bool
SequencerRest(void)
{
	XLogRecPtr	awaited;

	if (!seq.rest_is_due)
		return false;
	db->resting = true;
	ResetLatch(MyLatch);
	awaited = pg_atomic_read_u64(&db->awaited_lsn);
	if (awaited <= pg_atomic_read_u64(&db->sequenced_lsn) || awaited == seq.awaited_before)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 REST_LENGTH, PG_WAIT_EXTENSION);
	seq.awaited_before = awaited;
	db->resting = false;

	/* who has seen it true has asked for the next round before that looks */
	pg_memory_barrier();
	return true;
}

/* How long to wait for the latch; passed: the round has passed some place in the WAL. */
static long
pause_after(int events, bool passed)
{
	double		seconds = (GetCurrentTimestamp() - seq.last_round) / 1000000.0;

	if (seconds > 0)
		seq.rate += (events / seconds - seq.rate) * Min(1.0, seconds / RATE_WINDOW);
	seq.last_round = GetCurrentTimestamp();
	seq.rest_is_due = events > 0 && seq.rate > BUSY_EVENTS_PER_SECOND;
	seq.passage_pause = passed ? PASSAGE_NAPTIME : Min(seq.passage_pause * 2, PENDING_NAPTIME);
	if (is_scanning() &&
		pg_atomic_read_u64(&db->sequenced_lsn) < pg_atomic_read_u64(&db->flush_request))
		return seq.passage_pause;
	if (is_scanning() || seq.next_low_water != 0 || !XLogRecPtrIsInvalid(seq.held_back))
		return PENDING_NAPTIME;
	return IDLE_NAPTIME;
}

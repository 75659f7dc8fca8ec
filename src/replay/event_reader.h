/*-------------------------------------------------------------------------
 *
 * event_reader.h
 *	  Reading the log together with the events it names, filtered: the one
 *	  path by which read_all, projections and subscriptions get events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_EVENT_READER_H
#define DAYBOOK_EVENT_READER_H

#include "access/htup.h"
#include "event_table/event_table.h"
#include "executor/tuptable.h"
#include "sequencer/log_segment.h"
#include "utils/array.h"
#include "utils/snapshot.h"

/* What to read; a NULL array lets everything through. */
typedef struct EventFilter
{
	ArrayType  *event_tables;	/* regclass[] */
	ArrayType  *categories;		/* text[]: the part of stream_id before '-' */
	ArrayType  *types;			/* text[] */
	bool		as_stored;		/* do not upcast; types are those stored, too */
	bool		ahead;			/* the caller calls MakeLogDurable() before he tells of events */
	int			shares;			/* more than 1: only the streams whose hash, */
	int			share;			/* modulo shares, is this */
} EventFilter;

/* An event and its place in the log. */
typedef struct LogEvent
{
	LogEntry	entry;
	Oid			event_table;
	HeapTuple	tuple;			/* laid out as daybook.event; lives until the
								 * next call of EventReaderNext */
	ErrorData  *error;			/* why it cannot be upcast: the tuple is as
								 * stored; NULL but after EventReaderCatch */
} LogEvent;

typedef struct EventReader EventReader;

/*
 * The caller keeps the snapshot active.  check_privileges: raise an error
 * unless the current user may SELECT from every event table that is read.
 */
extern EventReader *EventReaderBegin(Snapshot snapshot, int64 after,
									 const EventFilter *filter, bool check_privileges);

/* NULL at the end of the log, or at the limit. */
extern LogEvent *EventReaderNext(EventReader *reader);

/* Position up to which everything was delivered or filtered out. */
extern int64 EventReaderPosition(EventReader *reader);

/* Goes to another position; takes a limit away. */
extern void EventReaderSeek(EventReader *reader, int64 after);

/*
 * Lets the reader pass this many further positions of the log and no more; 0
 * takes the limit away.
 */
extern void EventReaderLimit(EventReader *reader, int64 max_scanned);

/*
 * Delivers events whose upcaster fails with the error, rather than raise it.
 * Errors that may pass by themselves are still raised.
 */
extern void EventReaderCatch(EventReader *reader);

/* How many further events the caller wants, so that no more is read ahead. */
extern void EventReaderExpect(EventReader *reader, int64 events);
extern void EventReaderEnd(EventReader *reader);

/* The same, and lets go of the event tables: nothing that was read is kept. */
extern void EventReaderDiscard(EventReader *reader);

/* Fills the columns of daybook.log_event from a LogEvent. */
#define LOG_EVENT_NATTS		(2 + EVENT_NATTS)
extern void LogEventValues(const LogEvent *event, TupleDesc event_desc,
						   Datum *values, bool *nulls);

#endif							/* DAYBOOK_EVENT_READER_H */

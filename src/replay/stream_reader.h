/*-------------------------------------------------------------------------
 *
 * stream_reader.h
 *	  Reading the streams of an event table in order of version, each event
 *	  brought up to the newest version of its type.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_STREAM_READER_H
#define DAYBOOK_STREAM_READER_H

#include "access/sdir.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

typedef struct StreamReader StreamReader;

/*
 * The table is opened by the caller, and the reader made in the current memory
 * context.  as_stored: events are given as they are in the table.
 */
extern StreamReader *StreamReaderBegin(Relation table, Snapshot snapshot, bool as_stored);
extern void StreamReaderEnd(StreamReader *reader);

/* Goes to a stream; the reader keeps the pointer to its name. */
extern void StreamReaderSeek(StreamReader *reader, text *stream_id, int64 from_version,
							 int64 to_version, ScanDirection direction);

/*
 * Goes to the first event of the first stream after one, and goes on to the
 * end of another; NULL for no bound.  Keeps the pointers to the names.
 */
extern void StreamReaderSeekAfter(StreamReader *reader, text *after, text *upto);

/* Leaves out events recorded later; DT_NOEND for none. */
extern void StreamReaderUntil(StreamReader *reader, TimestampTz until);

/* The next event, laid out as daybook.event, valid until the next call; NULL at the end. */
extern TupleTableSlot *StreamReaderNext(StreamReader *reader);

#endif							/* DAYBOOK_STREAM_READER_H */

/*-------------------------------------------------------------------------
 *
 * wal_place.h
 *	  A place in the write-ahead log that can be flushed to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_WAL_PLACE_H
#define DAYBOOK_WAL_PLACE_H

#include "access/xlog_internal.h"

/* An insert position just past a page's header has nothing before it on the page. */
static inline XLogRecPtr
WalPlace(XLogRecPtr lsn)
{
	XLogRecPtr	page = lsn - lsn % XLOG_BLCKSZ;
	uint32		header = XLogSegmentOffset(page, wal_segment_size) == 0 ?
		SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	return lsn - page == header ? page : lsn;
}

#endif							/* DAYBOOK_WAL_PLACE_H */

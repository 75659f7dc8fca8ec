/*-------------------------------------------------------------------------
 *
 * position_list.h
 *	  Arrays of positions of the log, in rising order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_POSITION_LIST_H
#define DAYBOOK_POSITION_LIST_H

extern bool PositionIsAmong(const int64 *positions, int count, int64 position);

#endif							/* DAYBOOK_POSITION_LIST_H */

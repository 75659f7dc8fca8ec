/*-------------------------------------------------------------------------
 *
 * position_list.c
 *	  Arrays of positions of the log, in rising order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "position_list.h"

bool
PositionIsAmong(const int64 *positions, int count, int64 position)
{
	int			low = 0;
	int			high = count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (positions[middle] == position)
			return true;
		if (positions[middle] < position)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

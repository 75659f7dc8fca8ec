/*-------------------------------------------------------------------------
 *
 * event_id.c
 *	  Event ids: the caller's, or one made here and told apart from it.
 *
 * A made id is a version 8 UUID (RFC 9562): 48 bits of Unix time in
 * milliseconds, a mark of 12 bits, and 62 random bits.  Only ids that callers
 * give need to be found again, so the index that finds them leaves out the
 * made ones and costs nothing to who gives none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "event_table/event_table.h"
#include "fmgr.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(daybook_event_id_given);

/* Bytes 6 and 7: version 8, then the mark. */
#define MADE_ID_BYTE_6	0x8D
#define MADE_ID_BYTE_7	0xB0

/* pg_epoch less unix_epoch, in milliseconds */
#define EPOCH_OFFSET_MS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)

bool
EventIdIsGiven(const unsigned char *uuid)
{
	return uuid[6] != MADE_ID_BYTE_6 || uuid[7] != MADE_ID_BYTE_7;
}

void
MakeEventId(unsigned char *uuid, TimestampTz now)
{
	uint64		milliseconds = now / 1000 + EPOCH_OFFSET_MS;
	uint64		random = pg_prng_uint64(&pg_global_prng_state);

	for (int i = 0; i < 6; i++)
		uuid[i] = (unsigned char) (milliseconds >> (8 * (5 - i)));
	uuid[6] = MADE_ID_BYTE_6;
	uuid[7] = MADE_ID_BYTE_7;
	memcpy(uuid + 8, &random, sizeof(random));
	uuid[8] = (uuid[8] & 0x3F) | 0x80;
}

/* daybook.event_id_given(uuid): was this id the caller's? */
Datum
daybook_event_id_given(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(EventIdIsGiven(PG_GETARG_UUID_P(0)->data));
}

/*-------------------------------------------------------------------------
 *
 * varint.h
 *	  Variable-length integers: seven bits a byte, low bits first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_VARINT_H
#define DAYBOOK_VARINT_H

#include "lib/stringinfo.h"

static inline void
AppendVarint(StringInfo buf, uint64 value)
{
	while (value >= 0x80)
	{
		appendStringInfoCharMacro(buf, (char) (value | 0x80));
		value >>= 7;
	}
	appendStringInfoCharMacro(buf, (char) value);
}

/* Small magnitudes of either sign become small unsigned values. */
static inline uint64
Zigzag(int64 value)
{
	return ((uint64) value << 1) ^ (uint64) (value >> 63);
}

static inline int64
Unzigzag(uint64 raw)
{
	return (int64) (raw >> 1) ^ -(int64) (raw & 1);
}

static inline void
AppendZigzag(StringInfo buf, int64 value)
{
	AppendVarint(buf, Zigzag(value));
}

/* Returns false, leaving *next alone, when the buffer ends within the value. */
static inline bool
ReadVarint(const unsigned char **next, const unsigned char *end, uint64 *value)
{
	uint64		result = 0;
	int			shift = 0;

	for (const unsigned char *p = *next; p < end && shift < 64; p++, shift += 7)
	{
		result |= (uint64) (*p & 0x7F) << shift;
		if ((*p & 0x80) == 0)
		{
			*next = p + 1;
			*value = result;
			return true;
		}
	}
	return false;
}

static inline bool
ReadZigzag(const unsigned char **next, const unsigned char *end, int64 *value)
{
	uint64		raw;

	if (!ReadVarint(next, end, &raw))
		return false;
	*value = Unzigzag(raw);
	return true;
}

#endif							/* DAYBOOK_VARINT_H */

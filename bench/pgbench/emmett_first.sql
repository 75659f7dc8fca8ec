-- A stream cannot be begun by several at a time.
SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:'payload'::jsonb], ARRAY['{}'::jsonb],
	'{1}', '{OrderPlaced}', '{E}', 'hot-1', 'order', NULL, 'emt' || chr(58) || 'default');

-- Says in its result, or by an error, that it has lost a race; the failed are not counted.
SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:payload::jsonb], ARRAY['{}'::jsonb],
	'{1}', '{OrderPlaced}', '{E}', 'hot-1', 'order', NULL, 'emt' || chr(58) || 'default');

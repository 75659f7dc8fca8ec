-- The history of preload.sql in the tables of the other stores, written
-- directly, as their functions would have left it.
INSERT INTO message_store.messages (stream_name, position, type, data)
SELECT 'order-' || stream, version - 1, 'OrderPlaced', :'payload'
FROM generate_series(1, 5) version, generate_series(1, :streams) stream;

INSERT INTO emt_streams (stream_id, stream_position, partition, stream_type, stream_metadata)
SELECT 'order-' || stream, 5, 'emt:default', 'order', '{}'
FROM generate_series(1, :streams) stream;

INSERT INTO emt_messages (stream_id, stream_position, transaction_id, message_schema_version,
	message_id, message_type, message_data, message_metadata)
SELECT 'order-' || stream, version, pg_current_xact_id(), '1', gen_random_uuid(), 'OrderPlaced', :'payload', '{}'
FROM generate_series(1, 5) version, generate_series(1, :streams) stream;

-- Five events in each stream, in the order in which such a history comes about.
INSERT INTO plain_event (stream_id, version, type, data)
SELECT 'order-' || stream, version, 'OrderPlaced', :'payload'
FROM generate_series(1, 5) version, generate_series(1, :streams) stream;

INSERT INTO event (stream_id, type, data)
SELECT 'order-' || stream, 'OrderPlaced', :'payload'
FROM generate_series(1, 5) version, generate_series(1, :streams) stream;

INSERT INTO event (stream_id, type, data) VALUES ('hot-1', 'OrderPlaced', :payload);

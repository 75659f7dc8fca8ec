-- What an event table is made of, and what it refuses.
BEGIN;
SELECT plan(20);

SELECT has_schema('daybook');
SELECT has_type('daybook', 'event', 'the row type');

CREATE SCHEMA shop;
SELECT lives_ok($$ SELECT daybook.create_event_table('shop.orders') $$, 'a schema-qualified name works');
SELECT columns_are('shop', 'orders', ARRAY['id', 'version', 'recorded_at', 'schema_version', 'event_id', 'recorded_by',
	'stream_id', 'type', 'data', 'metadata', 'tags']);
SELECT col_is_pk('shop', 'orders', 'id', 'id is the primary key');
SELECT col_is_unique('shop', 'orders', ARRAY['stream_id', 'version'], 'a version comes once in a stream');
SELECT col_not_null('shop', 'orders', 'type', 'type is never null');
SELECT has_trigger('shop', 'orders', 'daybook_append', 'the version trigger');
SELECT is(amname, 'daybook', 'the access method') FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE c.oid = 'shop.orders'::regclass;
SELECT table_owner_is('shop', 'orders', current_user, 'owned by the caller');

INSERT INTO shop.orders (stream_id, type, data) VALUES ('order-1', 'Placed', '{"total": 10}'), ('order-1', 'Paid', '{}'), ('order-2', 'Placed', '{}');
SELECT results_eq('SELECT stream_id, version FROM shop.orders ORDER BY id',
	$$ VALUES ('order-1', 1::bigint), ('order-1', 2), ('order-2', 1) $$, 'versions count from 1 in each stream');
SELECT is_empty($$ SELECT FROM shop.orders WHERE recorded_by <> session_user OR recorded_at IS NULL OR event_id IS NULL $$,
	'who, when and the event''s own id are filled in');

SELECT throws_ok($$ INSERT INTO shop.orders (stream_id, version, type) VALUES ('order-1', 2, 'Paid') $$, '40001', NULL, 'a version that is taken');
SELECT throws_ok($$ INSERT INTO shop.orders (stream_id, version, type) VALUES ('order-1', 4, 'Paid') $$, '40001', NULL, 'a version too far');
SELECT throws_ok($$ INSERT INTO shop.orders (stream_id, type, id) VALUES ('order-1', 'Paid', 7) $$, '428C9', NULL, 'an id of the client''s choice');
SELECT throws_ok($$ UPDATE shop.orders SET type = 'Sold' $$, '55000', NULL, 'UPDATE');
SELECT throws_ok($$ DELETE FROM shop.orders $$, '55000', NULL, 'DELETE');
SELECT throws_ok($$ TRUNCATE shop.orders $$, '55000', NULL, 'TRUNCATE');
SELECT throws_ok($$ DROP TABLE shop.orders $$, '55000', NULL, 'DROP TABLE');
SELECT results_eq('SELECT count(*) FROM shop.orders', ARRAY[3::bigint], 'and all events are still there');

SELECT * FROM finish();
ROLLBACK;

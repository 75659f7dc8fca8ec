-- daybook.replay() and daybook.stream_version(): one stream in order of version
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('rep_orders');
CREATE FUNCTION rep_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || COALESCE(' / ' || NULLIF(detail, ''), '');
END $$;

SELECT last_version FROM daybook.append('rep_orders', 'order-1',
	(SELECT jsonb_agg(jsonb_build_object('type', 'Step' || i, 'data', jsonb_build_object('n', i))) FROM generate_series(1, 5) i));
SELECT last_version FROM daybook.append('rep_orders', 'order-10', '{"type": "Other"}');
SELECT last_version FROM daybook.append('rep_orders', 'order', '{"type": "Other"}');

SELECT version, type, data FROM daybook.replay('rep_orders', 'order-1');
SELECT version FROM daybook.replay('rep_orders', 'order-1', 4);
SELECT version FROM daybook.replay('rep_orders', 'order-1', 2, 3);
SELECT version FROM daybook.replay('rep_orders', 'order-1', to_version => 2);
SELECT version FROM daybook.replay('rep_orders', 'order-1', 2, 4, backwards => true);
SELECT count(*) FROM daybook.replay('rep_orders', 'order-1', 4, 3);
SELECT count(*) FROM daybook.replay('rep_orders', 'order-1', -9223372036854775808, 9223372036854775807);
SELECT count(*) FROM daybook.replay('rep_orders', 'order-1', 9223372036854775807);
SELECT count(*) FROM daybook.replay('rep_orders', 'nobody');
SELECT count(*) FROM daybook.replay('rep_orders', 'order-1', NULL, NULL, NULL, NULL);
-- a row is the table's row
SELECT count(*) FROM (SELECT * FROM daybook.replay('rep_orders', 'order-1') EXCEPT SELECT * FROM rep_orders) x;
SELECT r IS NOT DISTINCT FROM (o.*)::daybook.event AS same, pg_typeof(r)
FROM daybook.replay('rep_orders', 'order-10') r, rep_orders o WHERE o.stream_id = 'order-10';

-- until: what had been recorded then
SELECT recorded_at AS then FROM rep_orders WHERE stream_id = 'order-1' AND version = 1 \gset
SELECT pg_sleep(0.01);
SELECT last_version FROM daybook.append('rep_orders', 'order-1', '{"type": "Step6"}');
SELECT version FROM daybook.replay('rep_orders', 'order-1', until => :'then');
SELECT version FROM daybook.replay('rep_orders', 'order-1', 3, until => :'then', backwards => true);
SELECT count(*) FROM daybook.replay('rep_orders', 'order-1', until => '-infinity');
SELECT count(*) FROM daybook.replay('rep_orders', 'order-1', until => 'infinity');

SELECT daybook.stream_version('rep_orders', 'order-1') AS six, daybook.stream_version('rep_orders', 'order') AS one,
	daybook.stream_version('rep_orders', 'order-') AS none, daybook.stream_version('rep_orders', NULL) AS null;

-- In FROM the rows stream, in order.
EXPLAIN (COSTS OFF) SELECT * FROM daybook.replay('rep_orders', 'order-1') ORDER BY version LIMIT 1;
EXPLAIN (COSTS OFF) SELECT type FROM daybook.replay('rep_orders', 'order-1', backwards => true) WHERE id > 0 ORDER BY version DESC;
EXPLAIN (COSTS OFF) SELECT * FROM daybook.replay('rep_orders', 'order-1', backwards => true) ORDER BY version;
-- in the other places they are stored first
EXPLAIN (COSTS OFF) SELECT * FROM daybook.replay('rep_orders', 'order-1') r JOIN rep_orders USING (id) FOR KEY SHARE OF rep_orders;
SELECT r.version, r.type FROM daybook.replay('rep_orders', 'order-1', 5) r JOIN rep_orders USING (id) FOR KEY SHARE OF rep_orders;
SELECT (daybook.replay('rep_orders', 'order-1', 5)).type;
SELECT ordinality, version FROM daybook.replay('rep_orders', 'order-1', 5) WITH ORDINALITY;
SELECT n, version FROM ROWS FROM (generate_series(1, 3), daybook.replay('rep_orders', 'order-1', 5)) AS r (n);

-- nested loops, subqueries, plpgsql, cursors
SELECT s, r.version, r.type FROM (VALUES ('order-10'), ('nobody'), ('order-1')) v (s)
	LEFT JOIN LATERAL daybook.replay('rep_orders', s, 5) r ON true;
SELECT s, (SELECT jsonb_agg(type) FROM daybook.replay('rep_orders', s)) FROM (VALUES ('order-10'), ('order-1')) v (s);
SELECT s, (SELECT r FROM daybook.replay('rep_orders', s) r LIMIT 1).type FROM (VALUES ('order-10'), ('nobody')) v (s);
DO $$
DECLARE
	e record;
	steps text := '';
BEGIN
	FOR e IN SELECT * FROM daybook.replay('rep_orders', 'order-1') LOOP
		-- events that are appended meanwhile are none of this replay's
		PERFORM daybook.append('rep_orders', 'order-1', jsonb_build_object('type', 'Echo'));
		steps := steps || e.version || ' ';
	END LOOP;
	RAISE WARNING '%', steps;
END $$;
BEGIN;
DECLARE steps CURSOR FOR SELECT version FROM daybook.replay('rep_orders', 'order-1');
FETCH 2 FROM steps;
SAVEPOINT later;
SELECT last_version FROM daybook.append('rep_orders', 'order-1', '{"type": "Later"}');
FETCH 1 FROM steps;
ROLLBACK TO later;
FETCH 1 FROM steps;
CLOSE steps;
SELECT daybook.stream_version('rep_orders', 'order-1');
COMMIT;
PREPARE rep (text, bigint) AS SELECT version, type FROM daybook.replay('rep_orders', $1, $2, $2 + 1);
SET plan_cache_mode = force_generic_plan;
EXECUTE rep('order-1', 1);
EXECUTE rep('order-10', 1);
EXECUTE rep(NULL, 1);
RESET plan_cache_mode;
-- own events of the transaction count
BEGIN;
SELECT last_version FROM daybook.append('rep_orders', 'order-2', '{"type": "Own"}');
SELECT version FROM daybook.replay('rep_orders', 'order-2');
ROLLBACK;
SELECT daybook.stream_version('rep_orders', 'order-2');

-- long payloads stay out of line until they are used
SELECT last_version FROM daybook.append('rep_orders', 'long-1',
	(SELECT jsonb_agg(jsonb_build_object('type', 'Long', 'data', jsonb_build_object('n', i, 'text', t))) FROM generate_series(1, 3) i,
		(SELECT string_agg(md5(j::text), '') AS t FROM generate_series(1, 3000) j) x));
SELECT version, length(data ->> 'text') FROM daybook.replay('rep_orders', 'long-1');
SELECT count((x.r).data) FROM (SELECT r FROM daybook.replay('rep_orders', 'long-1') r OFFSET 0) x (r);
SELECT count(*) FROM (SELECT r FROM daybook.replay('rep_orders', 'long-1') r EXCEPT SELECT (o.*)::daybook.event FROM rep_orders o) x;

-- errors
CREATE TABLE rep_plain OF daybook.event;
CREATE VIEW rep_view AS SELECT * FROM rep_orders;
SELECT rep_try($$SELECT daybook.replay('rep_plain', 'order-1')$$);
SELECT rep_try($$SELECT * FROM daybook.replay('rep_view', 'order-1')$$);
SELECT rep_try($$SELECT * FROM daybook.replay('pg_class', 'order-1')$$);
SELECT left(rep_try($$SELECT * FROM daybook.replay('rep_orders_pkey', 'order-1')$$), 5) AS index;
SELECT rep_try($$SELECT * FROM daybook.replay(NULL, 'order-1')$$);
SELECT rep_try($$SELECT * FROM daybook.replay('rep_orders', NULL)$$);
SELECT rep_try($$SELECT daybook.stream_version('rep_plain', 'order-1')$$);
CREATE ROLE rep_reader;
SET ROLE rep_reader;
SELECT rep_try($$SELECT * FROM daybook.replay('rep_orders', 'order-1')$$);
SELECT rep_try($$SELECT daybook.stream_version('rep_orders', 'order-1')$$);
RESET ROLE;
GRANT SELECT ON rep_orders TO rep_reader;
SET ROLE rep_reader;
SELECT version FROM daybook.replay('rep_orders', 'order-1', 2, 3);
SELECT daybook.stream_version('rep_orders', 'order-10');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION daybook.replay(regclass, text, bigint, bigint, timestamptz, boolean) FROM PUBLIC;
SET ROLE rep_reader;
SELECT rep_try($$SELECT * FROM daybook.replay('rep_orders', 'order-1')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION daybook.replay(regclass, text, bigint, bigint, timestamptz, boolean) TO PUBLIC;
BEGIN READ ONLY;
SELECT version FROM daybook.replay('rep_orders', 'order-1', 2, 3);
COMMIT;

DROP VIEW rep_view;
DROP TABLE rep_plain;
SELECT daybook.drop_event_table('rep_orders', force => true);
DROP ROLE rep_reader;
DROP FUNCTION rep_try;

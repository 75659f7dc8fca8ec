-- Upcasters whose ways part and meet again: as many ways as 2 to the power of
-- the versions, which nobody may have to wait for
SET client_min_messages = warning;
SELECT daybook.create_event_table('upa');
CREATE FUNCTION upa_same(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT data $$;

-- what follows is written where ways part first
SELECT count(daybook.create_upcaster('upa', t, v, 'upa_same(jsonb)', u))
FROM generate_series(2, 3) v, unnest('{A,B}'::text[]) t, unnest('{A,B}'::text[]) u;
SELECT count(daybook.create_upcaster('upa', 'A', 1, 'upa_same(jsonb)', u)) FROM unnest('{A,B}'::text[]) u;
SELECT * FROM daybook.upcast_path('upa', 'A', 1);
SELECT * FROM daybook.upcast_path('upa', 'B', 3);
-- and what is wrong once
SELECT daybook.register_event_type('upa', 'B', 6);
SELECT * FROM daybook.upcast_path('upa', 'A', 1);

-- with 17 versions, and none of the ways wanted
SELECT count(daybook.create_upcaster('upa', t, v, 'upa_same(jsonb)', u))
FROM generate_series(4, 17) v, unnest('{A,B}'::text[]) t, unnest('{A,B}'::text[]) u;
SELECT length(path) FROM daybook.upcast_path('upa', 'A', 1);
INSERT INTO upa (stream_id, type) SELECT 's-' || i, 'A' FROM generate_series(1, 2000) i;
DO $$
BEGIN
	FOR i IN 1..1500 LOOP
		EXIT WHEN (SELECT count(*) FROM daybook.log WHERE event_table = 'upa'::regclass) = 2000;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
SET statement_timeout = '5s';
SELECT count(*) FROM daybook.read_all(event_tables => '{upa}', types => '{Z}', max_events => 2000);
SELECT count(*) FROM daybook.read_all(event_tables => '{upa}', types => '{A}', max_events => 2000);
RESET statement_timeout;

-- where events lead is for those who may read them
CREATE ROLE upa_other;
SET ROLE upa_other;
SELECT * FROM daybook.upcast_path('upa', 'A', 1);
RESET ROLE;

DROP ROLE upa_other;
SELECT daybook.drop_event_table('upa', force => true);
DROP FUNCTION upa_same(jsonb);

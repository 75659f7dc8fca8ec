-- What the extension declares: each function with the names of its arguments,
-- its volatility and whom it is for; comments, grants and the order of columns
-- that others build upon.  Who adds a function adds it here.
BEGIN;
SELECT plan(20);

CREATE TEMP TABLE declared (signature text PRIMARY KEY, arguments text, traits text, executable_by text);

-- event tables
INSERT INTO declared VALUES
('daybook.create_event_table(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.drop_event_table(regclass,boolean)', 'event_table, force', 'volatile strict unsafe', 'everyone'),
('daybook.event_table_name(regclass)', 'event_table', 'stable strict safe', 'everyone'),
('daybook.event_before_insert()', '', 'volatile unsafe', 'everyone'),
('daybook.event_id_given(uuid)', 'event_id', 'immutable strict safe', 'everyone'),
('daybook.register_event_table(regclass)', 'event_table', 'volatile strict unsafe', 'superuser'),
('daybook.table_access_method_handler(internal)', '', 'volatile strict safe', 'everyone');
-- appending
INSERT INTO declared VALUES
('daybook.append(regclass,text,jsonb,bigint)', 'event_table, stream_id, events, expected_version', 'volatile unsafe', 'everyone'),
('daybook.append(regclass,text,text,jsonb,jsonb,bigint)', 'event_table, stream_id, type, data, metadata, expected_version', 'volatile unsafe', 'everyone'),
('daybook.append(regclass,text,text,text)', 'event_table, stream_id, type_or_events, data_or_version', 'volatile unsafe', 'everyone'),
('daybook.append_if(regclass,jsonb,jsonb,bigint)', 'event_table, events, query, after', 'volatile unsafe', 'everyone'),
('daybook.create_tag_index(regclass)', 'event_table', 'volatile strict unsafe', 'everyone'),
('daybook.matching_condition(jsonb)', 'query', 'immutable strict safe', 'everyone'),
('daybook.matching_marker(jsonb,bigint)', 'query, matching', 'immutable strict safe', 'everyone'),
('daybook.read_matching(regclass,jsonb)', 'event_table, query', 'stable strict safe', 'everyone');
-- event types and upcasters
INSERT INTO declared VALUES
('daybook.check_upcasters(regclass,boolean)', 'event_table, all_events', 'volatile strict unsafe', 'everyone'),
('daybook.create_event_view(regclass,text)', 'event_table, type', 'volatile unsafe', 'everyone'),
('daybook.create_upcaster(regclass,text,integer,regprocedure,text)', 'event_table, type, from_version, function, to_type', 'volatile unsafe', 'everyone'),
('daybook.drop_event_type(regclass,text,integer)', 'event_table, type, schema_version', 'volatile strict unsafe', 'everyone'),
('daybook.drop_upcaster(regclass,text,integer,text)', 'event_table, type, from_version, to_type', 'volatile unsafe', 'everyone'),
('daybook.event_schema_changed()', '', 'volatile unsafe', 'everyone'),
('daybook.forget_event_table()', '', 'volatile unsafe', 'everyone'),
('daybook.payload_as(regclass,daybook.event,text)', 'event_table, event, type', 'stable strict safe', 'everyone'),
('daybook.payload_record(anyelement,jsonb,text,bigint)', 'base, payload, stream_id, version', 'stable safe', 'everyone'),
('daybook.register_event_type(regclass,text,integer,regtype,regprocedure,text)', 'event_table, type, schema_version, payload_type, check, mode', 'volatile unsafe', 'everyone'),
('daybook.stored_types(regclass)', 'event_table', 'stable strict restricted', 'everyone'),
('daybook.upcast(regclass,daybook.event)', 'event_table, event', 'stable strict safe', 'everyone'),
('daybook.upcast_path(regclass,text,integer)', 'event_table, type, schema_version', 'stable strict safe', 'everyone');
-- the log
INSERT INTO declared VALUES
('daybook.head()', '', 'stable strict safe', 'everyone'),
('daybook.log_handler()', '', 'volatile strict safe', 'superuser'),
('daybook.sequencer_state_now()', '', 'volatile strict restricted', 'everyone');
-- replay
INSERT INTO declared VALUES
('daybook.read_all(bigint,integer,regclass[],text[],text[])', 'after, max_events, event_tables, categories, types', 'stable unsafe', 'everyone'),
('daybook.recorded(regclass,text)', 'event_table, stream_id', 'stable safe', 'everyone'),
('daybook.replay(regclass,text,bigint,bigint,timestamp with time zone,boolean)', 'event_table, stream_id, from_version, to_version, until, backwards', 'stable safe', 'everyone'),
('daybook.stream_version(regclass,text)', 'event_table, stream_id', 'stable strict safe', 'everyone');
-- folds and snapshots
INSERT INTO declared VALUES
('daybook.create_fold(text,regclass,regprocedure,anyelement,integer)', 'name, event_table, transition, initial, snapshot_every', 'volatile unsafe', 'everyone'),
('daybook.create_fold(text,regclass,regprocedure,text,integer)', 'name, event_table, transition, initial, snapshot_every', 'volatile unsafe', 'everyone'),
('daybook.diff(text,text,bigint,bigint)', 'fold, stream_id, from_version, to_version', 'stable safe', 'everyone'),
('daybook.drop_fold(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.drop_snapshots(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.fold(text,text,anyelement,bigint,timestamp with time zone)', 'name, stream_id, state_type, to_version, until', 'stable safe', 'everyone'),
('daybook.fold(text,text,bigint,timestamp with time zone)', 'name, stream_id, to_version, until', 'stable safe', 'everyone'),
('daybook.fold(text,text,integer)', 'name, stream_id, ', 'stable safe', 'everyone'),
('daybook.fold(text,text,smallint)', 'name, stream_id, ', 'stable safe', 'everyone'),
('daybook.fold_all(text)', 'name', 'stable safe', 'everyone'),
('daybook.fold_all(text,anyelement)', 'name, state_type', 'stable safe', 'everyone'),
('daybook.fold_changed()', '', 'volatile unsafe', 'everyone'),
('daybook.history(text,regclass)', 'stream_id, event_table', 'stable safe', 'everyone'),
('daybook.jsonb_diff(jsonb,jsonb)', 'before, after', 'immutable safe', 'everyone'),
('daybook.jsonb_members(jsonb)', 'value', 'immutable safe', 'everyone'),
('daybook.take_snapshot(text,text)', 'name, stream_id', 'volatile strict unsafe', 'everyone');
-- projections
INSERT INTO declared VALUES
('daybook.alter_projection(text,regprocedure,integer,text,boolean,integer)', 'name, handler, batch_size, on_error, independent_streams, parallel', 'volatile unsafe', 'everyone'),
('daybook.alter_projection(text,text,integer,text,boolean,integer)', 'name, handler, batch_size, on_error, independent_streams, parallel', 'volatile unsafe', 'everyone'),
('daybook.cancel_rebuild(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.copy_commands(regclass[],text,boolean)', 'tables, copies, foreign_keys', 'stable strict restricted', 'superuser'),
('daybook.copy_difference(regclass[],regclass[])', 'tables, copies', 'stable strict restricted', 'superuser'),
('daybook.copy_pairs(regclass[],regclass[])', 'tables, copies', 'stable strict restricted', 'superuser'),
('daybook.create_projection(text,regclass[],regprocedure,regclass[],text,text[],text[],integer,text,bigint,boolean)', 'name, sources, handler, tables, mode, types, categories, batch_size, on_error, from_position, independent_streams', 'volatile unsafe', 'everyone'),
('daybook.create_projection(text,regclass[],text,regclass[],text,text[],text[],integer,text,bigint,boolean)', 'name, sources, handler, tables, mode, types, categories, batch_size, on_error, from_position, independent_streams', 'volatile unsafe', 'everyone'),
('daybook.discard_parked(text,bigint,text)', 'name, position, reason', 'volatile strict unsafe', 'everyone'),
('daybook.discard_parked(text,text,text)', 'name, stream_id, reason', 'volatile strict unsafe', 'everyone'),
('daybook.drop_projection(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.inline_triggers_live(text,regclass[])', 'name, sources', 'stable strict safe', 'everyone'),
('daybook.oldest_unapplied(bigint)', 'after', 'stable strict safe', 'everyone'),
('daybook.pause_projection(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.project_inline()', '', 'volatile unsafe', 'everyone'),
('daybook.projection_restored()', '', 'volatile unsafe', 'everyone'),
('daybook.projector_workers()', '', 'volatile strict restricted', 'everyone'),
('daybook.rebuild_obstacle(regclass[])', 'tables', 'stable strict restricted', 'everyone'),
('daybook.rebuild_projection(text,boolean,integer,integer,integer)', 'name, in_place, max_rate, parallel, batch_size', 'volatile unsafe', 'everyone'),
('daybook.resume_projection(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.retry_parked(text,text,regclass,bigint)', 'name, stream_id, event_table, max_events', 'volatile unsafe', 'everyone'),
('daybook.verify_projection(text,text[],text[],text)', 'name, ignore_columns, streams, stream_column', 'volatile unsafe', 'everyone'),
('daybook.wait_for_projection(text,pg_lsn,interval)', 'name, lsn, timeout', 'volatile unsafe', 'everyone');
-- subscriptions
INSERT INTO declared VALUES
('daybook."fetch"(text,integer,text,interval,interval)', 'name, max_events, consumer, lease, wait', 'volatile unsafe', 'everyone'),
('daybook.ack(text,bigint,bigint)', 'name, lease, to_position', 'volatile unsafe', 'everyone'),
('daybook.create_subscription(text,regclass[],text[],text[],bigint,integer,integer)', 'name, sources, types, categories, from_position, partitions, delivery_limit', 'volatile unsafe', 'everyone'),
('daybook.drop_subscription(text)', 'name', 'volatile strict unsafe', 'everyone'),
('daybook.extend_lease(text,bigint,interval)', 'name, lease, duration', 'volatile unsafe', 'everyone'),
('daybook.grant_subscription(text,regrole)', 'name, role', 'volatile strict unsafe', 'everyone'),
('daybook.may_consume(regrole,regrole[])', 'owner, consumers', 'stable strict safe', 'everyone'),
('daybook.nack(text,bigint,bigint,text,interval,boolean)', 'name, lease, at_position, reason, delay, park', 'volatile unsafe', 'everyone'),
('daybook.release_lease(text,bigint)', 'name, lease', 'volatile unsafe', 'everyone'),
('daybook.revoke_subscription(text,regrole)', 'name, role', 'volatile strict unsafe', 'everyone'),
('daybook.stream_partition(text,integer)', 'stream_id, partitions', 'immutable strict safe', 'everyone'),
('daybook.subscription_discard_parked(text,bigint,text)', 'name, at_position, reason', 'volatile unsafe', 'everyone'),
('daybook.subscription_retry_parked(text,text,regclass)', 'name, stream_id, event_table', 'volatile unsafe', 'everyone');

CREATE TEMP VIEW present AS
SELECT p.oid, p.oid::regprocedure::text AS signature, coalesce(array_to_string(p.proargnames[1:p.pronargs], ', '), '') AS arguments,
	CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END
	|| CASE WHEN p.proisstrict THEN ' strict ' ELSE ' ' END
	|| CASE p.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS traits,
	CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'everyone' ELSE 'superuser' END AS executable_by
FROM pg_proc p WHERE p.pronamespace = 'daybook'::regnamespace;

SELECT is_empty('SELECT signature FROM present EXCEPT SELECT signature FROM declared', 'no function that is not declared here');
SELECT is_empty('SELECT signature FROM declared EXCEPT SELECT signature FROM present', 'every function declared here');
SELECT is_empty($$ SELECT signature, p.arguments FROM present p JOIN declared d USING (signature) WHERE p.arguments <> d.arguments $$,
	'names of arguments');
SELECT is_empty($$ SELECT signature, p.traits FROM present p JOIN declared d USING (signature) WHERE p.traits <> d.traits $$,
	'volatility, strictness and parallel safety');
SELECT is_empty($$ SELECT signature, p.executable_by FROM present p JOIN declared d USING (signature) WHERE p.executable_by <> d.executable_by $$,
	'who can execute what');

-- comments
SELECT is_empty($$ SELECT signature FROM present WHERE coalesce(obj_description(oid, 'pg_proc'), '') = '' $$, 'every function has a comment');
SELECT is_empty($$ SELECT relname FROM pg_class WHERE relnamespace = 'daybook'::regnamespace AND relkind IN ('r', 'v', 'f')
	AND coalesce(obj_description(oid, 'pg_class'), '') = '' $$, 'every table and view');
SELECT is_empty($$ SELECT typname FROM pg_type t JOIN pg_class c ON c.oid = typrelid WHERE typnamespace = 'daybook'::regnamespace AND relkind = 'c'
	AND coalesce(obj_description(t.oid, 'pg_type'), '') = '' $$, 'every row type');
SELECT is_empty($$ SELECT attname FROM pg_attribute WHERE attrelid = 'daybook.log'::regclass AND attnum > 0 AND col_description(attrelid, attnum) IS NULL $$,
	'every column of the log');
SELECT ok(obj_description('daybook'::regnamespace, 'pg_namespace') <> '', 'the schema');
SELECT ok(obj_description(oid, 'pg_am') <> '', 'the access method') FROM pg_am WHERE amname = 'daybook';

-- grants: everyone may look about and read what is meant to be read; nobody writes but the extension
SELECT ok(has_schema_privilege('public', 'daybook', 'USAGE') AND NOT has_schema_privilege('public', 'daybook', 'CREATE'), 'the schema is for use');
SELECT is_empty($$ SELECT relname FROM pg_class WHERE relnamespace = 'daybook'::regnamespace AND relkind IN ('r', 'v', 'f', 'm')
	AND (has_table_privilege('public', oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
		OR has_any_column_privilege('public', oid, 'INSERT, UPDATE, REFERENCES')) $$, 'nobody writes the extension''s tables');
SELECT is_empty($$ SELECT seqrelid::regclass FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid WHERE relnamespace = 'daybook'::regnamespace
	AND has_sequence_privilege('public', seqrelid, 'USAGE, SELECT, UPDATE') $$, 'nor takes from its sequences');
SELECT is_empty($$ SELECT relname FROM pg_class WHERE relnamespace = 'daybook'::regnamespace AND relkind = 'v'
	AND NOT has_table_privilege('public', oid, 'SELECT') $$, 'everyone reads its views');
SELECT table_privs_are('daybook', 'log', 'public', ARRAY['SELECT'], 'and its log');

-- settings that tests and users rely on, and who may change them
SELECT set_eq($$ SELECT name || ' ' || context FROM pg_settings WHERE name IN ('daybook.metadata', 'daybook.restore', 'daybook.decoding', 'daybook.max_databases') $$,
	ARRAY['daybook.metadata user', 'daybook.restore superuser', 'daybook.decoding sighup', 'daybook.max_databases postmaster'], 'settings');

-- row types that clients and handlers build upon
CREATE TEMP VIEW attribute AS
SELECT t.typname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
WHERE t.typnamespace = 'daybook'::regnamespace GROUP BY 1;
SELECT is((SELECT columns FROM attribute WHERE typname = 'event'),
	'id bigint, version bigint, recorded_at timestamp with time zone, schema_version integer, event_id uuid, recorded_by text, '
	|| 'stream_id text, type text, data jsonb, metadata jsonb, tags text[]', 'daybook.event');
SELECT is((SELECT columns FROM attribute WHERE typname = 'log_event'),
	(SELECT 'position bigint, event_table regclass, ' || columns FROM attribute WHERE typname = 'event'), 'daybook.log_event: the same, after its place');
SELECT is((SELECT columns FROM attribute WHERE typname = 'append_result'),
	'first_version bigint, last_version bigint, first_id bigint, last_id bigint, duplicate boolean', 'daybook.append_result');

SELECT * FROM finish();
ROLLBACK;

-- Folds: states that are computed from the events of a stream.

-- The transition and the initial state are kept as text, which outlives a
-- dump and restore, and pg_upgrade.
CREATE TABLE daybook.fold_definition (
	name text COLLATE "C" PRIMARY KEY,
	owner regrole NOT NULL,
	event_table regclass NOT NULL,
	transition text NOT NULL,
	initial text,
	snapshot_every int NOT NULL CHECK (snapshot_every >= 0),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE daybook.fold_definition IS 'definitions of folds';
COMMENT ON COLUMN daybook.fold_definition.owner IS 'role as which the transition runs';
COMMENT ON COLUMN daybook.fold_definition.initial IS 'state before the first event';
COMMENT ON COLUMN daybook.fold_definition.snapshot_every IS 'events after which a stream gets a new snapshot, 0 for never';
SELECT pg_catalog.pg_extension_config_dump('daybook.fold_definition', '');
GRANT SELECT ON daybook.fold_definition TO PUBLIC;

-- Sessions keep what they have prepared for a fold until they are told.
CREATE FUNCTION daybook.fold_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'daybook_fold_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.fold_changed() IS
'trigger function: makes all sessions look again at the definitions of folds';
CREATE TRIGGER fold_changed AFTER INSERT OR UPDATE OR DELETE ON daybook.fold_definition
FOR EACH STATEMENT EXECUTE FUNCTION daybook.fold_changed();
ALTER TABLE daybook.fold_definition ENABLE ALWAYS TRIGGER fold_changed;

CREATE TRIGGER forget_folds AFTER UPDATE OF relation ON daybook.event_table
FOR EACH ROW WHEN (NEW.relation IS NULL)
EXECUTE FUNCTION daybook.forget_event_table('fold_definition');

-- Caches: not dumped, and taken anew where they are missing.
CREATE TABLE daybook.fold_snapshot (
	fold text COLLATE "C" NOT NULL REFERENCES daybook.fold_definition ON DELETE CASCADE,
	stream_id text COLLATE "C" NOT NULL,
	version bigint NOT NULL,
	recorded_at timestamptz NOT NULL,
	taken_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	fingerprint bytea NOT NULL,
	state bytea,
	PRIMARY KEY (fold, stream_id, version)
);
COMMENT ON TABLE daybook.fold_snapshot IS 'states of folds that were computed before, from which later ones are computed';
COMMENT ON COLUMN daybook.fold_snapshot.recorded_at IS 'when the latest of its events was recorded';
COMMENT ON COLUMN daybook.fold_snapshot.fingerprint IS 'hash of what else the state depends on; a snapshot with another one is not used';
COMMENT ON COLUMN daybook.fold_snapshot.state IS 'the state as PostgreSQL stores it';

-- How far the snapshot worker is with each fold, and what went wrong last.
CREATE TABLE daybook.fold_progress (
	fold text COLLATE "C" PRIMARY KEY REFERENCES daybook.fold_definition ON DELETE CASCADE,
	position bigint NOT NULL,
	fingerprint bytea,
	error_at timestamptz,
	error_stream_id text,
	error_sqlstate text,
	error_message text
) WITH (fillfactor = 50);
COMMENT ON TABLE daybook.fold_progress IS 'progress of the snapshot worker; read daybook.fold_status';

CREATE FUNCTION daybook.create_fold(
	name text,
	event_table regclass,
	transition regprocedure,
	initial anyelement,
	snapshot_every int DEFAULT 100)
RETURNS void
AS 'MODULE_PATHNAME', 'daybook_create_fold'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_fold(text, regclass, regprocedure, anyelement, int) IS
'defines the state of a stream: what transition(state, event) makes of its events, one after the other';

-- For a bare literal, which is a state in the form of text.
CREATE FUNCTION daybook.create_fold(
	name text,
	event_table regclass,
	transition regprocedure,
	initial text,
	snapshot_every int DEFAULT 100)
RETURNS void
AS 'MODULE_PATHNAME', 'daybook_create_fold'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_fold(text, regclass, regprocedure, text, int) IS
'defines the state of a stream: what transition(state, event) makes of its events, one after the other';

CREATE FUNCTION daybook.drop_fold(name text) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_drop_fold'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.drop_fold(text) IS
'forgets a fold, with its snapshots; the events stay';

-- A fold may be used where many rows are read: it is expensive, and safe in
-- parallel workers as far as its transition is.
CREATE FUNCTION daybook.fold(
	name text,
	stream_id text,
	to_version bigint DEFAULT NULL,
	until timestamptz DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'daybook_fold'
LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION daybook.fold(text, text, bigint, timestamptz) IS
'the state of a stream, now or as it was at a version or at a time, as jsonb';

-- A bare number for to_version, which drivers send as a smallint if it is small,
-- would fit the last function below as well.  It has no name in these two, so
-- that to_version => fits the function above alone, whatever is given: NULL, or
-- a parameter without a type.
CREATE FUNCTION daybook.fold(name text, stream_id text, int) RETURNS jsonb
AS 'MODULE_PATHNAME', 'daybook_fold'
LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION daybook.fold(text, text, int) IS
'the state of a stream as it was at a version, as jsonb';

CREATE FUNCTION daybook.fold(name text, stream_id text, smallint) RETURNS jsonb
AS 'MODULE_PATHNAME', 'daybook_fold'
LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION daybook.fold(text, text, smallint) IS
'the state of a stream as it was at a version, as jsonb';

CREATE FUNCTION daybook.fold(
	name text,
	stream_id text,
	state_type anyelement,
	to_version bigint DEFAULT NULL,
	until timestamptz DEFAULT NULL)
RETURNS anyelement
AS 'MODULE_PATHNAME', 'daybook_fold_typed'
LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION daybook.fold(text, text, anyelement, bigint, timestamptz) IS
'the state of a stream, now or as it was at a version or at a time, in the fold''s own type';

CREATE FUNCTION daybook.fold_all(
	name text,
	OUT stream_id text,
	OUT version bigint,
	OUT state jsonb)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'daybook_fold_all'
LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 1000;
COMMENT ON FUNCTION daybook.fold_all(text) IS
'the states of all streams, as jsonb, and the versions that they are of';

CREATE FUNCTION daybook.fold_all(
	name text,
	state_type anyelement,
	OUT stream_id text,
	OUT version bigint,
	OUT state anyelement)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'daybook_fold_all_typed'
LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 1000;
COMMENT ON FUNCTION daybook.fold_all(text, anyelement) IS
'the states of all streams, in the fold''s own type, and the versions that they are of';

CREATE FUNCTION daybook.take_snapshot(name text, stream_id text) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_take_snapshot'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.take_snapshot(text, text) IS
'stores the present state of a stream; returns the version it is of, 0 if the stream does not exist';

CREATE FUNCTION daybook.drop_snapshots(name text) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_drop_snapshots'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.drop_snapshots(text) IS
'deletes the snapshots of a fold, which changes no result; returns how many there were';

-- Error texts can show events: for the owner alone.
CREATE VIEW daybook.fold_status AS
SELECT
	d.name,
	d.owner,
	d.event_table,
	d.transition,
	d.initial,
	d.snapshot_every,
	s.snapshots,
	s.streams,
	s.bytes,
	s.last_taken_at,
	p.position AS snapshot_position,
	CASE WHEN d.snapshot_every > 0 THEN greatest(daybook.head() - coalesce(p.position, 0), 0) END AS snapshot_lag,
	p.error_at,
	p.error_sqlstate,
	CASE WHEN r.is_owner THEN p.error_stream_id END AS error_stream_id,
	CASE WHEN r.is_owner THEN p.error_message END AS error_message,
	d.created_at
FROM daybook.fold_definition d
LEFT JOIN daybook.fold_progress p ON p.fold = d.name
CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(d.owner, 'USAGE') AS is_owner) r
CROSS JOIN LATERAL (
	SELECT
		pg_catalog.count(*) AS snapshots,
		pg_catalog.count(DISTINCT f.stream_id) AS streams,
		coalesce(pg_catalog.sum(pg_catalog.pg_column_size(f.state)), 0)::bigint AS bytes,
		pg_catalog.max(f.taken_at) AS last_taken_at
	FROM daybook.fold_snapshot f
	WHERE f.fold = d.name) s;
COMMENT ON VIEW daybook.fold_status IS 'folds, their snapshots, and how far the snapshot worker is with them';
GRANT SELECT ON daybook.fold_status TO PUBLIC;

-- Time travel.

-- Members of an object, or elements of an array under their numbers from 0.
CREATE FUNCTION daybook.jsonb_members(value jsonb, OUT key text, OUT member jsonb) RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT o.key, o.value
	FROM pg_catalog.jsonb_each(CASE pg_catalog.jsonb_typeof(jsonb_members.value) WHEN 'object' THEN jsonb_members.value END) o
	UNION ALL
	SELECT (a.ordinality - 1)::text, a.value
	FROM pg_catalog.jsonb_array_elements(CASE pg_catalog.jsonb_typeof(jsonb_members.value) WHEN 'array' THEN jsonb_members.value END)
		WITH ORDINALITY a;
END;
COMMENT ON FUNCTION daybook.jsonb_members(jsonb) IS 'members of an object, or elements of an array';

-- Where both sides are objects, or both arrays, their members are compared.
CREATE FUNCTION daybook.jsonb_diff(before jsonb, after jsonb, OUT path text[], OUT before_value jsonb, OUT after_value jsonb)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	WITH RECURSIVE difference(path, b, a) AS (
		SELECT '{}'::text[], jsonb_diff.before, jsonb_diff.after
		WHERE jsonb_diff.before IS DISTINCT FROM jsonb_diff.after
		UNION ALL
		SELECT d.path || m.key, m.b, m.a
		FROM difference d
		CROSS JOIN LATERAL (
			SELECT coalesce(x.key, y.key) AS key, x.member AS b, y.member AS a
			FROM daybook.jsonb_members(d.b) x
			FULL JOIN daybook.jsonb_members(d.a) y ON x.key = y.key) m
		WHERE pg_catalog.jsonb_typeof(d.b) = pg_catalog.jsonb_typeof(d.a)
			AND pg_catalog.jsonb_typeof(d.b) IN ('object', 'array')
			AND m.b IS DISTINCT FROM m.a)
	SELECT d.path, d.b, d.a
	FROM difference d
	WHERE pg_catalog.jsonb_typeof(d.b) IS DISTINCT FROM pg_catalog.jsonb_typeof(d.a)
		OR pg_catalog.jsonb_typeof(d.b) NOT IN ('object', 'array')
	ORDER BY d.path;
END;
COMMENT ON FUNCTION daybook.jsonb_diff(jsonb, jsonb) IS
'what differs between two values: paths, and what stands there before and after; null where nothing does';

CREATE FUNCTION daybook.diff(
	fold text,
	stream_id text,
	from_version bigint,
	to_version bigint DEFAULT NULL,
	OUT path text[],
	OUT before jsonb,
	OUT after jsonb)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
	SELECT d.path, d.before_value, d.after_value
	FROM daybook.jsonb_diff(
		daybook.fold(diff.fold, diff.stream_id, to_version => diff.from_version, until => NULL::timestamptz),
		daybook.fold(diff.fold, diff.stream_id, to_version => diff.to_version, until => NULL::timestamptz)) d;
END;
COMMENT ON FUNCTION daybook.diff(text, text, bigint, bigint) IS
'how the state of a stream differs between two versions, the second of which is the present one if it is not given';

CREATE FUNCTION daybook.history(
	stream_id text,
	event_table regclass DEFAULT NULL,
	OUT table_name regclass,
	OUT version bigint,
	OUT recorded_at timestamptz,
	OUT who text,
	OUT type text,
	OUT summary text,
	OUT why text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
	SELECT
		t.relation,
		e.version,
		e.recorded_at,
		coalesce(e.metadata ->> 'actor', e.recorded_by),
		e.type,
		CASE WHEN pg_catalog.length(s.line) > 100 THEN pg_catalog.left(s.line, 97) || '...' ELSE s.line END,
		e.metadata ->> 'reason'
	FROM (
		SELECT history.event_table AS relation
		WHERE history.event_table IS NOT NULL
		UNION ALL
		SELECT a.relation
		FROM daybook.event_table a
		WHERE history.event_table IS NULL AND a.relation IS NOT NULL
			AND pg_catalog.has_table_privilege(a.relation, 'SELECT')) t
	CROSS JOIN LATERAL daybook.recorded(t.relation, history.stream_id) e
	CROSS JOIN LATERAL (
		SELECT CASE WHEN pg_catalog.jsonb_typeof(e.data) = 'object'
			THEN coalesce((SELECT pg_catalog.string_agg(m.key || ': ' || coalesce(m.value, 'null'), ', ')
				FROM pg_catalog.jsonb_each_text(e.data) m), '')
			ELSE e.data::text END AS line
		OFFSET 0) s
	ORDER BY e.recorded_at, e.id;
END;
COMMENT ON FUNCTION daybook.history(text, regclass) IS
'who did what, when and why in a stream, as it was recorded; in all event tables if none is given';

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

-- A bare number for to_version would fit the function below as well.
CREATE FUNCTION daybook.fold(name text, stream_id text, to_version int) RETURNS jsonb
AS 'MODULE_PATHNAME', 'daybook_fold'
LANGUAGE C STABLE PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION daybook.fold(text, text, int) IS
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

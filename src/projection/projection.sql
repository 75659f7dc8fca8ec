-- Projections: tables that a handler keeps up to date from events.

-- What a projection is.  Names are compared byte by byte, whatever the locale.
CREATE TABLE daybook.projection (
	name text COLLATE "C" PRIMARY KEY,
	owner regrole NOT NULL,
	mode text NOT NULL CHECK (mode IN ('async', 'inline')),
	state text NOT NULL CHECK (state IN ('running', 'paused')),
	handler_kind text NOT NULL CHECK (handler_kind IN ('sql', 'function')),
	handler text NOT NULL,
	sources regclass[] NOT NULL,
	tables regclass[] NOT NULL,
	types text[],
	categories text[],
	batch_size int NOT NULL,
	on_error text NOT NULL CHECK (on_error IN ('park', 'stop')),
	from_position bigint NOT NULL,
	created_at timestamptz NOT NULL,
	-- the session that loaded this row from a dump, until the load is over
	restored_pid int,
	restored_session_start timestamptz,
	-- a rebuild in progress: of which projection, which of its tables the
	-- tables are copies of, and events per second at most (0: no limit)
	rebuild_of text COLLATE "C",
	live_tables regclass[],
	max_rate int NOT NULL DEFAULT 0,
	rebuilt_at timestamptz,
	-- no row depends on the order of events of different streams
	independent_streams boolean NOT NULL DEFAULT false,
	-- a rebuild in parallel: one of several rows, each for a share of the
	-- streams up to a position, from which on one goes on alone
	share int NOT NULL DEFAULT 0,
	shares int NOT NULL DEFAULT 1,
	share_end bigint
);
COMMENT ON TABLE daybook.projection IS 'definitions of projections; read daybook.projection_status';
SELECT pg_catalog.pg_extension_config_dump('daybook.projection', '');

-- How far each projection is.  Rewritten with every batch: room on the page
-- keeps the updates from touching the index.
CREATE TABLE daybook.projection_position (
	name text COLLATE "C" PRIMARY KEY,
	position bigint,
	generation bigint NOT NULL,
	paused_at_id bigint,
	attempts int NOT NULL,
	retry_at timestamptz,
	failed_at timestamptz,
	error_sqlstate text,
	error_message text,
	error_detail text,
	error_context text,
	error_position bigint,
	error_event_table regclass,
	error_event_id bigint,
	updated_at timestamptz NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE daybook.projection_position IS 'progress and last error of projections; read daybook.projection_status';
SELECT pg_catalog.pg_extension_config_dump('daybook.projection_position', '');

-- A dump is loaded table by table: until all of it is there, a worker would
-- apply events to tables whose rows are still to come.
CREATE FUNCTION daybook.projection_restored() RETURNS trigger
AS 'MODULE_PATHNAME', 'daybook_projection_restored'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.projection_restored() IS
'trigger function: marks a projection that is being loaded from a dump';
CREATE TRIGGER projection_restored BEFORE INSERT ON daybook.projection
FOR EACH ROW EXECUTE FUNCTION daybook.projection_restored();

CREATE FUNCTION daybook.create_projection(
	name text,
	sources regclass[],
	handler text,
	tables regclass[],
	mode text DEFAULT 'async',
	types text[] DEFAULT NULL,
	categories text[] DEFAULT NULL,
	batch_size int DEFAULT 1000,
	on_error text DEFAULT 'park',
	from_position bigint DEFAULT 0,
	independent_streams boolean DEFAULT false
) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_create_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_projection(text, regclass[], text, regclass[], text, text[], text[], int, text, bigint, boolean) IS
'keeps tables up to date by SQL over the relation new_events';

CREATE FUNCTION daybook.create_projection(
	name text,
	sources regclass[],
	handler regprocedure,
	tables regclass[],
	mode text DEFAULT 'async',
	types text[] DEFAULT NULL,
	categories text[] DEFAULT NULL,
	batch_size int DEFAULT 1000,
	on_error text DEFAULT 'park',
	from_position bigint DEFAULT 0,
	independent_streams boolean DEFAULT false
) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_create_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_projection(text, regclass[], regprocedure, regclass[], text, text[], text[], int, text, bigint, boolean) IS
'keeps tables up to date by a function that is called for each event';

CREATE FUNCTION daybook.pause_projection(name text) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_pause_projection'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.pause_projection(text) IS
'stops a projection where it is';

CREATE FUNCTION daybook.resume_projection(name text) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_resume_projection'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.resume_projection(text) IS
'lets a paused projection go on, and a failed one try again at once';

CREATE FUNCTION daybook.drop_projection(name text) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_drop_projection'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.drop_projection(text) IS
'forgets a projection; its tables stay as they are';

CREATE FUNCTION daybook.wait_for_projection(
	name text,
	lsn pg_lsn DEFAULT NULL,
	timeout interval DEFAULT '5s'
) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_wait_for_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.wait_for_projection(text, pg_lsn, interval) IS
'waits until a projection has applied all events committed up to an LSN, by default this session''s last commit; returns its position';

-- pg_dump writes these triggers out with the event table, and only then are
-- its rows loaded no more: a restore does not run handlers.
CREATE FUNCTION daybook.project_inline() RETURNS trigger
AS 'MODULE_PATHNAME', 'daybook_project_inline'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.project_inline() IS
'trigger function of inline projections; create_projection makes the triggers';

CREATE FUNCTION daybook.projector_workers(
	OUT projection text,
	OUT worker_pid int,
	OUT started_at timestamptz
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'daybook_projector_workers'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION daybook.projector_workers() IS
'workers that keep this database''s projections; worker_pid is null while one is being started';

CREATE FUNCTION daybook.oldest_unapplied(after bigint) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'daybook_oldest_unapplied'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.oldest_unapplied(bigint) IS
'commit time of the first event after a position of the log; null at its end';

-- An inline projection is broken when one of its triggers is missing or off.
CREATE FUNCTION daybook.inline_triggers_live(name text, sources regclass[]) RETURNS boolean
AS 'MODULE_PATHNAME', 'daybook_inline_triggers_live'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.inline_triggers_live(text, regclass[]) IS
'whether every event table that an inline projection reads still fires its trigger';


-- The log: positions of events, in the order of their commits.

-- entries is encoded as src/sequencer/log_segment.h says.
CREATE TABLE daybook.log_segment (
	first_position bigint PRIMARY KEY,
	event_count int NOT NULL,
	entries bytea NOT NULL
);
ALTER TABLE daybook.log_segment ALTER COLUMN entries SET STORAGE PLAIN;
COMMENT ON TABLE daybook.log_segment IS 'the log in its stored form; read daybook.log';

-- A look at the log has all of it that a dump can see flushed before.
SELECT pg_catalog.pg_extension_config_dump('daybook.log_segment', 'WHERE daybook.head() >= 0');

CREATE FUNCTION daybook.log_handler() RETURNS fdw_handler
AS 'MODULE_PATHNAME', 'daybook_log_handler'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.log_handler() IS 'handler of foreign-data wrapper daybook_log';
REVOKE ALL ON FUNCTION daybook.log_handler() FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER daybook_log HANDLER daybook.log_handler NO VALIDATOR;
COMMENT ON FOREIGN DATA WRAPPER daybook_log IS 'reads the log of this database for daybook.log';

CREATE SERVER daybook_log FOREIGN DATA WRAPPER daybook_log;
COMMENT ON SERVER daybook_log IS 'the log of this database';

CREATE FOREIGN TABLE daybook.log (
	position bigint NOT NULL,
	event_table regclass,
	id bigint NOT NULL,
	committed_at timestamptz NOT NULL,
	transaction bigint NOT NULL
) SERVER daybook_log;
COMMENT ON FOREIGN TABLE daybook.log IS 'all committed events in the order of their commits';
COMMENT ON COLUMN daybook.log.position IS 'place in the order: 1, 2, 3, ... without gaps';
COMMENT ON COLUMN daybook.log.event_table IS 'where the event is stored, null when that table has been dropped';
COMMENT ON COLUMN daybook.log.id IS 'the event''s id in its table';
COMMENT ON COLUMN daybook.log.committed_at IS 'when its transaction committed';
COMMENT ON COLUMN daybook.log.transaction IS 'position of the first event of the same transaction';
GRANT SELECT ON daybook.log TO PUBLIC;

CREATE FUNCTION daybook.head() RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_head'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.head() IS 'last position of the log, 0 when it is empty';

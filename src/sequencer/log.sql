-- The log: positions of events, in the order of their commits.

-- entries is encoded as src/sequencer/log_segment.h says.
CREATE TABLE daybook.log_segment (
	first_position bigint PRIMARY KEY,
	event_count int NOT NULL,
	entries bytea STORAGE PLAIN NOT NULL
);
COMMENT ON TABLE daybook.log_segment IS 'the log in its stored form; read daybook.log';
SELECT pg_catalog.pg_extension_config_dump('daybook.log_segment', '');

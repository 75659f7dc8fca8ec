-- The sequencer: its marks, and what it is doing.

-- One row, made with the first event table.  The foreign keys are never used
-- as such: they make pg_dump restore this table after the log and the
-- registry, and without the row the sequencer of a database that is being
-- restored leaves both alone.
CREATE TABLE daybook.sequencer_state (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	low_water bigint NOT NULL DEFAULT 0,
	log_position bigint NOT NULL DEFAULT 0,
	restored_after_segment bigint REFERENCES daybook.log_segment (first_position),
	restored_after_table int REFERENCES daybook.event_table (table_no)
);
COMMENT ON TABLE daybook.sequencer_state IS
'from where a start of the sequencer looks for events: those with ids up to low_water are in the log or were rolled back, and log entries up to log_position have no higher id';
SELECT pg_catalog.pg_extension_config_dump('daybook.sequencer_state', '');

-- Written by who restores events with ids that had been given out already,
-- emptied by the sequencer.
CREATE TABLE daybook.late_event (
	from_id bigint NOT NULL
);
COMMENT ON TABLE daybook.late_event IS
'the sequencer has to look again for events with ids from here on, which were restored after it had gone past them';
SELECT pg_catalog.pg_extension_config_dump('daybook.late_event', '');

CREATE FUNCTION daybook.sequencer_state_now(
	OUT pid int, OUT mode text, OUT hint text, OUT head bigint, OUT low_water bigint,
	OUT open_gaps int, OUT sequenced_lsn pg_lsn, OUT decoded_lsn pg_lsn,
	OUT started_at timestamptz, OUT last_published_at timestamptz) RETURNS record
AS 'MODULE_PATHNAME', 'daybook_sequencer_state_now'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION daybook.sequencer_state_now() IS
'what the sequencer of this database reports of itself; see the view daybook.sequencer_status';

CREATE VIEW daybook.sequencer_status AS
SELECT s.pid, s.mode, s.hint, s.head, s.low_water, s.open_gaps, s.sequenced_lsn, s.decoded_lsn,
	CASE WHEN s.sequenced_lsn IS NOT NULL AND NOT pg_catalog.pg_is_in_recovery()
		THEN greatest(0, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), s.sequenced_lsn))
	END AS lag_bytes,
	s.started_at, s.last_published_at
FROM daybook.sequencer_state_now() s;
COMMENT ON VIEW daybook.sequencer_status IS
'the sequencer of this database: mode is decoding, scanning, starting or stopped; hint says why it does not decode; lag_bytes is write-ahead log not looked at yet, bytes';
GRANT SELECT ON daybook.sequencer_status TO PUBLIC;

-- Events that a projection could not apply, and what waits behind them.
CREATE TABLE daybook.projection_parked (
	projection text COLLATE "C" NOT NULL,
	position bigint NOT NULL,
	event_table regclass NOT NULL,
	event_id bigint NOT NULL,
	stream_id text COLLATE "C" NOT NULL,
	-- it failed itself; else it waits for an earlier event of its stream
	is_cause boolean NOT NULL,
	sqlstate text,
	message text,
	detail text,
	context text,
	parked_at timestamptz NOT NULL,
	attempts int NOT NULL,
	PRIMARY KEY (projection, position)
);
COMMENT ON TABLE daybook.projection_parked IS 'events set aside by projections; read daybook.parked_events';
SELECT pg_catalog.pg_extension_config_dump('daybook.projection_parked', '');

CREATE TABLE daybook.projection_discarded (
	projection text COLLATE "C" NOT NULL,
	position bigint NOT NULL,
	event_table regclass NOT NULL,
	event_id bigint NOT NULL,
	stream_id text COLLATE "C" NOT NULL,
	sqlstate text,
	message text,
	detail text,
	context text,
	parked_at timestamptz NOT NULL,
	attempts int NOT NULL,
	discarded_at timestamptz NOT NULL,
	discarded_by text NOT NULL,
	reason text NOT NULL
);
COMMENT ON TABLE daybook.projection_discarded IS 'events given up by projections, dropped ones included; read daybook.discarded_events';
CREATE INDEX projection_discarded_position ON daybook.projection_discarded (projection, position);
SELECT pg_catalog.pg_extension_config_dump('daybook.projection_discarded', '');

-- Stream names and error texts are for the projection's owner alone.
CREATE VIEW daybook.parked_events WITH (security_barrier) AS
SELECT q.projection, q.position, q.event_table, q.event_id, q.stream_id, q.is_cause,
	q.sqlstate, q.message, q.detail, q.context, q.parked_at, q.attempts
FROM daybook.projection_parked q
JOIN daybook.projection p ON p.name = q.projection
WHERE pg_catalog.pg_has_role(p.owner, 'USAGE');
COMMENT ON VIEW daybook.parked_events IS
'events that the caller''s projections could not apply (is_cause), and later ones of the same streams that wait behind them';
GRANT SELECT ON daybook.parked_events TO PUBLIC;

-- What was discarded before may be that of another owner's projection, which
-- had the name.
CREATE VIEW daybook.discarded_events WITH (security_barrier) AS
SELECT d.projection, d.position, d.event_table, d.event_id, d.stream_id,
	d.sqlstate, d.message, d.detail, d.context, d.parked_at, d.attempts,
	d.discarded_at, d.discarded_by, d.reason
FROM daybook.projection_discarded d
JOIN daybook.projection p ON p.name = d.projection AND d.discarded_at >= p.created_at
WHERE pg_catalog.pg_has_role(p.owner, 'USAGE');
COMMENT ON VIEW daybook.discarded_events IS
'parked events of the caller''s projections that were given up: by whom, when and why';
GRANT SELECT ON daybook.discarded_events TO PUBLIC;

CREATE FUNCTION daybook.retry_parked(
	name text,
	stream_id text DEFAULT NULL,
	event_table regclass DEFAULT NULL,
	max_events bigint DEFAULT 10000
) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_retry_parked'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.retry_parked(text, text, regclass, bigint) IS
'applies parked events in order, of one stream or of all; returns how many could be applied';

CREATE FUNCTION daybook.discard_parked(name text, "position" bigint, reason text) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_discard_parked_event'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.discard_parked(text, bigint, text) IS
'gives up one parked event for good, and records why';

CREATE FUNCTION daybook.discard_parked(name text, stream_id text, reason text) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_discard_parked_stream'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.discard_parked(text, text, text) IS
'gives up all parked events of a stream for good, and records why; returns their number';


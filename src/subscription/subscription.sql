-- Subscriptions: consumers outside of the database.

-- What a subscription is.  Names are compared byte by byte, whatever the locale.
CREATE TABLE daybook.subscription (
	name text COLLATE "C" PRIMARY KEY,
	owner regrole NOT NULL,
	consumers regrole[] NOT NULL,
	sources regclass[] NOT NULL,
	types text[],
	categories text[],
	from_position bigint NOT NULL,
	partitions int NOT NULL,
	delivery_limit int,
	created_at timestamptz NOT NULL
);
COMMENT ON TABLE daybook.subscription IS 'definitions of subscriptions; read daybook.subscription_status';
SELECT pg_catalog.pg_extension_config_dump('daybook.subscription', '');

-- How far each partition is, and who has it.  Rewritten with every batch: room
-- on the page keeps the updates from touching the index.
CREATE TABLE daybook.subscription_partition (
	subscription text COLLATE "C",
	partition int,
	position bigint NOT NULL,
	last_delivered bigint,
	scanned bigint NOT NULL,
	lease bigint,
	lease_partitions int,
	lease_end bigint,
	outstanding boolean NOT NULL,
	consumer text,
	leased_at timestamptz,
	lease_until timestamptz,
	deliveries bigint[] NOT NULL,
	PRIMARY KEY (subscription, partition)
) WITH (fillfactor = 20);
COMMENT ON TABLE daybook.subscription_partition IS 'progress and leases of subscriptions; read daybook.subscription_leases';
SELECT pg_catalog.pg_extension_config_dump('daybook.subscription_partition', '');

-- Streams in which an event could not be handled.
CREATE TABLE daybook.subscription_stream (
	subscription text COLLATE "C",
	event_table regclass,
	stream_hash bigint,
	partition int NOT NULL,
	stream_id text NOT NULL,
	due_at timestamptz,
	blocked_at bigint,
	blocked_until timestamptz,
	lease bigint,
	delivered_upto bigint,
	deliveries bigint[] NOT NULL,
	forgiven int NOT NULL,
	reason text,
	failed_consumer text,
	failed_at timestamptz,
	PRIMARY KEY (subscription, event_table, stream_hash)
);
CREATE INDEX subscription_stream_due ON daybook.subscription_stream (subscription, partition, due_at);
CREATE INDEX subscription_stream_lease ON daybook.subscription_stream (subscription, lease);
COMMENT ON TABLE daybook.subscription_stream IS 'streams that subscriptions hold back; read daybook.subscription_parked';
SELECT pg_catalog.pg_extension_config_dump('daybook.subscription_stream', '');

-- Their events, from the first that is not acknowledged.
CREATE TABLE daybook.subscription_queue (
	subscription text COLLATE "C",
	partition int,
	position bigint,
	event_table regclass NOT NULL,
	stream_hash bigint NOT NULL,
	stream_id text NOT NULL,
	id bigint NOT NULL,
	deliveries int NOT NULL,
	PRIMARY KEY (subscription, partition, position)
);
CREATE INDEX subscription_queue_stream ON daybook.subscription_queue (subscription, event_table, stream_hash, position);
COMMENT ON TABLE daybook.subscription_queue IS 'events of streams that subscriptions hold back; read daybook.subscription_parked';
SELECT pg_catalog.pg_extension_config_dump('daybook.subscription_queue', '');

CREATE TABLE daybook.subscription_discard (
	subscription text COLLATE "C" NOT NULL,
	position bigint NOT NULL,
	event_table regclass,
	id bigint NOT NULL,
	stream_id text NOT NULL,
	failure text,
	reason text NOT NULL,
	discarded_by text NOT NULL,
	discarded_at timestamptz NOT NULL,
	PRIMARY KEY (subscription, position)
);
COMMENT ON TABLE daybook.subscription_discard IS 'events that were given up; read daybook.subscription_discarded';
SELECT pg_catalog.pg_extension_config_dump('daybook.subscription_discard', '');

-- One number for each lease: of two leases the later has the higher.
CREATE SEQUENCE daybook.subscription_lease_seq AS bigint CACHE 1;
COMMENT ON SEQUENCE daybook.subscription_lease_seq IS 'fencing numbers of leases';
SELECT pg_catalog.pg_extension_config_dump('daybook.subscription_lease_seq', '');

CREATE FUNCTION daybook.create_subscription(
	name text,
	sources regclass[],
	types text[] DEFAULT NULL,
	categories text[] DEFAULT NULL,
	from_position bigint DEFAULT 0,
	partitions int DEFAULT 1,
	delivery_limit int DEFAULT 10
) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_create_subscription'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.create_subscription(text, regclass[], text[], text[], bigint, int, int) IS
'lets consumers outside of the database fetch events and acknowledge them; an event that was handed out delivery_limit times in vain is parked, never with null';

CREATE FUNCTION daybook.drop_subscription(name text) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_drop_subscription'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.drop_subscription(text) IS
'forgets a subscription, its position and what it has parked';

CREATE FUNCTION daybook.grant_subscription(name text, role regrole) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_grant_subscription'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.grant_subscription(text, regrole) IS
'lets a role consume from a subscription';

CREATE FUNCTION daybook.revoke_subscription(name text, role regrole) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_revoke_subscription'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.revoke_subscription(text, regrole) IS
'takes back what grant_subscription gave';

CREATE TYPE daybook.delivery AS (
	position bigint,
	event_table regclass,
	id bigint,
	version bigint,
	recorded_at timestamptz,
	schema_version int,
	event_id uuid,
	recorded_by text,
	stream_id text,
	type text,
	data jsonb,
	metadata jsonb,
	tags text[],
	partition int,
	delivery int,
	lease bigint
);
COMMENT ON TYPE daybook.delivery IS
'an event handed to a consumer: the columns of daybook.log_event, its partition, which delivery of it this is, and the lease to acknowledge it with';

CREATE FUNCTION daybook.fetch(
	name text,
	max_events int DEFAULT 100,
	consumer text DEFAULT NULL,
	lease interval DEFAULT '30s',
	wait interval DEFAULT '0s'
) RETURNS SETOF daybook.delivery
AS 'MODULE_PATHNAME', 'daybook_fetch'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000 ROWS 100;
COMMENT ON FUNCTION daybook.fetch(text, int, text, interval, interval) IS
'hands out the oldest events of a subscription that are not acknowledged, in order, under a lease; waits for some if there are none';

CREATE FUNCTION daybook.ack(name text, lease bigint, to_position bigint DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_ack'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.ack(text, bigint, bigint) IS
'acknowledges what was handed out under a lease, up to a position or all of it; 55P03 if the lease has been lost';

CREATE FUNCTION daybook.nack(
	name text,
	lease bigint,
	at_position bigint,
	reason text,
	delay interval DEFAULT NULL,
	park boolean DEFAULT false
) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'daybook_nack'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.nack(text, bigint, bigint, text, interval, boolean) IS
'says that an event could not be handled: it and the later ones of its stream are held back; returns when it is handed out again, null if it is parked';

CREATE FUNCTION daybook.extend_lease(name text, lease bigint, duration interval DEFAULT '30s') RETURNS timestamptz
AS 'MODULE_PATHNAME', 'daybook_extend_lease'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.extend_lease(text, bigint, interval) IS
'makes a lease end later, counted from now; returns when';

CREATE FUNCTION daybook.release_lease(name text, lease bigint) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_release_lease'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.release_lease(text, bigint) IS
'gives back what was handed out under a lease and is not acknowledged, for others to fetch at once';

CREATE FUNCTION daybook.subscription_retry_parked(
	name text,
	stream_id text DEFAULT NULL,
	event_table regclass DEFAULT NULL
) RETURNS bigint
AS 'MODULE_PATHNAME', 'daybook_subscription_retry_parked'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.subscription_retry_parked(text, text, regclass) IS
'lets consumers fetch the events of parked streams again, in order; returns the number of streams';

CREATE FUNCTION daybook.subscription_discard_parked(name text, at_position bigint, reason text) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_subscription_discard_parked'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.subscription_discard_parked(text, bigint, text) IS
'gives up a parked event, which is recorded in daybook.subscription_discarded; the events behind it go on';

CREATE FUNCTION daybook.stream_partition(stream_id text, partitions int) RETURNS int
AS 'MODULE_PATHNAME', 'daybook_stream_partition'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.stream_partition(text, int) IS
'the partition of a stream, from 0: its hash (hashtextextended with seed 0, taken as unsigned) modulo the number of partitions';

-- Who may use a subscription, for the views.
CREATE FUNCTION daybook.may_consume(owner regrole, consumers regrole[]) RETURNS boolean
AS 'MODULE_PATHNAME', 'daybook_may_consume'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION daybook.may_consume(regrole, regrole[]) IS
'whether the current user has the rights of one of these roles';

CREATE VIEW daybook.subscription_status AS
SELECT
	s.name,
	s.owner,
	p.position,
	h.head,
	greatest(h.head - p.position, 0) AS lag_events,
	coalesce(greatest(extract(epoch FROM pg_catalog.clock_timestamp() - daybook.oldest_unapplied(p.position)), 0), 0) AS lag_seconds,
	s.partitions,
	p.leased_partitions,
	p.active_consumers,
	q.retrying_streams,
	q.parked_streams,
	q.held_events,
	p.last_lease_at,
	s.delivery_limit,
	s.consumers,
	s.sources,
	s.types,
	s.categories,
	s.from_position,
	s.created_at
FROM daybook.subscription s
CROSS JOIN (SELECT daybook.head() AS head) h
CROSS JOIN LATERAL (
	SELECT
		min(n.position) AS position,
		count(*) FILTER (WHERE n.outstanding AND n.lease_until > pg_catalog.clock_timestamp()) AS leased_partitions,
		count(DISTINCT n.consumer) FILTER (WHERE n.lease_until > pg_catalog.clock_timestamp()) AS active_consumers,
		max(n.leased_at) AS last_lease_at
	FROM daybook.subscription_partition n
	WHERE n.subscription = s.name) p
CROSS JOIN LATERAL (
	SELECT
		count(*) FILTER (WHERE t.due_at IS NOT NULL) AS retrying_streams,
		count(*) FILTER (WHERE t.due_at IS NULL) AS parked_streams,
		(SELECT count(*) FROM daybook.subscription_queue e WHERE e.subscription = s.name) AS held_events
	FROM daybook.subscription_stream t
	WHERE t.subscription = s.name) q;
COMMENT ON VIEW daybook.subscription_status IS
'subscriptions, how far they are, who consumes, and what they hold back; position is that of the partition that is furthest behind';
GRANT SELECT ON daybook.subscription_status TO PUBLIC;

CREATE VIEW daybook.subscription_leases AS
SELECT
	p.subscription,
	p.partition,
	p.position,
	p.consumer,
	p.lease,
	p.outstanding AND p.lease_until > pg_catalog.clock_timestamp() AS leased,
	p.outstanding,
	p.leased_at,
	p.lease_until,
	pg_catalog.cardinality(p.deliveries) AS deliveries
FROM daybook.subscription_partition p
JOIN daybook.subscription s ON s.name = p.subscription;
COMMENT ON VIEW daybook.subscription_leases IS
'partitions of subscriptions: who has or had them under which lease; outstanding: something handed out is not acknowledged; deliveries: how often that was handed out';
GRANT SELECT ON daybook.subscription_leases TO PUBLIC;

-- Reasons can show what is in events: for those who may fetch these.
CREATE VIEW daybook.subscription_parked WITH (security_barrier) AS
SELECT
	e.subscription,
	e.position,
	e.event_table,
	e.id AS event_id,
	e.stream_id,
	CASE
		WHEN e.position IS DISTINCT FROM t.blocked_at THEN 'queued'
		WHEN t.blocked_until IS NULL THEN 'parked'
		ELSE 'retrying'
	END AS state,
	e.deliveries + (SELECT count(*)::int FROM pg_catalog.unnest(t.deliveries) d WHERE abs(d) >= e.position) AS deliveries,
	CASE WHEN e.position = t.blocked_at THEN t.reason END AS reason,
	CASE WHEN e.position = t.blocked_at THEN t.failed_consumer END AS failed_consumer,
	CASE WHEN e.position = t.blocked_at THEN t.failed_at END AS failed_at,
	CASE WHEN e.position = t.blocked_at THEN t.blocked_until END AS retry_at,
	t.due_at IS NULL AS stream_parked
FROM daybook.subscription_queue e
JOIN daybook.subscription_stream t
	ON t.subscription = e.subscription AND t.event_table = e.event_table AND t.stream_hash = e.stream_hash
JOIN daybook.subscription s ON s.name = e.subscription
WHERE daybook.may_consume(s.owner, s.consumers);
COMMENT ON VIEW daybook.subscription_parked IS
'events that subscriptions of the current user hold back: parked, retrying at a later time, or queued behind such an event of their stream';
GRANT SELECT ON daybook.subscription_parked TO PUBLIC;

CREATE VIEW daybook.subscription_discarded WITH (security_barrier) AS
SELECT d.subscription, d.position, d.event_table, d.id AS event_id, d.stream_id, d.failure, d.reason, d.discarded_by, d.discarded_at
FROM daybook.subscription_discard d
JOIN daybook.subscription s ON s.name = d.subscription
WHERE daybook.may_consume(s.owner, s.consumers);
COMMENT ON VIEW daybook.subscription_discarded IS
'events that were discarded from subscriptions of the current user: how they failed, why they were given up, by whom and when';
GRANT SELECT ON daybook.subscription_discarded TO PUBLIC;

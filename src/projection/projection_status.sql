-- Error texts can show rows of the projection's tables: for the owner alone.
CREATE VIEW daybook.projection_status AS
SELECT
	p.name,
	p.owner,
	p.mode,
	CASE
		WHEN p.state = 'paused' THEN 'paused'
		WHEN p.mode = 'inline' THEN
			CASE WHEN daybook.inline_triggers_live(p.name, p.sources) THEN 'running' ELSE 'broken' END
		WHEN p.restored_pid IS NOT NULL THEN 'restoring'
		WHEN q.failed_at IS NOT NULL THEN 'failed'
		WHEN q.error_sqlstate IS NOT NULL THEN 'retrying'
		WHEN w.projection IS NULL THEN 'waiting for a worker'
		ELSE 'running'
	END AS state,
	q.position,
	h.head,
	CASE p.mode WHEN 'async' THEN greatest(h.head - q.position, 0) END AS lag_events,
	CASE p.mode WHEN 'async' THEN
		coalesce(greatest(extract(epoch FROM pg_catalog.clock_timestamp() - daybook.oldest_unapplied(q.position)), 0), 0)
	END AS lag_seconds,
	q.error_sqlstate,
	CASE WHEN r.is_owner THEN q.error_message END AS error_message,
	CASE WHEN r.is_owner THEN q.error_detail END AS error_detail,
	CASE WHEN r.is_owner THEN q.error_context END AS error_context,
	q.error_position,
	q.error_event_table,
	q.error_event_id,
	q.failed_at,
	q.attempts,
	q.retry_at,
	k.parked_streams,
	k.parked_events,
	w.worker_pid,
	w.started_at AS worker_started_at,
	q.updated_at,
	p.handler_kind,
	p.handler,
	p.sources,
	p.tables,
	p.types,
	p.categories,
	p.batch_size,
	p.on_error,
	p.from_position,
	p.created_at,
	p.rebuilt_at,
	p.independent_streams
FROM daybook.projection p
JOIN daybook.projection_position q ON q.name = p.name
CROSS JOIN (SELECT daybook.head() AS head) h
CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(p.owner, 'USAGE') AS is_owner) r
CROSS JOIN LATERAL (
	SELECT count(DISTINCT (a.event_table, a.stream_id)) AS parked_streams, count(*) AS parked_events
	FROM daybook.projection_parked a
	WHERE a.projection = p.name
) k
LEFT JOIN daybook.projector_workers() w ON w.projection = p.name
WHERE p.rebuild_of IS NULL;
COMMENT ON VIEW daybook.projection_status IS 'projections, how far they are, and what keeps them from going on';
GRANT SELECT ON daybook.projection_status TO PUBLIC;

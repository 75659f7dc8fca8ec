-- Rebuilding a projection beside its tables: another projection of the same
-- events, with rebuild_of set, fills copies of them, which then take the place
-- of what the tables hold.

-- Why tables cannot be rebuilt so; null if they can.
CREATE FUNCTION daybook.rebuild_obstacle(tables regclass[]) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
	WITH t AS (
		SELECT c.*, c.oid::regclass::text AS shown
		FROM unnest($1) WITH ORDINALITY u (relation, n)
		JOIN pg_class c ON c.oid = u.relation
	)
	SELECT o.obstacle FROM (
		SELECT 1 AS n, 'Table ' || shown || ' is partitioned or has a parent or children.' AS obstacle
		FROM t WHERE relkind <> 'r' OR relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent))
		UNION ALL
		SELECT 2, 'Table ' || shown || ' is of a type or not stored as heap.'
		FROM t WHERE reloftype <> 0 OR relam <> (SELECT a.oid FROM pg_am a WHERE a.amname = 'heap')
		UNION ALL
		SELECT 3, 'Table ' || shown || ' has dropped columns.'
		FROM t WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attisdropped)
		UNION ALL
		SELECT 4, 'Table ' || shown || ' has rules.' FROM t WHERE EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = t.oid)
		UNION ALL
		SELECT 5, 'Row-level security is forced on table ' || shown || '.' FROM t WHERE relrowsecurity AND relforcerowsecurity
		UNION ALL
		SELECT 6, 'Table ' || shown || ' has an index that is not valid.'
		FROM t WHERE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND NOT (i.indisvalid AND i.indisready))
		UNION ALL
		SELECT 7, 'Table ' || shown || ' is published, and subscribers would not get the new rows.'
		-- pg_get_publication_tables() would open all other tables that are published, and wait for who alters one
		FROM t WHERE relpersistence = 'p' AND (EXISTS (SELECT FROM pg_publication p WHERE p.puballtables)
			OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = t.oid)
			OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnnspid = t.relnamespace))
		UNION ALL
		SELECT 8, 'Two of the tables have the name ' || quote_ident(relname) || '.' FROM t GROUP BY relname HAVING count(*) > 1
		UNION ALL
		SELECT 9, 'Table ' || shown || ' is unlogged.' FROM t WHERE relpersistence <> 'p'
		UNION ALL
		SELECT 10, 'Table ' || shown || ' has triggers that fire in a replica only, or constraint triggers.'
		FROM t WHERE EXISTS (
			SELECT FROM pg_trigger g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND (g.tgenabled = 'R' OR g.tgconstraint <> 0))
	) o ORDER BY o.n LIMIT 1
$$;
COMMENT ON FUNCTION daybook.rebuild_obstacle(regclass[]) IS
'why tables cannot be rebuilt beside the live ones; null if they can';

-- The commands that make empty copies of tables, in order, and as whom to run
-- them.  Keys and indexes get the names of the originals.  Foreign keys to
-- other tables than these are copied if asked for; one to a partitioned table
-- makes those to its partitions.
CREATE FUNCTION daybook.copy_commands(tables regclass[], copies text, foreign_keys boolean) RETURNS TABLE (owner oid, command text)
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
	WITH t AS (
		SELECT c.oid, c.relowner, format('%I.%I', s.nspname, c.relname) AS live, format('%I.%I', $2, c.relname) AS copy,
			u.n, s.nspname, c.relname, c.reltablespace, (
				SELECT string_agg(format('%s%I=%L', o.prefix, o.option_name, o.option_value), ', ') FROM (
					SELECT '' AS prefix, x.* FROM pg_options_to_table(c.reloptions) x
					UNION ALL
					SELECT 'toast.', x.* FROM pg_class h, pg_options_to_table(h.reloptions) x WHERE h.oid = c.reltoastrelid
				) o
			) AS options
		FROM unnest($1) WITH ORDINALITY u (relation, n)
		JOIN pg_class c ON c.oid = u.relation
		JOIN pg_namespace s ON s.oid = c.relnamespace
	), i AS (
		SELECT t.*, x.indexrelid, x.indisunique, c.relname AS index, pg_get_indexdef(x.indexrelid) AS def,
			(SELECT k.oid FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x')) AS key,
			(SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace) AS index_space
		FROM t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class c ON c.oid = x.indexrelid
	), s AS (
		SELECT t.*, format('%I.%I', n.nspname, c.relname) AS live_sequence, format('%I.%I', $2, c.relname) AS sequence,
			q.*, a.attname, pg_get_expr(f.adbin, f.adrelid) AS default_expression
		FROM t
		JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.deptype = 'a' AND d.classid = 'pg_class'::regclass
		JOIN pg_sequence q ON q.seqrelid = d.objid
		JOIN pg_class c ON c.oid = d.objid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
		LEFT JOIN pg_attrdef f ON f.adrelid = t.oid AND f.adnum = a.attnum
	)
	SELECT c.owner, c.command FROM (
		SELECT 1 AS stage, n, 0::oid AS id, relowner AS owner,
			format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES) USING heap', copy, live)
			|| coalesce(' WITH (' || options || ')', '')
			|| coalesce((SELECT format(' TABLESPACE %I', p.spcname) FROM pg_tablespace p WHERE p.oid = reltablespace), '') AS command
		FROM t
		UNION ALL
		SELECT 2, n, seqrelid, relowner,
			format('CREATE SEQUENCE %s AS %s INCREMENT %s MINVALUE %s MAXVALUE %s START %s CACHE %s %s OWNED BY %s.%I',
				sequence, format_type(seqtypid, NULL), seqincrement, seqmin, seqmax, seqstart, seqcache,
				CASE WHEN seqcycle THEN 'CYCLE' ELSE '' END, copy, attname)
		FROM s
		UNION ALL
		SELECT 3, n, seqrelid, relowner,
			format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', copy, attname,
				replace(default_expression, quote_literal(live_sequence), quote_literal(sequence)))
		FROM s WHERE default_expression LIKE '%' || quote_literal(live_sequence) || '%'
		UNION ALL
		SELECT 4, n, indexrelid, relowner,
			format('ALTER TABLE %s ADD CONSTRAINT %I %s', copy, index, pg_get_constraintdef(key))
		FROM i WHERE key IS NOT NULL
		UNION ALL
		SELECT 4, n, indexrelid, relowner,
			format('CREATE %sINDEX %I ON %s%s', CASE WHEN indisunique THEN 'UNIQUE ' END, index, copy,
				substr(def, strpos(def, ' ON ' || live || ' USING ') + length(' ON ' || live)))
		FROM i WHERE key IS NULL
		UNION ALL
		SELECT 5, n, indexrelid, relowner, format('ALTER INDEX %I.%I SET TABLESPACE %I', $2, index, index_space)
		FROM i WHERE index_space IS NOT NULL
		UNION ALL
		SELECT 6, t.n, k.oid, t.relowner,
			format('ALTER TABLE %s ADD CONSTRAINT %I %s', t.copy, k.conname,
				CASE WHEN r.oid IS NULL THEN pg_get_constraintdef(k.oid)
				ELSE replace(pg_get_constraintdef(k.oid), ' REFERENCES ' || r.live || '(', ' REFERENCES ' || r.copy || '(') END)
		FROM t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0
		LEFT JOIN t r ON r.oid = k.confrelid
		WHERE r.oid IS NOT NULL OR $3
		UNION ALL
		SELECT 7, t.n, g.oid, t.relowner,
			replace(pg_get_triggerdef(g.oid), ' ON ' || t.live || ' ', ' ON ' || t.copy || ' ')
		FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
	) c ORDER BY c.stage, c.n, c.id
$$;
COMMENT ON FUNCTION daybook.copy_commands(regclass[], text, boolean) IS
'the commands that make empty copies of tables in a schema';

-- What changes places when a rebuild is done.  Relations without a counterpart
-- show that somebody altered the table meanwhile.
CREATE FUNCTION daybook.copy_pairs(tables regclass[], copies regclass[]) RETURNS TABLE (live oid, copy oid)
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
	WITH t AS (
		SELECT live::oid, copy::oid, n FROM unnest($1, $2) WITH ORDINALITY u (live, copy, n)
	), columns AS (
		SELECT t.n, a.attrelid, array_agg((a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attgenerated, a.attisdropped)::text ORDER BY a.attnum) AS list
		FROM t JOIN pg_attribute a ON a.attrelid IN (t.live, t.copy) AND a.attnum > 0 GROUP BY 1, 2
	), parts AS (
		SELECT t.n, x.indrelid AS table, x.indexrelid AS part,
			(c.relname, x.indisunique, x.indisvalid, x.indnatts, substr(pg_get_indexdef(x.indexrelid), strpos(pg_get_indexdef(x.indexrelid), ' USING ')))::text AS what
		FROM t JOIN pg_index x ON x.indrelid IN (t.live, t.copy) JOIN pg_class c ON c.oid = x.indexrelid
		UNION ALL
		SELECT t.n, d.refobjid, d.objid, (d.deptype, d.refobjsubid)::text
		FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid IN (t.live, t.copy)
			AND d.deptype IN ('a', 'i') AND d.classid = 'pg_class'::regclass
		JOIN pg_sequence s ON s.seqrelid = d.objid
	)
	SELECT live, (SELECT c2.attrelid FROM columns c1 JOIN columns c2 USING (list) WHERE c1.attrelid = live AND c2.attrelid = copy) FROM t
	UNION ALL
	SELECT l.part, c.part
	FROM (SELECT p.* FROM parts p JOIN t ON t.live = p.table) l
	FULL JOIN (SELECT p.* FROM parts p JOIN t ON t.copy = p.table) c ON l.n = c.n AND l.what = c.what
$$;
COMMENT ON FUNCTION daybook.copy_pairs(regclass[], regclass[]) IS
'relations that change places when a rebuild is done; null for those without a counterpart';

-- What else of a table was altered since its copy was made: the copy's rows were
-- stored under other constraints, by other triggers, or in other files.
CREATE FUNCTION daybook.copy_difference(tables regclass[], copies regclass[]) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
	WITH t AS (
		SELECT u.n, u.live, u.copy, format('%I.%I', ls.nspname, l.relname) AS live_name, format('%I.%I', cs.nspname, c.relname) AS copy_name
		FROM unnest($1, $2) WITH ORDINALITY u (live, copy, n)
		JOIN pg_class l ON l.oid = u.live
		JOIN pg_namespace ls ON ls.oid = l.relnamespace
		JOIN pg_class c ON c.oid = u.copy
		JOIN pg_namespace cs ON cs.oid = c.relnamespace
	), facts AS (
		SELECT t.n, c.oid = t.copy AS is_copy, 'The storage' AS what, (c.relpersistence, c.relam, c.reltablespace)::text AS fact
		FROM t JOIN pg_class c ON c.oid IN (t.live, t.copy)
		UNION ALL
		-- defaults of serial columns name sequences, of which a copy has its own
		SELECT t.n, a.attrelid = t.copy, 'Column ' || quote_ident(a.attname), replace(e.expression, coalesce((
			SELECT quote_literal(format('%I.%I', s.nspname, c.relname))
			FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace s ON s.oid = c.relnamespace
			WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
				AND strpos(e.expression, quote_literal(format('%I.%I', s.nspname, c.relname))) > 0
			ORDER BY d.objid DESC LIMIT 1), ''), '')
		FROM t JOIN pg_attribute a ON a.attrelid IN (t.live, t.copy) JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
		CROSS JOIN LATERAL (SELECT pg_get_expr(f.adbin, f.adrelid) AS expression) e
		UNION ALL
		SELECT t.n, k.conrelid = t.copy, 'Constraint ' || quote_ident(k.conname),
			regexp_replace(replace(pg_get_constraintdef(k.oid), ' REFERENCES ' || r.copy_name || '(', ' REFERENCES ' || r.live_name || '('), ' NOT VALID$', '')
		FROM t JOIN pg_constraint k ON k.conrelid IN (t.live, t.copy) AND k.contype IN ('c', 'f', 'p', 'u', 'x') AND k.conparentid = 0
		LEFT JOIN t f ON f.copy = k.confrelid
		CROSS JOIN LATERAL (SELECT coalesce(f.copy_name, '') AS copy_name, coalesce(f.live_name, '') AS live_name) r
		UNION ALL
		SELECT t.n, g.tgrelid = t.copy, 'Trigger ' || quote_ident(g.tgname),
			replace(pg_get_triggerdef(g.oid), ' ON ' || t.copy_name || ' ', ' ON ' || t.live_name || ' ')
		FROM t JOIN pg_trigger g ON g.tgrelid IN (t.live, t.copy) AND NOT g.tgisinternal AND g.tgenabled <> 'D'
	), differences AS (
		SELECT n, what FROM (
			(SELECT n, what, fact FROM facts WHERE is_copy EXCEPT SELECT n, what, fact FROM facts WHERE NOT is_copy)
			UNION ALL
			(SELECT n, what, fact FROM facts WHERE NOT is_copy EXCEPT SELECT n, what, fact FROM facts WHERE is_copy)
		) d
	)
	SELECT what || ' of table ' || t.live::text || ' is not what it was.' FROM differences JOIN t USING (n) ORDER BY 1 LIMIT 1
$$;
COMMENT ON FUNCTION daybook.copy_difference(regclass[], regclass[]) IS
'what of tables was altered since their copies were made, besides which columns and indexes they have; null if nothing was';

REVOKE EXECUTE ON FUNCTION daybook.copy_commands(regclass[], text, boolean) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION daybook.copy_pairs(regclass[], regclass[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION daybook.copy_difference(regclass[], regclass[]) FROM PUBLIC;

CREATE FUNCTION daybook.rebuild_projection(
	name text,
	in_place boolean DEFAULT NULL,
	max_rate int DEFAULT 0,
	parallel int DEFAULT 1,
	batch_size int DEFAULT NULL
) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_rebuild_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.rebuild_projection(text, boolean, int, int, int) IS
'fills a projection''s tables from the events again: beside the old rows, which then give way to the new ones, or in place; max_rate in events a second, 0 for no limit; parallel: workers, 1 to 64; batch_size: events in a transaction, 1 to 1000000, null for as many as is fast';

CREATE FUNCTION daybook.alter_projection(
	name text,
	handler text DEFAULT NULL,
	batch_size int DEFAULT NULL,
	on_error text DEFAULT NULL,
	independent_streams boolean DEFAULT NULL,
	parallel int DEFAULT 1
) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_alter_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.alter_projection(text, text, int, text, boolean, int) IS
'changes a projection; a new handler begins with a rebuild, and the old one goes on until that is done';

CREATE FUNCTION daybook.alter_projection(
	name text,
	handler regprocedure,
	batch_size int DEFAULT NULL,
	on_error text DEFAULT NULL,
	independent_streams boolean DEFAULT NULL,
	parallel int DEFAULT 1
) RETURNS void
AS 'MODULE_PATHNAME', 'daybook_alter_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.alter_projection(text, regprocedure, int, text, boolean, int) IS
'changes a projection; a new handler begins with a rebuild, and the old one goes on until that is done';

CREATE FUNCTION daybook.cancel_rebuild(name text) RETURNS boolean
AS 'MODULE_PATHNAME', 'daybook_cancel_rebuild'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.cancel_rebuild(text) IS
'gives up the rebuild of a projection, whose tables stay as they are; false if there was none';

-- A rebuild is as far as the share that is furthest behind; how fast it is and
-- how long it takes comes from all of them.
CREATE VIEW daybook.rebuild_progress AS
SELECT
	r.projection,
	CASE
		WHEN e.failed_at IS NOT NULL THEN 'failed'
		WHEN e.error_sqlstate IS NOT NULL THEN 'retrying'
		WHEN r.workers = 0 THEN 'waiting for a worker'
		WHEN r.position >= h.head THEN 'swapping'
		ELSE 'running'
	END AS state,
	r.started_at,
	r.position,
	h.head,
	l.events_left,
	round(t.rate, 1) AS events_per_second,
	CASE WHEN t.rate > 0 THEN pg_catalog.make_interval(secs => round(l.events_left / t.rate, 1)::float8) END AS time_left,
	nullif(r.max_rate, 0) AS max_rate,
	r.parked_events,
	e.error_sqlstate,
	CASE WHEN pg_catalog.pg_has_role(r.owner, 'USAGE') THEN e.error_message END AS error_message,
	CASE WHEN pg_catalog.pg_has_role(r.owner, 'USAGE') THEN e.error_detail END AS error_detail,
	e.error_position,
	coalesce(e.attempts, 0) AS attempts,
	e.retry_at,
	r.worker_pid,
	r.updated_at,
	r.parallel,
	r.workers
FROM (
	SELECT
		p.rebuild_of AS projection,
		p.owner,
		min(p.created_at) AS started_at,
		min(p.from_position) AS from_position,
		max(p.max_rate) AS max_rate,
		max(p.shares) AS parallel,
		min(q.position) AS position,
		avg(q.position) AS reached,
		sum((SELECT count(*) FROM daybook.projection_parked k WHERE k.projection = p.name))::bigint AS parked_events,
		count(w.projection)::int AS workers,
		min(w.worker_pid) AS worker_pid,
		max(q.updated_at) AS updated_at
	FROM daybook.projection p
	JOIN daybook.projection_position q ON q.name = p.name
	LEFT JOIN daybook.projector_workers() w ON w.projection = p.name
	WHERE p.rebuild_of IS NOT NULL
	GROUP BY p.rebuild_of, p.owner
) r
CROSS JOIN (SELECT daybook.head() AS head) h
CROSS JOIN LATERAL (SELECT greatest(ceil(h.head - r.reached), 0)::bigint AS events_left) l
CROSS JOIN LATERAL (
	SELECT (r.reached - r.from_position) / nullif(extract(epoch FROM r.updated_at - r.started_at), 0) AS rate
) t
LEFT JOIN LATERAL (
	SELECT q.*
	FROM daybook.projection p
	JOIN daybook.projection_position q ON q.name = p.name
	WHERE p.rebuild_of = r.projection AND q.error_sqlstate IS NOT NULL
	ORDER BY q.failed_at IS NULL, p.share
	LIMIT 1
) e ON true;
COMMENT ON VIEW daybook.rebuild_progress IS 'rebuilds in progress: how far, how fast, and how long they will take';
GRANT SELECT ON daybook.rebuild_progress TO PUBLIC;


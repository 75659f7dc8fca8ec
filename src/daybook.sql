-- daybook: event sourcing inside PostgreSQL
\echo Use "CREATE EXTENSION daybook" to load this file. \quit

-- The launcher, the guards and the wake-up at commit live in shared memory:
-- without them history would be unprotected and nothing would be ordered.
CREATE FUNCTION pg_catalog.daybook_require_preload() RETURNS void
AS 'MODULE_PATHNAME', 'daybook_require_preload'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
SELECT pg_catalog.daybook_require_preload();
DROP FUNCTION pg_catalog.daybook_require_preload();

CREATE SCHEMA daybook;
COMMENT ON SCHEMA daybook IS 'event sourcing: event tables, the log, projections';
GRANT USAGE ON SCHEMA daybook TO PUBLIC;

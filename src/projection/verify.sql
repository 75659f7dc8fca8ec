CREATE FUNCTION daybook.verify_projection(
	name text,
	ignore_columns text[] DEFAULT '{}',
	streams text[] DEFAULT NULL,
	stream_column text DEFAULT NULL,
	OUT "table" regclass,
	OUT "row" jsonb,
	OUT difference text
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'daybook_verify_projection'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION daybook.verify_projection(text, text[], text[], text) IS
'computes a projection anew, of all streams or of some, and returns the rows that its tables miss or have too many';


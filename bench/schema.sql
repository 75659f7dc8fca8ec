-- Event tables to be compared: daybook's, and a plain heap table with the same
-- columns in the same order, the same two unique indexes, and defaults that
-- fill what daybook fills.  The version is left to the client.
SELECT daybook.create_event_table('event');

CREATE TABLE plain_event (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	version bigint NOT NULL,
	recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	schema_version int NOT NULL DEFAULT 1,
	event_id uuid NOT NULL DEFAULT gen_random_uuid(),
	recorded_by text NOT NULL DEFAULT session_user,
	stream_id text NOT NULL,
	type text NOT NULL,
	data jsonb NOT NULL DEFAULT '{}',
	metadata jsonb,
	tags text[],
	UNIQUE (stream_id, version)
);

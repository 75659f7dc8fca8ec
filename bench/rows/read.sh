# shellcheck shell=bash disable=SC2034,SC2154
# Reading events back.

add_row replay "replay of streams of 100 and of 10,000 events, against SELECT ... ORDER BY version"
add_row read_all "all events in batches of 1000, against SELECT ... WHERE id > n ORDER BY id LIMIT 1000"

# read_with SCRIPT: every transaction of it reads per_call events.
read_with() {
	local output options="-c search_path=public"
	if [ "$1" = message_db ]; then options="-c search_path=message_store"; fi
	# shellcheck disable=SC2046
	output=$(PGOPTIONS=$options "$bindir/pgbench" $(connection) -n -M prepared -c 1 -t $((events / per_call)) \
		-D n=0 -D per_call="$per_call" -D streams="${long_streams:-1}" -D total="$total" -f "$work/bench/$1.sql" "$database" 2>&1) ||
		die "pgbench: ${output:0:2000}"
	rate=$(awk -v per_call="$per_call" '/^tps/ { printf "%d", $3 * per_call }' <<<"$output")
}

# Streams of per_call events each, interleaved as if they had grown side by side.
make_long_streams() {
	make_event_tables
	sql -v streams="$long_streams" -v per_call="$per_call" -v payload="$payload" <<-'SQL'
		INSERT INTO plain_event (stream_id, version, type, data)
		SELECT 'long-' || stream, version, 'OrderPlaced', :'payload'
		FROM generate_series(1, :per_call) version, generate_series(1, :streams) stream;
		INSERT INTO event (stream_id, type, data)
		SELECT 'long-' || stream, 'OrderPlaced', :'payload'
		FROM generate_series(1, :per_call) version, generate_series(1, :streams) stream;
	SQL
	expected_head=$(sql -c "SELECT count(*) FROM event")
	if [ -n "$peers" ]; then
		make_peers
		sql -v streams="$long_streams" -v per_call="$per_call" -v payload="$payload" <<-'SQL'
			INSERT INTO message_store.messages (stream_name, position, type, data)
			SELECT 'long-' || stream, version - 1, 'OrderPlaced', :'payload'
			FROM generate_series(1, :per_call) version, generate_series(1, :streams) stream;
			INSERT INTO emt_messages (stream_id, stream_position, transaction_id, message_schema_version,
				message_id, message_type, message_data, message_metadata)
			SELECT 'long-' || stream, version, pg_current_xact_id(), '1', gen_random_uuid(), 'OrderPlaced', :'payload', '{}'
			FROM generate_series(1, :per_call) version, generate_series(1, :streams) stream;
		SQL
	fi
	sql -c "VACUUM (ANALYZE)"
	settle
}

row_replay() {
	local per_call long_streams total=0 events reads_only=yes pick='\set n :n + 1
\set stream :n * 7919 % :streams + 1'
	for per_call in 100 10000; do
		long_streams=$((EVENTS / per_call > 0 ? EVENTS / per_call : 1))
		make_long_streams
		cat >"$work/bench/plain.sql" <<-SQL
			$pick
			SELECT * FROM plain_event WHERE stream_id = 'long-' || :stream ORDER BY version;
		SQL
		cat >"$work/bench/daybook.sql" <<-SQL
			$pick
			SELECT * FROM daybook.replay('event', 'long-' || :stream);
		SQL
		cat >"$work/bench/daybook_select.sql" <<-SQL
			$pick
			SELECT * FROM event WHERE stream_id = 'long-' || :stream ORDER BY version;
		SQL
		cat >"$work/bench/message_db.sql" <<-SQL
			$pick
			SELECT * FROM get_stream_messages('long-' || :stream, 0, -1);
		SQL
		cat >"$work/bench/emmett.sql" <<-SQL
			$pick
			SELECT stream_id, stream_position, global_position, message_data, message_metadata, message_schema_version, message_type, message_id
			FROM emt_messages WHERE stream_id = 'long-' || :stream AND partition = 'emt' || chr(58) || 'default' AND is_archived = FALSE
			ORDER BY stream_position ASC;
		SQL
		events=$((EVENTS * 2 > per_call ? EVENTS * 2 / per_call * per_call : per_call))
		take_turns "streams of $per_call events" "$events" read_with plain daybook daybook_select ${peers:+message_db emmett}
	done
}

row_read_all() {
	local per_call=1000 total events reads_only=yes walk='\set after (:n * :per_call) % :total
\set n :n + 1'
	make_event_tables
	make_peers
	sql -c "VACUUM (ANALYZE)"
	settle
	total=$((expected_head / per_call * per_call))
	cat >"$work/bench/plain.sql" <<-SQL
		$walk
		SELECT * FROM plain_event WHERE id > :after ORDER BY id LIMIT 1000;
	SQL
	cat >"$work/bench/daybook.sql" <<-SQL
		$walk
		SELECT * FROM daybook.read_all(:after, 1000);
	SQL
	cat >"$work/bench/daybook_columns.sql" <<-SQL
		$walk
		SELECT id, version, recorded_at, schema_version, event_id, recorded_by, stream_id, type, data, metadata, tags
		FROM daybook.read_all(:after, 1000);
	SQL
	cat >"$work/bench/message_db.sql" <<-SQL
		$walk
		SELECT * FROM get_category_messages('order', :after, 1000);
	SQL
	cat >"$work/bench/emmett.sql" <<-SQL
		$walk
		SELECT stream_id, stream_position, global_position, message_data, message_metadata, message_schema_version, message_type, message_id
		FROM emt_messages
		WHERE partition = 'emt' || chr(58) || 'default' AND is_archived = FALSE
			AND transaction_id < pg_snapshot_xmin(pg_current_snapshot()) AND global_position > :after
		ORDER BY transaction_id, global_position LIMIT 1000;
	SQL
	events=$((EVENTS * 4 > per_call ? EVENTS * 4 / per_call * per_call : per_call))
	take_turns "batches of $per_call out of $total" "$events" read_with plain daybook daybook_columns ${peers:+message_db}
	if [ -n "$peers" ]; then
		# sorts all that is left for every batch
		events=$per_call
		take_turns "the first batch of $per_call out of $total" "$events" read_with plain daybook emmett
	fi
}

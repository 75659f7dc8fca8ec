# shellcheck shell=bash disable=SC2034,SC2154
# Several events of one stream per transaction.

add_row arrays "append() of 10 and of 100 events, against one multi-row INSERT into a plain table"

# make_array_scripts COUNT: pgbench takes no more than 255 parameters, so stream
# and version are given once for all rows of an INSERT.
make_array_scripts() {
	local count=$1 rows='' event i
	event="{\"type\": \"OrderPlaced\", \"data\": $payload}"
	array=''
	for ((i = 0; i < count; i++)); do
		rows+="${rows:+, }($i, :payload::jsonb)"
		array+="${array:+, }$event"
	done
	array="[$array]"
	walk=$(grep -e '^\\set' "$bench/pgbench/plain.sql" | sed "s/^\\\\set version .*/\\\\set version 6 + $count * :pass/")
	cat >"$work/bench/plain.sql" <<-SQL
		$walk
		INSERT INTO plain_event (stream_id, version, type, data)
		SELECT stream_id, version + n, 'OrderPlaced', data
		FROM (SELECT 'order-' || :stream AS stream_id, :version::bigint AS version) AS stream, (VALUES $rows) AS row (n, data);
	SQL
	cat >"$work/bench/daybook_insert.sql" <<-SQL
		$walk
		INSERT INTO event (stream_id, type, data)
		SELECT stream_id, 'OrderPlaced', data
		FROM (SELECT 'order-' || :stream AS stream_id) AS stream, (VALUES $rows) AS row (n, data);
	SQL
	cat >"$work/bench/daybook_append.sql" <<-SQL
		$walk
		SELECT daybook.append('event', 'order-' || :stream, :events::jsonb);
	SQL
	cat >"$work/bench/message_db.sql" <<-SQL
		$walk
		BEGIN;
		$(for ((i = 0; i < count; i++)); do
			echo "SELECT write_message(gen_random_uuid()::varchar, 'order-' || :stream, 'OrderPlaced', :payload);"
		done)
		COMMIT;
	SQL
	cat >"$work/bench/emmett.sql" <<-SQL
		$walk
		SELECT emt_append_to_stream(array_agg(gen_random_uuid()::text), array_agg(data), array_agg('{}'::jsonb),
			array_agg('1'::text), array_agg('OrderPlaced'::text), array_agg('E'::text), 'order-' || :stream, 'order', NULL, 'emt' || chr(58) || 'default')
		FROM (VALUES $rows) AS row (n, data);
	SQL
}

append_array() {
	local output options="-c synchronous_commit=off"
	if [ "$1" = message_db ]; then options+=" -c search_path=message_store"; fi
	# shellcheck disable=SC2046
	output=$(PGOPTIONS=$options "$bindir/pgbench" $(connection) -n -M prepared \
		-c "$clients" -j 2 -t $((events / clients / count)) \
		-D payload="$payload" -D events="$array" -D clients="$clients" -D per_client=$((STREAMS / clients)) \
		-D n=$((round * events / clients / count)) -f "$work/bench/$1.sql" "$database" 2>&1) ||
		die "pgbench: ${output:0:2000}"
		rate=$(awk -v count="$count" '/^tps/ { printf "%d", $3 * count }' <<<"$output")
}

row_arrays() {
	local clients=4 count walk array events
	for count in 10 100; do
		make_event_tables
		make_peers
		sql -c "VACUUM (ANALYZE)"
		make_array_scripts "$count"
		events=$((EVENTS * 2 / clients / count * clients * count))
		take_turns "$count events per call, synchronous_commit off, $clients clients" "$events" append_array \
			plain daybook_append daybook_insert ${peers:+message_db emmett}
	done
}

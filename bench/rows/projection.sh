# shellcheck shell=bash disable=SC2034,SC2154
# Keeping a projection.

add_row batches "a projection that catches up in batches, against the handler's SQL run by hand over the same rows"
add_row rebuild "rebuild_projection, against the handler's SQL run by hand once over the whole table"
add_row workers "rebuild_projection by two workers, against one; and the handler by hand in two sessions, against one"
add_row latency "from COMMIT to the projection's row, at 1000 appends a second, against LISTEN/NOTIFY"

# The handler of balance.sql over other rows than new_events.
fold_into_balance() {
	printf '%s' "INSERT INTO balance
		SELECT stream_id, count(*), sum((data->>'amount')::numeric) FROM $1 GROUP BY stream_id
		ON CONFLICT (stream_id) DO UPDATE
		SET events = balance.events + excluded.events, amount = balance.amount + excluded.amount"
}

# Empties the table; by hand the projection stands still, and the other way round.
empty_balance() {
	sql -o /dev/null -c "SELECT daybook.drop_projection(name) FROM daybook.projection_status" \
		-c "DROP TABLE IF EXISTS balance"
	if [ "$1" = plain ]; then
		sql -c "CREATE TABLE balance (stream_id text PRIMARY KEY, events bigint NOT NULL, amount numeric NOT NULL)"
	fi
	ask "CHECKPOINT"
}

catch_up() {
	local output
	case $1 in
	plain)
		cat >"$work/bench/plain.sql" <<-SQL
			\set after :n * :per_call
			\set n :n + 1
			$(fold_into_balance "plain_event WHERE id > :after AND id <= :after::bigint + :per_call");
		SQL
		# shellcheck disable=SC2046
		output=$(PGOPTIONS="-c synchronous_commit=off" "$bindir/pgbench" $(connection) -n -M prepared -c 1 \
			-t $(((events + batch - 1) / batch)) -D n=0 -D per_call="$batch" -f "$work/bench/plain.sql" "$database" 2>&1) ||
			die "pgbench: ${output:0:2000}"
		;;
	daybook)
		sql -o /dev/null -v batch="$batch" -f "$bench/balance.sql"
		ask_until_true "SELECT position >= $expected_head FROM daybook.projection_status" "the projection"
		;;
	esac
}

# Adds to the tables until they have BULK_EVENTS.
fill_event_tables() {
	sql -v events="$BULK_EVENTS" -v streams="$STREAMS" -v payload="$payload" <<-'SQL'
		INSERT INTO plain_event (stream_id, version, type, data)
		SELECT 'order-' || 1 + i % :streams, 6 + i / :streams, 'OrderPlaced', :'payload' FROM generate_series(0, :events - 5 * :streams - 1) i;
		INSERT INTO event (stream_id, type, data)
		SELECT 'order-' || 1 + i % :streams, 'OrderPlaced', :'payload' FROM generate_series(0, :events - 5 * :streams - 1) i;
	SQL
	expected_head=$(sql -c "SELECT count(*) FROM event")
	sql -c "VACUUM (ANALYZE)"
	settle
}

row_batches() {
	local batch before_each=empty_balance reads_only=yes
	make_event_tables
	fill_event_tables
	for batch in 1000 10000; do
		take_turns "$expected_head events in batches of $batch" "$expected_head" catch_up plain daybook
	done
}

rebuild() {
	case $1 in
	plain) sql -c "TRUNCATE balance" -c "$(fold_into_balance plain_event)" ;;
	daybook)
		sql -o /dev/null -c "SELECT daybook.rebuild_projection('balance')"
		ask_until_true "SELECT NOT EXISTS (SELECT FROM daybook.rebuild_progress)" "the rebuild"
		;;
	esac
}

prepare_rebuild() {
	empty_balance "$1"
	if [ "$1" = daybook ]; then
		sql -o /dev/null -v batch=1000 -f "$bench/balance.sql"
		ask_until_true "SELECT position >= $expected_head FROM daybook.projection_status" "the projection"
	fi
}

row_rebuild() {
	local before_each=prepare_rebuild reads_only=yes BULK_EVENTS=$REBUILD_EVENTS
	make_event_tables
	fill_event_tables
	take_turns "$expected_head events" "$expected_head" rebuild plain daybook
}

# Handlers that make the same rows: of one statement, of statements that the events are kept for, a function.
handler_over() {
	case $handler in
	INSERT) fold_into_balance "$1" ;;
	UPDATE)
		printf '%s' "INSERT INTO balance SELECT DISTINCT stream_id, 0, 0 FROM $1 ON CONFLICT DO NOTHING;
			UPDATE balance SET events = balance.events + n.events, amount = balance.amount + n.amount
			FROM (SELECT stream_id, count(*) AS events, sum((data->>'amount')::numeric) AS amount FROM $1 GROUP BY stream_id) n
			WHERE balance.stream_id = n.stream_id"
		;;
	function) printf '%s' "SELECT count(add_to_balance(ROW(e.*)::daybook.event)) FROM (SELECT * FROM $1 ORDER BY id) e" ;;
	esac
}

prepare_workers() {
	empty_balance daybook
	sql -o /dev/null -v by_hand="$([[ $1 == plain* ]] && echo 1 || echo 0)" \
		-v is_function="$([ "$handler" = function ] && echo 1 || echo 0)" \
		-v handler="$(handler_over new_events)" -f "$bench/workers.sql"
	ask_until_true "SELECT coalesce(min(position), $expected_head) >= $expected_head FROM daybook.projection_status" "the projection"
	ask "CHECKPOINT"
}

# The last character of a variant says how many workers or sessions.
work_together() {
	local count=${1: -1} i pids=()
	if [[ $1 == plain* ]]; then
		for ((i = 0; i < count; i++)); do
			sql -o /dev/null -c "$(handler_over "(SELECT * FROM plain_event WHERE hashtext(stream_id) & 1 IN ($([ "$count" = 1 ] && echo '0, 1' || echo "$i"))) p")" &
			pids+=($!)
		done
		for i in "${pids[@]}"; do wait "$i" || die "a session by hand failed"; done
		return 0
	fi
	sql -o /dev/null -c "SELECT daybook.rebuild_projection('balance', parallel => $count, batch_size => $batch)"
	ask_until_true "SELECT NOT EXISTS (SELECT FROM daybook.rebuild_progress)" "the rebuild"
}

row_workers() {
	local handler=INSERT batch=10000 before_each=prepare_workers reads_only=yes
	make_event_tables
	fill_event_tables
	take_turns "$expected_head events in batches of $batch, $handler, by workers" "$expected_head" work_together daybook_1 daybook_2
	batch=NULL
	for handler in INSERT UPDATE function; do
		take_turns "$expected_head events, $handler, by workers" "$expected_head" work_together daybook_1 daybook_2
		take_turns "$expected_head events, $handler, by hand" "$expected_head" work_together plain_1 plain_2
	done
}

# With both, NOTIFY and daybook wait for the same commits and are recorded side by side.
measure_latency() {
	local name value output keep
	keep=$(fold_into_balance "plain_event WHERE id = ANY (\$1::bigint[])")
	output=$("$work/bench/latency" "host=$server port=$server_port user=postgres dbname=$database options='-c synchronous_commit=$mode'" \
		"$1" 1000 "$SECONDS_OF_LATENCY" "$payload" "${keep//balance/plain_balance}") || die "latency: $output"
	rate=$(sed -n 's/^rate //p' <<<"$output")
	done=$(sed -n 's/^events //p' <<<"$output")
	if [ "$round" -eq 0 ]; then return 0; fi
	while read -r name value; do
		variant=NOTIFY record "$name" "$value"
	done < <(sed -n 's/^notify //p' <<<"$output")
	while read -r name value; do
		record "$name" "$value"
	done < <(grep -E '^p(50|99) ' <<<"$output")
}

row_latency() {
	local mode batch=1000
	"${CC:-gcc}" -O2 -Wall -I"$("$pg_config" --includedir)" -o "$work/bench/latency" "$bench/latency.c" \
		-L"$("$pg_config" --libdir)" -lpq -lpthread || die "bench/latency.c could not be compiled"
	for mode in $MODES; do
		make_event_tables
		sql -o /dev/null -v batch=1000 -f "$bench/balance.sql"
		sql -c "CREATE TABLE plain_balance (LIKE balance INCLUDING ALL)" -c "VACUUM (ANALYZE)"
		take_turns "synchronous_commit $mode" $((SECONDS_OF_LATENCY * 1000)) measure_latency plain plain_row daybook
		take_turns "synchronous_commit $mode, the same commits" $((SECONDS_OF_LATENCY * 1000)) measure_latency daybook_both
	done
}

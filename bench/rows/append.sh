# shellcheck shell=bash disable=SC2034,SC2154
# One event per transaction.

add_row append "one event per transaction, any version, against one INSERT into a plain table"
add_row expected "one event per transaction, the expected version given"
add_row projected "the same as append, with an asynchronous projection that follows"
add_row hot "one stream, 16 clients, any version; a plain table needs a lock and a look at the last version"

# append_with SCRIPT: a pgbench run that goes on where the one before ended.
append_with() {
	local output options="-c synchronous_commit=$mode" script=${1%_early}
	if [[ $script != /* ]]; then script=$bench/pgbench/$script; fi
	if [[ $1 == message_db* ]]; then options+=" -c search_path=message_store"; fi
	if [[ $1 == *_early ]]; then options+=" -c daybook.early_lock_release=on"; fi
	# shellcheck disable=SC2046
	output=$(PGOPTIONS=$options "$bindir/pgbench" $(connection) -n -M prepared \
		-c "$clients" -j 2 -t $((events / clients)) \
		-D payload="$payload" -D clients="$clients" -D per_client=$((STREAMS / clients)) \
		-D n=$((round * events / clients)) -f "$script.sql" "$database" 2>&1) ||
		die "pgbench: ${output:0:2000}"
	rate=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' <<<"$output")
}

# Tables with some history.  The checkpoint comes before it, so that no round
# writes images of whole pages.
make_event_tables() {
	fresh_database bench
	ask "CHECKPOINT"
	sql -o /dev/null -f "$bench/schema.sql"
	sql -v streams="$STREAMS" -v payload="$payload" -f "$bench/preload.sql"
	expected_head=$(sql -c "SELECT count(*) FROM event")
}

# append_case MODE CLIENTS VARIANT...: one combination of both.
append_case() {
	local mode=$1 clients=$2 events=$EVENTS
	shift 2
	# what waits for the disk is done less often
	if [ "$mode" = on ]; then events=$((EVENTS / 10)); fi
	events=$((events / clients * clients))
	take_turns "synchronous_commit $mode, $clients clients" "$events" append_with "$@"
}

# append_cases VARIANT...: all combinations, each with fresh tables.
append_cases() {
	local mode clients
	for mode in $MODES; do
		for clients in $CLIENTS; do
			make_event_tables
			make_peers
			sql -c "VACUUM (ANALYZE)"
			append_case "$mode" "$clients" "$@"
		done
	done
}

row_append() { append_cases plain daybook ${peers:+message_db emmett}; }
row_expected() { append_cases plain daybook_expected ${peers:+message_db_expected emmett_expected}; }

row_projected() {
	local mode clients
	for mode in $MODES; do
		for clients in $CLIENTS; do
			make_event_tables
			sql -o /dev/null -v batch=1000 -f "$bench/balance.sql"
			sql -c "VACUUM (ANALYZE)"
			append_case "$mode" "$clients" plain daybook
		done
	done
}

# Counts what the other stores turned away.
append_to_hot_stream() {
	local before
	before=$(hot_version "$1")
	append_with "$1"
		done=$(($(hot_version "$1") - before))
	rate=$((rate * done / events))
}

hot_version() {
	case $1 in
	emmett_hot) ask "SELECT coalesce(max(stream_position), 0) FROM emt_streams WHERE stream_id = 'hot-1'" ;;
	message_db_hot) ask "SELECT coalesce(max(position) + 1, 0) FROM message_store.messages WHERE stream_name = 'hot-1'" ;;
	daybook_hot*) ask "SELECT coalesce(max(version), 0) FROM event WHERE stream_id = 'hot-1'" ;;
	*) ask "SELECT coalesce(max(version), 0) FROM plain_event WHERE stream_id = 'hot-1'" ;;
	esac
}

row_hot() {
	local mode clients=16 events early
	for mode in $MODES; do
		# there is nothing to release early where no commit is waited for
		early=
		if [ "$mode" = on ]; then early=daybook_hot_early; fi
		make_event_tables
		make_peers
		sql -c "VACUUM (ANALYZE)"
		if [ -n "$peers" ]; then sql -o /dev/null -v payload="$payload" -f "$bench/pgbench/emmett_first.sql"; fi
		events=$((EVENTS / 4 / 16 * 16))
		if [ "$mode" = on ]; then events=$((EVENTS / 10 / 16 * 16)); fi
		take_turns "synchronous_commit $mode, $clients clients" "$events" append_to_hot_stream \
			plain_hot daybook_hot $early ${peers:+message_db_hot emmett_hot}
		[ -z "$peers" ] || take_turns "synchronous_commit $mode, $clients clients, against message-db" "$events" \
			append_to_hot_stream message_db_hot daybook_hot $early
	done
}

# shellcheck shell=bash
# One event per transaction.

add_row append "one event per transaction, any version, against one INSERT into a plain table"
add_row expected "one event per transaction, the expected version given"

# What waits for the disk is done less often.
events_of_round() {
	local events=$EVENTS
	if [ "$mode" = on ]; then events=$((EVENTS / 10)); fi
	echo $((events / clients * clients))
}

# append_with SCRIPT: a pgbench run that goes on where the one before ended.
append_with() {
	local output
	# shellcheck disable=SC2046
	output=$(PGOPTIONS="-c synchronous_commit=$mode" \
		"$bindir/pgbench" $(connection) -n -M prepared -c "$clients" -j 2 -t $((events / clients)) \
		-D payload="$payload" -D clients="$clients" -D per_client=$((STREAMS / clients)) \
		-D n=$((round * events / clients)) -f "$bench/pgbench/$1.sql" "$database" 2>&1) ||
		die "pgbench: $output"
	# shellcheck disable=SC2034
	rate=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' <<<"$output")
}

run_plain() { measure plain "$events" append_with plain; }
run_daybook() { measure daybook "$events" append_with daybook; }
run_daybook_expected() { measure daybook "$events" append_with daybook_expected; }

# Tables with some history.  The checkpoint comes before it, so that no round
# writes images of whole pages.
make_event_tables() {
	fresh_database bench
	ask "CHECKPOINT"
	sql -o /dev/null -f "$bench/schema.sql"
	sql -v streams="$STREAMS" -v payload="$payload" -f "$bench/preload.sql"
	expected_head=$(sql -c "SELECT count(*) FROM event")
	sql -c "VACUUM (ANALYZE)"
}

# append_cases VARIANT...: all combinations of clients and synchronous_commit.
append_cases() {
	local mode clients events
	for mode in off on; do
		for clients in $CLIENTS; do
			events=$(events_of_round)
			make_event_tables
			take_turns "synchronous_commit $mode, $clients clients" "$@"
		done
	done
}

row_append() { append_cases plain daybook; }
row_expected() { append_cases plain daybook_expected; }

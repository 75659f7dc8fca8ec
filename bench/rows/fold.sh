# shellcheck shell=bash disable=SC2034,SC2154
# Folding streams.

add_row fold "fold of one long stream, against CREATE AGGREGATE ... ORDER BY version with the same transition"
add_row fold_all "fold_all of many streams, against fold of one stream of as many events"
add_row snapshot "fold of a long stream without a snapshot, against one that begins at 98 % of it"

# The transitions: a state of jsonb in plpgsql and in C, and a number in C.
make_folds() {
	local directory=$work/bench/transition
	mkdir -p "$directory"
	cp "$bench"/transition/{Makefile,daybook_transition.c} "$directory"
	make -s -C "$directory" PG_CONFIG="$pg_config" >"$work/build-transition.log" 2>&1 ||
		die "bench/transition could not be compiled: see $work/build-transition.log"
	sql -o /dev/null -v library="$directory/daybook_transition" -f "$bench/folds.sql"
}

append_long_stream() {
	sql -v events="$1" -v payload="$payload" <<-'SQL'
		INSERT INTO event (stream_id, type, data)
		SELECT 'long-1', 'OrderPlaced', :'payload' FROM generate_series(1, :events);
	SQL
	expected_head=$(sql -c "SELECT count(*) FROM event")
}

fold_with() {
	case $1 in
	plain) sql -o /dev/null -c "SELECT $fold(event ORDER BY version) FROM event WHERE stream_id = 'long-1'" ;;
	daybook) sql -o /dev/null -c "SELECT daybook.fold('$fold', 'long-1')" ;;
	replay) sql -o /dev/null -c "SELECT $fold(e) FROM daybook.replay('event', 'long-1') e" ;;
	daybook_typed) sql -o /dev/null -c "SELECT daybook.fold('$fold', 'long-1', NULL::numeric)" ;;
	esac
}

row_fold() {
	local fold STREAMS=100 reads_only=yes peers=
	make_event_tables
	append_long_stream "$BULK_EVENTS"
	make_folds
	sql -c "VACUUM (ANALYZE)"
	for fold in balance_plpgsql balance_c; do
		take_turns "$fold, jsonb, $BULK_EVENTS events" "$BULK_EVENTS" fold_with plain replay daybook
	done
	for fold in sum_plpgsql sum_c; do
		take_turns "$fold, numeric, $BULK_EVENTS events" "$BULK_EVENTS" fold_with plain replay daybook_typed
	done
}

fold_all_with() {
	case $1 in
	one_stream) sql -o /dev/null -c "SELECT daybook.fold('$fold', 'long-1')" ;;
	fold_all) sql -o /dev/null -c "SET max_parallel_workers_per_gather = 0" -c "SELECT count(state) FROM daybook.fold_all('$fold$many')" ;;
	in_parallel) sql -o /dev/null -c "SELECT count(state) FROM daybook.fold_all('$fold$many')" ;;
	esac
}

row_fold_all() {
	local fold many STREAMS=100 reads_only=yes peers=
	make_event_tables
	append_long_stream "$BULK_EVENTS"
	make_folds
	sql -o /dev/null -v events="$BULK_EVENTS" -v payload="$payload" <<-'SQL'
		SELECT daybook.create_event_table(t) FROM unnest('{event_behind,event_beside}'::text[]) t;
		INSERT INTO event_behind (stream_id, type, data)
		SELECT 'many-' || i / 100, 'OrderPlaced', :'payload' FROM generate_series(0, :events - 1) i;
		INSERT INTO event_beside (stream_id, type, data)
		SELECT 'many-' || i % (:events / 100), 'OrderPlaced', :'payload' FROM generate_series(0, :events - 1) i;
		SELECT daybook.create_fold(f || t, ('event' || t)::regclass, (f || '_step(jsonb, daybook.event)')::regprocedure, '{"events": 0, "balance": 0}'::jsonb, snapshot_every => 0)
		FROM unnest('{balance_plpgsql,balance_c}'::text[]) f, unnest('{_behind,_beside}'::text[]) t;
	SQL
	expected_head=$((expected_head + 2 * BULK_EVENTS))
	sql -c "VACUUM (ANALYZE)"
	for fold in balance_plpgsql balance_c; do
		many=_behind
		take_turns "$fold, $((BULK_EVENTS / 100)) streams of 100 events one behind the other" "$BULK_EVENTS" fold_all_with one_stream fold_all in_parallel
		many=_beside
		take_turns "$fold, $((BULK_EVENTS / 100)) streams of 100 events grown side by side" "$BULK_EVENTS" fold_all_with one_stream fold_all in_parallel
	done
}

state_with() {
	case $1 in
	all_events) sql -o /dev/null -c "SELECT daybook.fold('$fold', 'long-1')" ;;
	from_snapshot) sql -o /dev/null -c "SELECT daybook.fold('snapshot', 'long-1')" ;;
	esac
}

row_snapshot() {
	local fold events STREAMS=100 reads_only=yes peers=
	for events in "$BULK_EVENTS" "$HISTORY_EVENTS"; do
		make_event_tables
		make_folds
		sql -o /dev/null -c "SELECT daybook.create_fold('snapshot', 'event', 'balance_c_step(jsonb, daybook.event)', '{\"events\": 0, \"balance\": 0}'::jsonb, snapshot_every => 0)"
		append_long_stream $((events / 100 * 98))
		sql -o /dev/null -c "SELECT daybook.take_snapshot('snapshot', 'long-1')"
		append_long_stream $((events / 100 * 2))
		sql -c "VACUUM (ANALYZE)"
		fold=balance_c
		take_turns "$fold, $events events" "$events" state_with all_events from_snapshot
	done
}

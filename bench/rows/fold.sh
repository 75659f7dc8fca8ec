# shellcheck shell=bash disable=SC2034,SC2154
# Folding a stream.

add_row fold "fold of one long stream, against CREATE AGGREGATE ... ORDER BY version with the same transition"

# The transitions: a state of jsonb in plpgsql and in C, and a number in C.
make_folds() {
	local directory=$work/bench/transition
	mkdir -p "$directory"
	cp "$bench"/transition/{Makefile,daybook_transition.c} "$directory"
	make -s -C "$directory" PG_CONFIG="$pg_config" >"$work/build-transition.log" 2>&1 ||
		die "bench/transition could not be compiled: see $work/build-transition.log"
	sql -o /dev/null -v library="$directory/daybook_transition" -f "$bench/folds.sql"
}

fold_with() {
	case $1 in
	plain) sql -o /dev/null -c "SELECT $fold(event ORDER BY version) FROM event WHERE stream_id = 'long-1'" ;;
	daybook) sql -o /dev/null -c "SELECT daybook.fold('$fold', 'long-1')" ;;
	daybook_typed) sql -o /dev/null -c "SELECT daybook.fold('$fold', 'long-1', NULL::numeric)" ;;
	esac
}

row_fold() {
	local fold STREAMS=100 reads_only=yes peers=
	make_event_tables
	sql -v events="$BULK_EVENTS" -v payload="$payload" <<-'SQL'
		INSERT INTO event (stream_id, type, data)
		SELECT 'long-1', 'OrderPlaced', :'payload' FROM generate_series(1, :events);
	SQL
	expected_head=$(sql -c "SELECT count(*) FROM event")
	make_folds
	sql -c "VACUUM (ANALYZE)"
	for fold in balance_plpgsql balance_c; do
		take_turns "$fold, jsonb, $BULK_EVENTS events" "$BULK_EVENTS" fold_with plain daybook
	done
	fold=sum_c
	take_turns "$fold, numeric, $BULK_EVENTS events" "$BULK_EVENTS" fold_with plain daybook_typed
}

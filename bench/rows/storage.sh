# shellcheck shell=bash disable=SC2034,SC2154
# What an event takes on disk, and what a long history costs.

add_row storage "bytes stored for an event that is appended by itself, with indexes and log"
add_row history "appends to a table with much history, against one with little"

# stored_bytes VARIANT: tables, indexes and TOAST, and what the log and its index
# have grown by since it had log_before bytes.
stored_bytes() {
	case $1 in
	plain) ask "SELECT pg_total_relation_size('plain_event')" ;;
	daybook*) ask "SELECT pg_total_relation_size('event') + pg_total_relation_size('daybook.log_segment') - ${log_before:-0}" ;;
	message_db) ask "SELECT pg_total_relation_size('message_store.messages')" ;;
	emmett) ask "SELECT sum(pg_total_relation_size(of.relid))
		FROM (VALUES ('emt_messages'::regclass), ('emt_streams')) AS parent (relid), pg_partition_tree(parent.relid) AS of" ;;
	esac
}

# Only what has its place in the log is stored as a whole.
record_stored() {
	if [[ $1 == daybook* ]]; then
		ask_until_true "SELECT head >= $((expected_head + events)) FROM daybook.sequencer_status" "the sequencer"
	fi
	if [ "$round" -gt 0 ]; then record stored "$(stored_bytes "$1")"; fi
}

store_singly() {
	append_with "$1"
	record_stored "$1"
}

# The tables are empty in each round, and their streams new.
empty_tables() {
	fresh_database bench
	sql -o /dev/null -f "$bench/schema.sql"
	STREAMS=0 make_peers
	ask "CHECKPOINT"
}

row_storage() {
	local mode=off clients=4 events=$((EVENTS / 4 * 4)) before_each=empty_tables
	take_turns "one event per transaction, empty tables, $STREAMS streams" "$events" store_singly \
		plain daybook ${peers:+message_db emmett}
}

append_to_history() {
	case $1 in
	plain_few | daybook_few) append_with "${1%_few}" ;;
	*_many) append_with "$work/bench/$1" ;;
	esac
}

# fill_history TABLE VERSION: in parts, so that the WAL of all of it need not be
# kept at once; VERSION is an expression over i.
fill_history() {
	sql -v events="$HISTORY_EVENTS" -v streams="$STREAMS" -v payload="$payload" -v into="$1" -v version="$2" <<-'SQL'
		SELECT format($$INSERT INTO %I (stream_id, version, type, data)
			SELECT 'order-' || 1 + i %% %s, %s, 'OrderPlaced', %L FROM generate_series(%s::bigint, %s) i$$,
			:'into', :streams, :'version', :'payload', first, least(first + 999999, :events - 1))
		FROM generate_series(0, :events - 1, 1000000) first \gexec
		VACUUM (ANALYZE);
	SQL
}

row_history() {
	local mode=off clients=4 events=$((EVENTS / 4 * 4))
	local case="$((STREAMS * 5)) and $HISTORY_EVENTS events stored, 4 clients, synchronous_commit off"
	make_event_tables

	# what a plain table with as much history loses
	sql -c "CREATE TABLE plain_many (LIKE plain_event INCLUDING ALL)"
	fill_history plain_many "1 + i / $STREAMS"
	sed "s/INSERT INTO plain_event/INSERT INTO plain_many/; s/version 6 +/version $((HISTORY_EVENTS / STREAMS + 2)) +/" \
		"$bench/pgbench/plain.sql" >"$work/bench/plain_many.sql"
	take_turns "$case, plain" "$events" append_to_history plain_few plain_many
	sql -c "DROP TABLE plain_many" -c "CHECKPOINT"

	sql -o /dev/null -c "SELECT daybook.create_event_table('many')"
	fill_history many NULL
	expected_head=$((expected_head + HISTORY_EVENTS))
	sed 's/INSERT INTO event/INSERT INTO many/' "$bench/pgbench/daybook.sql" >"$work/bench/daybook_many.sql"
	take_turns "$case" "$events" append_to_history daybook_few daybook_many
}

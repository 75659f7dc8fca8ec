# shellcheck shell=bash disable=SC2034,SC2154
# Very many events in one transaction.

add_row bulk "COPY and INSERT ... SELECT of many events in one statement"

make_bulk_source() {
	fresh_database bench
	sql -v streams="$STREAMS" -v events="$BULK_EVENTS" -v payload="$payload" <<-'SQL'
		CREATE TABLE source AS
		SELECT 'order-' || i % :streams AS stream_id, 1 + i / :streams AS version, 'OrderPlaced' AS type, :'payload'::jsonb AS data
		FROM generate_series(0, :events - 1) i;
		VACUUM ANALYZE source;
	SQL
	sql -c "COPY source TO '$server/plain.copy'" -c "COPY source (stream_id, type, data) TO '$server/daybook.copy'"
}

# Both begin with empty tables each time; the log keeps the events of those before.
bulk_prepare() {
	sql -o /dev/null <<-SQL
		DROP TABLE IF EXISTS plain_event;
		SELECT to_regclass('event') IS NOT NULL AS exists \\gset
		\\if :exists
		SELECT daybook.drop_event_table('event', force => true);
		\\endif
		\\i $bench/schema.sql
		CHECKPOINT;
	SQL
	log_before=$(ask "SELECT pg_total_relation_size('daybook.log_segment')")
}

bulk_load() {
	local began events=$BULK_EVENTS
	began=$(date +%s%N)
	case $statement-$1 in
	COPY-plain) sql -c "COPY plain_event (stream_id, version, type, data) FROM '$server/plain.copy'" ;;
	COPY-daybook) sql -c "COPY event (stream_id, type, data) FROM '$server/daybook.copy'" ;;
	COPY-daybook_expected) sql -c "COPY event (stream_id, version, type, data) FROM '$server/plain.copy'" ;;
	*-plain) sql -c "INSERT INTO plain_event (stream_id, version, type, data) SELECT stream_id, version, type, data FROM source" ;;
	*-daybook) sql -c "INSERT INTO event (stream_id, type, data) SELECT stream_id, type, data FROM source" ;;
	*-daybook_expected) sql -c "INSERT INTO event (stream_id, version, type, data) SELECT stream_id, version, type, data FROM source" ;;
	esac
	rate=$((events * 1000000000 / ($(date +%s%N) - began)))
	record_stored "$1"
}

row_bulk() {
	local statement log_before before_each=bulk_prepare
	make_bulk_source
	for statement in COPY "INSERT ... SELECT"; do
		take_turns "$statement of $BULK_EVENTS events" "$BULK_EVENTS" bulk_load plain daybook daybook_expected
	done
}

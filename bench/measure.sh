# shellcheck shell=bash disable=SC2034,SC2154
# Measuring: rounds in which the variants of a row take turns, and for each what
# it did, how long it took, and what it cost the server.  To be sourced.

row_names=()
declare -A row_titles=()

# add_row NAME TITLE: the function row_NAME measures it.
add_row() {
	row_names+=("$1")
	row_titles[$1]=$2
}

# About 200 bytes as jsonb.
payload='{"amount": 125, "currency": "EUR", "customer": "c-000481516", "items": [{"sku": "A-1001", "quantity": 2}, {"sku": "B-2044", "quantity": 1}], "note": "leave it with the neighbour", "channel": "web"}'

set_sizes() {
	local fsync=on
	if [ -n "${short:-}" ]; then
		: "${PEERS:=0}" "${ROUNDS:=1}" "${EVENTS:=400}" "${STREAMS:=800}" "${CLIENTS:=4}" "${MODES:=off}" "${SHARED_BUFFERS:=128MB}"
		: "${BULK_EVENTS:=5000}" "${REBUILD_EVENTS:=5000}" "${HISTORY_EVENTS:=8000}" "${SECONDS_OF_LATENCY:=1}"
		fsync=off
	else
		: "${ROUNDS:=5}" "${EVENTS:=100000}" "${STREAMS:=100000}" "${CLIENTS:=1 4 16}" "${MODES:=off on}" "${SHARED_BUFFERS:=1GB}"
		: "${BULK_EVENTS:=1000000}" "${REBUILD_EVENTS:=5000000}" "${HISTORY_EVENTS:=10000000}" "${SECONDS_OF_LATENCY:=10}"
	fi
	server_settings=(
		"shared_buffers = $SHARED_BUFFERS"
		"max_wal_size = 8GB"
		"checkpoint_timeout = 1h"
		"max_connections = 50"
		"autovacuum = off"
		"fsync = $fsync"
		"full_page_writes = on"
		"jit = off"
	)
}

# ---------------------------------------------------------------- the server

connection() {
	printf -- '-h %s -p %s -U postgres' "$server" "$server_port"
}

# Runs psql in the row's database.
sql() {
	# shellcheck disable=SC2046
	PGOPTIONS="-c client_min_messages=warning" \
		"$bindir/psql" -XqAt -v ON_ERROR_STOP=1 $(connection) -d "${database:-postgres}" "$@"
}

# One session stays open for looking at the server, so that looking costs little.
open_control() {
	# shellcheck disable=SC2046
	coproc CONTROL { exec "$bindir/psql" -XqAt $(connection) -d postgres 2>&1; }
	# shellcheck disable=SC2153
	control_pid=$CONTROL_PID
	control_in=${CONTROL[1]}
	control_out=${CONTROL[0]}
}

close_control() {
	[ -n "${control_pid:-}" ] || return 0
	{ echo '\q' >&"$control_in"; } 2>/dev/null || true
	wait "$control_pid" 2>/dev/null || true
	control_pid=
}

# ask SQL: prints the one value that the control session gets for it.
ask() {
	local line
	printf '%s;\n\\echo .\n' "$1" >&"$control_in"
	while read -r line <&"$control_out"; do
		[ "$line" != . ] || break
		printf '%s\n' "$line"
	done
}

# ask_until_true SQL WHAT: waits for it.
ask_until_true() {
	local since=$SECONDS
	until [ "$(ask "$1")" = t ]; do
		[ $((SECONDS - since)) -lt 600 ] || die "waited in vain for $2"
		sleep 0.02
	done
}

# fresh_database NAME: an empty one, with daybook, to which control goes too.
fresh_database() {
	ask '\c postgres' >/dev/null
	database=
	sql -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "CREATE DATABASE $1"
	database=$1
	expected_head=0
	sql -c "CREATE EXTENSION daybook"
	ask "\\c $1" >/dev/null
	ask_until_true "SELECT pid IS NOT NULL FROM daybook.sequencer_status" "the sequencer"
}

# Nothing is left to be done from what was run before: sessions have ended, WAL
# is on disk, every event that was appended has its place in the log, and
# projections have applied it.  New tables are not scanned for events any more,
# and the sequencer has read what plain has written, for which nobody wakes it.
settle() {
	ask_until_true "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'" "sessions to end"
	ask_until_true "SELECT pg_current_wal_flush_lsn() >= '$(ask "SELECT pg_current_wal_insert_lsn()")'::pg_lsn - 8192" "the WAL writer"
	ask_until_true "SELECT head >= $expected_head FROM daybook.sequencer_status" "the sequencer"
	ask_until_true "SELECT mode = 'decoding' FROM daybook.sequencer_status" "the sequencer to decode"
	ask "SELECT pg_reload_conf()" >/dev/null
	ask_until_true "SELECT lag_bytes < 1024 * 1024 FROM daybook.sequencer_status" "the sequencer to read all WAL"
	ask_until_true "SELECT coalesce(min(position), $expected_head) >= $expected_head FROM daybook.projection_status" "projections"
}

# ---------------------------------------------------------------- rounds

# spent: prints CPU microseconds of the server, of them those of daybook's
# worker, and WAL bytes, each since the start.
spent() {
	local worker
	worker=$(ask "SELECT pid FROM daybook.sequencer_status")
	"$bench/server-cpu" "$(head -n 1 "$server/data/postmaster.pid")" "$worker"
	ask "SELECT pg_current_wal_insert_lsn() - '0/0'"
}

record() {
	printf '%s\t' "$row" "$case_name" "$variant" "$round" >>"$results"
	printf '%s\t%s\n' "$1" "$2" >>"$results"
}

# measure VARIANT EVENTS COMMAND...: runs the command and records what it took.
# The command may set rate, events in a second, where it knows better than the
# clock, and done, if it was not to do all of them.  What a variant called
# daybook... does is expected to be in the log afterwards.  A row may set
# before_each, a command that is not measured, and reads_only.
measure() {
	local variant=$1 done=$2 rate='' before after start
	shift 2
	if [ -n "${before_each:-}" ]; then "$before_each" "$variant"; fi
	settle
	mapfile -t before < <(spent)
	start=$(date +%s%N)
	"$@"
	rate=${rate:-$((done * 1000000000 / ($(date +%s%N) - start)))}
	if [[ $variant == daybook* && -z ${reads_only:-} ]]; then expected_head=$((expected_head + done)); fi
	settle
	mapfile -t after < <(spent)
	if [ "$round" -eq 0 ]; then return 0; fi
	record events "$done"
	record rate "$rate"
	record cpu $((after[0] - before[0]))
	record worker $((after[1] - before[1]))
	record wal $((after[2] - before[2]))
}

# take_turns CASE EVENTS COMMAND VARIANT...: rounds in which the command is
# measured with each variant, in an order that alternates; round 0 warms up.
take_turns() {
	local events=$2 command=$3 variant order i
	case_name=$1
	shift 3
	for ((round = 0; round <= ROUNDS; round++)); do
		order=("$@")
		if ((round % 2 == 0)); then
			order=()
			for ((i = $#; i > 0; i--)); do order+=("${!i}"); done
		fi
		for variant in "${order[@]}"; do
			measure "$variant" "$events" "$command" "$variant"
		done
		if [ -t 1 ]; then printf '.'; fi
	done
	if [ -t 1 ]; then printf '\r%*s\r' $((ROUNDS + 1)) ''; fi
}

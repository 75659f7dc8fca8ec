# shellcheck shell=bash disable=SC2034,SC2154
# Other event stores for PostgreSQL, installed by npm where there is one, and
# called by their SQL functions: what their clients add is left out.

message_db=@eventide/message-db@1.3.1
emmett=@event-driven-io/emmett-postgresql@0.42.0
peers=

# PEERS=0 leaves them out; PEERS=1 fails where they cannot be had.
prepare_peers() {
	local log=$work/build-peers.log
	peer_directory=$work/bench/peers
	if [ "${PEERS:-}" = 0 ]; then return 0; fi
	if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
		[ "${PEERS:-}" != 1 ] || die "the other event stores need npm and node"
		note "no npm: other event stores are left out"
		return 0
	fi
	mkdir -p "$peer_directory"
	if ! (cd "$peer_directory" && npm install --no-audit --no-fund --no-save --prefix . "$message_db" "$emmett") >"$log" 2>&1; then
		[ "${PEERS:-}" != 1 ] || die "npm install failed: see $log"
		note "npm install failed: other event stores are left out (see $log)"
		return 0
	fi
	node --input-type=module -e "
		import('$peer_directory/node_modules/@event-driven-io/emmett-postgresql/dist/index.js')
			.then(emmett => console.log(emmett.schemaSQL.join('\n')))" >"$peer_directory/emmett.sql"
	peers=yes
	note "other event stores, from npm: $message_db $emmett"
}

# Makes them in the row's database.
make_peers() {
	local scripts=$peer_directory/node_modules/@eventide/message-db/database
	[ -n "$peers" ] || return 0
	(
		PATH=$bindir:$PATH PGHOST=$server PGPORT=$server_port PGUSER=postgres PGDATABASE=$database \
			DATABASE_NAME=$database CREATE_DATABASE=off bash "$scripts/install.sh"
	) >"$work/build-peers.log" 2>&1 || die "message-db could not be installed: see $work/build-peers.log"
	sql -o /dev/null -f "$peer_directory/emmett.sql"
	sql -o /dev/null -v streams="$STREAMS" -v payload="$payload" -f "$bench/preload-peers.sql"
}

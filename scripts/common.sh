# shellcheck shell=bash
# What the scripts share: packages, the user that runs servers, the place for
# working files, building, and private PostgreSQL servers.  To be sourced.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Versions of PostgreSQL that daybook is made for.
# shellcheck disable=SC2034
supported_versions=(15 17 18)

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

need_root() {
	is_root || command -v sudo >/dev/null || die "this needs root: run it as root, or install sudo"
}

# Runs a command as root.
as_root() {
	if is_root; then
		"$@"
	else
		need_root
		sudo "$@"
	fi
}

# ---------------------------------------------------------------- packages

apt_lists_are_fresh=

is_installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

refresh_apt_lists() {
	[ -z "$apt_lists_are_fresh" ] || return 0
	command -v apt-get >/dev/null || die "apt-get not found: these scripts are for Debian"
	as_root apt-get update -qq </dev/null || note "apt-get update has failed; going on with the lists that are there"
	apt_lists_are_fresh=yes
}

# Does this release have the package?  Old lists are good enough to tell.
apt_offers() {
	compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || refresh_apt_lists
	[[ $(apt-cache policy "$1" 2>/dev/null) == *"Candidate: "[^\(]* ]]
}

# Installs those of the given Debian packages that are missing.  The server's
# package would make and start a cluster of its own; it is told not to.
install_packages() {
	local missing=() package log status=0
	local no_cluster=/etc/postgresql-common/createcluster.d/daybook.conf
	for package; do
		is_installed "$package" || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	note "installing ${missing[*]}"
	log=$(mktemp)
	refresh_apt_lists
	as_root mkdir -p "${no_cluster%/*}"
	echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		-o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null >"$log" 2>&1 || status=$?
	as_root rm -f "$no_cluster"
	if [ $status -ne 0 ]; then
		tail -n 30 "$log" >&2
		die "apt-get install failed"
	fi
	rm -f "$log"
}

# install_node_pg DIRECTORY: Node and its PostgreSQL driver, from npm where that
# is there and else from Debian.  Without them the test of that client is left out.
install_node_pg() {
	if ! command -v npm >/dev/null; then
		install_packages nodejs node-pg
	elif [ ! -d "$1/node_modules/pg" ]; then
		mkdir -p "$1"
		cp "$top/examples/node/package.json" "$1/"
		note "installing npm's pg"
		npm install --prefix "$1" --silent --no-audit --no-fund >/dev/null 2>&1 ||
			note "npm install has failed; the Node clients are not tested"
	fi
}

# The packages that building and running with one PostgreSQL version takes.
server_packages() {
	echo "postgresql-$1" "postgresql-server-dev-$1" gcc make libc6-dev rsync
}

# Is this PostgreSQL version on the machine, or can apt bring it?
has_native_version() {
	[ -x "/usr/lib/postgresql/$1/bin/postgres" ] || apt_offers "postgresql-server-dev-$1"
}

# ---------------------------------------------------------------- places and users

# Servers run as an unprivileged user, because PostgreSQL refuses root: as the
# caller, or for root as the user that Debian's package makes.
server_user() {
	if is_root; then echo postgres; else id -un; fi
}

# Runs a command as the server's user.
as_server_user() {
	if is_root; then
		runuser -u postgres -- "$@"
	else
		"$@"
	fi
}

# The directory for everything the scripts make: .run in the tree, or a
# directory in /var/tmp when the server's user cannot reach the tree or its
# path would not do for a socket or for make.
find_work_directory() {
	work="$top/.run"
	if [[ $work =~ ^[A-Za-z0-9_./-]{1,70}$ ]] && [ -w "$top" ] && as_server_user test -x "$top"; then
		mkdir -p "$work"
	else
		work="/var/tmp/daybook-$(id -u)-$(printf '%s' "$top" | cksum | cut -d' ' -f1)"
		mkdir -p "$work"
		if [ ! -O "$work" ] || [ -L "$work" ]; then die "$work belongs to somebody else: remove it"; fi
	fi
}

# Makes a directory of the server's user.
make_server_directory() {
	mkdir -p "$1"
	if is_root; then chown postgres: "$1"; fi
}

# Copies the sources to a directory, leaving out what git ignores.  What was
# built there before stays, so that make has little to do the next time.
copy_sources() {
	local to=$1 owner=$2 run=(as_root)
	if [ "$owner" = "$(id -un)" ]; then run=(); fi
	"${run[@]}" mkdir -p "$to"
	"${run[@]}" rsync -rlpt --delete --exclude=/.git --filter=':- .gitignore' --chown="$owner:" "$top/" "$to/"
	"${run[@]}" chown "$owner:" "$to"
}

# copy_postgres VERSION TO: a copy of Debian's PostgreSQL, which finds its files
# relative to its programs, so that an extension can be installed into it alone.
copy_postgres() {
	local version=$1 to=$2 part
	mkdir -p "$to/lib/postgresql" "$to/share/postgresql" "$to/include"
	for part in "lib/postgresql/$version" "share/postgresql/$version" include/postgresql; do
		rsync -rlpt --delete "/usr/$part/" "$to/$part/"
	done
}

# build_and_install TREE PG_CONFIG LOG: copies the sources to TREE, builds them
# there as the server's user and installs daybook into that PostgreSQL, as root
# unless it is the caller's own.
build_and_install() {
	local tree=$1 pg_config=$2 log=$3 run=()
	if [ ! -w "$("$pg_config" --pkglibdir)" ]; then
		need_root
		run=(as_root)
	fi
	copy_sources "$tree" "$(server_user)" &&
		as_server_user make -s -C "$tree" -j"$(nproc)" all PG_CONFIG="$pg_config" >"$log" 2>&1 &&
		"${run[@]}" make -s -C "$tree" install PG_CONFIG="$pg_config" >>"$log" 2>&1
}

# ---------------------------------------------------------------- servers

# These are called by the server's user.  DIRECTORY holds the data directory,
# the socket, which nobody else can reach, and the log.

server_port=55432

# server_settings DIRECTORY: the part of postgresql.conf that is ours.
server_settings() {
	cat <<-SETTINGS
		listen_addresses = ''
		unix_socket_directories = '$1'
		port = $server_port
		shared_preload_libraries = 'daybook'
		wal_level = logical
		max_worker_processes = 32
		max_prepared_transactions = 32
		max_wal_size = 4GB
		shared_buffers = 256MB
		log_line_prefix = '%m [%p] %q%u@%d '
		timezone = 'UTC'
		log_timezone = 'UTC'
	SETTINGS
}

# make_server BINDIR DIRECTORY [SETTING...]: makes the data directory, unless
# there is one, and writes the settings.
make_server() {
	local bindir=$1 directory=$2
	shift 2
	mkdir -p "$directory"
	chmod 0700 "$directory"
	if [ ! -s "$directory/data/PG_VERSION" ]; then
		rm -rf "$directory/data"
		"$bindir/initdb" -D "$directory/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >"$directory/initdb.log" ||
			die "initdb failed: see $directory/initdb.log"
		echo "include 'daybook.conf'" >>"$directory/data/postgresql.conf"
	fi
	{
		server_settings "$directory"
		printf '%s\n' "$@"
	} >"$directory/data/daybook.conf"
}

server_is_running() {
	"$1/pg_ctl" -D "$2/data" status >/dev/null 2>&1
}

start_server() {
	local bindir=$1 directory=$2
	if ! "$bindir/pg_ctl" -D "$directory/data" -l "$directory/server.log" -w -t 120 start >/dev/null; then
		tail -n 20 "$directory/server.log" >&2
		die "the server did not start: see $directory/server.log"
	fi
}

stop_server() {
	local bindir=$1 directory=$2
	if server_is_running "$bindir" "$directory"; then
		"$bindir/pg_ctl" -D "$directory/data" -m fast -w -t 120 stop >/dev/null ||
			"$bindir/pg_ctl" -D "$directory/data" -m immediate -w stop >/dev/null
	fi
}

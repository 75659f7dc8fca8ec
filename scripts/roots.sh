# shellcheck shell=bash
# Roots for the PostgreSQL versions that this Debian release does not have: a
# small Debian of another release, unpacked into a directory and entered with
# chroot.  They are kept in $roots between runs, outside of the tree, and made
# again when missing or broken.  To be sourced after common.sh; needs $work set.
# shellcheck disable=SC2154

roots=${DAYBOOK_ROOTS:-/var/cache/daybook}

# Inside a root the tree is copied to this directory, each tree to its own: make
# goes by times, and two trees in one place would pass for each other.
root_build=/build/$(printf '%s' "$top" | cksum | cut -d' ' -f1)

# The Debian release that has a PostgreSQL version.
release_with() {
	case $1 in
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo forky ;;
	*) die "no Debian release with PostgreSQL $1 is known" ;;
	esac
}

root_packages() {
	printf '%s\n' base-files bash dash coreutils sed grep findutils diffutils mawk gzip procps git \
		libc-bin util-linux tzdata gcc make libc6-dev libpq-dev perl libipc-run-perl \
		libtap-parser-sourcehandler-pgtap-perl "postgresql-$1" "postgresql-$1-pgtap"
}

# The mirror of Debian that apt is configured with.
debian_mirror() {
	local mirror
	# shellcheck disable=SC2016 # apt fills these in
	mirror=$(apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian/Debian" && $2 ~ /^https?:/ && !found { print $2; found = 1 }')
	[ -n "$mirror" ] || die "apt knows no mirror of Debian, from which PostgreSQL 17 and 18 could be unpacked"
	echo "$mirror"
}

# ensure_root VERSION: makes the root unless a whole one of this recipe stands there.
ensure_root() {
	local version=$1 root="$roots/$1" recipe
	recipe=$({ declare -f make_root root_packages; release_with "$version"; } | cksum)
	if [ "$(cat "$root.ready" 2>/dev/null)" = "$recipe" ] && root_works "$version"; then
		return 0
	fi
	note "unpacking PostgreSQL $version from Debian $(release_with "$version") into $root: a minute or two, once"
	install_packages mmdebstrap
	as_root rm -rf --one-file-system "$root" "$root.ready"
	if ! make_root "$version" "$root" >"$work/root-$version.log" 2>&1; then
		tail -n 20 "$work/root-$version.log" >&2
		die "could not make the root for PostgreSQL $version"
	fi
	root_works "$version" || die "the root for PostgreSQL $version in $root does not work"
	echo "$recipe" | as_root tee "$root.ready" >/dev/null
}

root_works() {
	as_root chroot "$roots/$1" sh -c \
		"/usr/lib/postgresql/$1/bin/postgres --version && gcc --version && make --version && perl -MIPC::Run -e 1" \
		>/dev/null 2>&1
}

# Packages are unpacked, not configured: all that is run from them works so.
# The server's headers come without what their package depends on, clang and llvm.
make_root() {
	local version=$1 root=$2 packages proxy=() line
	packages=$(root_packages "$version" | paste -sd,)
	while read -r line; do
		proxy+=(--aptopt="$line")
	done < <(apt-config dump | grep -iE '^Acquire::https?::Proxy ')

	as_root mkdir -p "$roots"
	# shellcheck disable=SC2016 # for the hook's own shell
	as_root mmdebstrap --variant=extract --mode=root --format=directory \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' "${proxy[@]}" \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--include="$packages" \
		--extract-hook='cd "$1/tmp" &&
			APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download postgresql-server-dev-'"$version"' &&
			dpkg -x postgresql-server-dev-*.deb "$1" && rm postgresql-server-dev-*.deb' \
		"$(release_with "$version")" "$root" "$(debian_mirror)" </dev/null || return 1

	printf '127.0.0.1 localhost\n::1 localhost\n' | as_root tee "$root/etc/hosts" >/dev/null
	as_root mkdir -p "$root/home/postgres" "$root/dev/shm" "$root/proc" "$root${root_build%/*}" || return 1
	as_root ln -sf mawk "$root/usr/bin/awk" || return 1
	as_root chmod 1777 "$root/tmp" "$root/dev/shm" || return 1
	as_root ldconfig -r "$root"
}

# enter_root VERSION: copies this machine's root and postgres users into the
# root, so that files and processes have the same owners on both sides.
enter_root() {
	local root="$roots/$1"
	getent passwd root postgres | sed 's,:[^:]*:\([^:]*\)$,:/home/postgres:\1,' | as_root tee "$root/etc/passwd" >/dev/null
	getent group root "$(id -g postgres)" | as_root tee "$root/etc/group" >/dev/null
	as_root chown postgres: "$root/home/postgres"
	as_root find "$root/build" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} +
}

# in_root VERSION USER COMMAND...: runs a command in the root, in the copied
# tree.  It has a /proc of its own where we may mount one.
in_root() {
	local version=$1 user=$2 root="$roots/$1" inside
	shift 2
	# shellcheck disable=SC2016 # for the inner shell
	inside=(chroot --userspec="$user:$user" "$root" /usr/bin/env -i
		HOME=/home/postgres LANG=C.UTF-8 PATH="/usr/lib/postgresql/$version/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		PG_CONFIG="/usr/lib/postgresql/$version/bin/pg_config"
		sh -c 'cd "$0" && exec "$@"' "$root_build" "$@")
	if as_root unshare --mount true 2>/dev/null; then
		# shellcheck disable=SC2016
		as_root unshare --mount sh -c 'mount -t proc proc "$0" 2>/dev/null; exec "$@"' "$root/proc" "${inside[@]}"
	else
		as_root "${inside[@]}"
	fi
}

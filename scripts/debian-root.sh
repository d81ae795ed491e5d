#!/bin/sh
# Prints the root directory of a release of Debian with that release's PostgreSQL, pgBackRest and etcd, for tests.
# Usage: debian-root.sh RELEASE [PACKAGE...]
#
# RELEASE is a name that Debian's mirror has: bookworm, trixie, sid; with more packages it is a directory of its own. The
# directory is made once, in $CELLAR_ROOTS (by default /var/cache/cellar/debian, for all checkouts), from the mirror in this
# machine's apt sources, and with Debian's standard hosts file. FRESH=1 makes it again. It takes root.
set -eu

release=${1:?usage: debian-root.sh RELEASE [PACKAGE...]}
shift
case $release in
*[!a-z]*) echo "$release is not the name of a release, such as trixie" >&2; exit 2 ;;
esac
roots=${CELLAR_ROOTS:-/var/cache/cellar/debian}
name=$(printf '%s+' "$release" "$@")
name=${name%+}
more=
[ $# = 0 ] || more=$(printf '%s,' "$@")
root=$roots/$name

[ "$(id -u)" = 0 ] || { echo "it takes root: a root directory of another release" >&2; exit 1; }
for program in mmdebstrap apt-get; do
    command -v "$program" >/dev/null || { echo "$program is missing: install mmdebstrap" >&2; exit 1; }
done
mkdir -p "$roots"
# Another checkout may be making the same directory.
exec 9>"$roots/$name.lock"
flock 9
[ -z "${FRESH:-}" ] || rm -rf "$root"
if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    # The site from which this machine has Debian's own packages; its Release file may be older than the clock allows.
    site=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(RELEASE) $(SITE)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }')
    [ -n "$site" ] || { echo "apt's sources name no mirror of Debian (apt-get update?)" >&2; exit 1; }
    # Debian's packages make a database cluster when installed, unless they are told otherwise.
    # shellcheck disable=SC2016
    mmdebstrap --mode=root --variant=minbase --format=directory \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
        --essential-hook='mkdir -p "$1/etc/postgresql-common"
            echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
        --include="${more}postgresql,postgresql-client,pgbackrest,etcd-server,etcd-client,haproxy,pgbouncer,iproute2,util-linux,mount,procps,openssl,python3-minimal" \
        "$release" "$root" "deb $site $release main" >&2
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
    # What was downloaded is installed; documentation and lists of packages are not read here.
    rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/doc "$root"/usr/share/locale
    touch "$root/.complete"
fi
echo "$root"

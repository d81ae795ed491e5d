#!/bin/sh
# The end-to-end tests on another release of Debian, with that release's PostgreSQL, pgBackRest and etcd.
# Usage: test-debian.sh RELEASE [all | FILTER...]
#
# RELEASE is a name that Debian's mirror has: bookworm, trixie, sid. Without more arguments a tour of about five minutes
# runs; `all` is the whole suite, and filters are names of tests. The programs are this machine's build, so the release
# must not be older than this machine's.
#
# The root directory of the release is made once, below target/debian, from the mirror in this machine's apt sources, and
# with Debian's standard hosts file. FRESH=1 makes it again. The tests run in namespaces of their own: nothing is mounted
# and no process is left when this ends, however it ends. It takes root.
set -eu

release=${1:?usage: test-debian.sh RELEASE [all | FILTER...]}
shift
case $release in
*[!a-z]*) echo "$release is not the name of a release, such as trixie" >&2; exit 2 ;;
esac
repo=$(cd "$(dirname "$0")/.." && pwd -P)
root=$repo/target/debian/$release
tour="named_source lifecycle::a_cluster restore_targets::every upkeep::expiry upkeep::a_damaged drills::a_drill_proves rebuild::a_rebuild_is rotation::keys host_names::standby"

if [ "${CELLAR_INSIDE:-}" != 1 ]; then
    [ "$(id -u)" = 0 ] || { echo "it takes root: a root directory, mounts and namespaces" >&2; exit 1; }
    for program in mmdebstrap unshare pivot_root apt-get; do
        command -v "$program" >/dev/null || { echo "$program is missing: install mmdebstrap and util-linux" >&2; exit 1; }
    done
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
            --include=postgresql,postgresql-client,pgbackrest,etcd-server,etcd-client,iproute2,util-linux,mount,procps,openssl,python3-minimal \
            "$release" "$root" "deb $site $release main"
        printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
        touch "$root/.complete"
    fi
    cd "$repo"
    cargo build --locked --workspace
    # The test programs of this build: the end-to-end tests, and those that run the real PostgreSQL and pgBackRest.
    program() { # PACKAGE TEST
        cargo test --locked --no-run -p "$1" --test "$2" 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
    }
    CELLAR_E2E=$(program cellar-tests e2e)
    CELLAR_CONFIG=$(program cellar-pgbackrest config)
    CELLAR_INSTANCE=$(program cellar-postgres instance)
    export CELLAR_E2E CELLAR_CONFIG CELLAR_INSTANCE
    # A process namespace ends all that is in it with its first process; mounts and network go with theirs.
    CELLAR_INSIDE=1 exec unshare --mount --net --pid --fork --kill-child --propagation private \
        sh "$0" "$release" "$@"
fi

# In the namespaces: the release's root directory becomes the root, with this repository at its own path.
mount --bind "$root" "$root"
mkdir -p "$root$repo" "$root/.outside"
mount --bind "$repo" "$root$repo"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
cd "$root"
pivot_root . .outside
umount -l /.outside
cd "$repo"
ip link set lo up
unset CELLAR_INSIDE
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH RUST_TEST_THREADS="${RUST_TEST_THREADS:-2}"

# shellcheck disable=SC1091
. /etc/os-release
echo "== $PRETTY_NAME: $(ls /usr/lib/postgresql | sed 's/^/PostgreSQL /'), $(pgbackrest version), $(etcd --version | head -1)"
failed=""
tests() { # DIRECTORY PROGRAM FILTER...
    (cd "$1" && shift && echo "== $*" && exec "$@") || failed=1
}
# Where the golden files are, which cargo would tell.
export INSTA_WORKSPACE_ROOT="$repo" INSTA_UPDATE=no
tests crates/pgbackrest "$repo/$CELLAR_CONFIG"
tests crates/postgres "$repo/$CELLAR_INSTANCE"
if [ $# = 0 ]; then
    # shellcheck disable=SC2086
    set -- $tour
fi
[ "$1" != all ] || shift
tests tests "$repo/$CELLAR_E2E" "$@"
[ -z "$failed" ] || { echo "$PRETTY_NAME: a test failed" >&2; exit 1; }
echo "$PRETTY_NAME: all tests passed"

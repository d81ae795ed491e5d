#!/bin/sh
# The end-to-end tests on another release of Debian, with that release's PostgreSQL, pgBackRest and etcd.
# Usage: test-debian.sh RELEASE [short | all | FILTER...]
#
# RELEASE is a name that Debian's mirror has: bookworm, trixie, sid. Without more arguments a tour of about five minutes
# runs; `short` is one of a minute, `all` is the whole suite, and filters are names of tests. The programs are this
# machine's build, so the release must not be older than this machine's.
#
# The root directory of the release is made once, in $CELLAR_ROOTS (by default /var/cache/cellar/debian, for all
# checkouts), from the mirror in this machine's apt sources, and with Debian's standard hosts file. FRESH=1 makes it
# again. The tests run in namespaces of their own: nothing is mounted and no process is left when this ends, however it
# ends. It takes root.
set -eu

release=${1:?usage: test-debian.sh RELEASE [short | all | FILTER...]}
shift
case $release in
*[!a-z]*) echo "$release is not the name of a release, such as trixie" >&2; exit 2 ;;
esac
repo=$(cd "$(dirname "$0")/.." && pwd -P)
roots=${CELLAR_ROOTS:-/var/cache/cellar/debian}
root=$roots/$release
tour="named_source lifecycle::a_cluster restore_targets::every upkeep::expiry upkeep::a_damaged drills::a_drill_proves rebuild::a_rebuild_is rotation::keys host_names::standby"
short="named_source::a_primary host_names::standby_is_backed_up_with drills::a_drill_proves restore_plan:: rebuild::a_rebuild_is"

if [ -z "${CELLAR_PROGRAMS:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "it takes root: a root directory, mounts and namespaces" >&2; exit 1; }
    for program in mmdebstrap unshare pivot_root apt-get; do
        command -v "$program" >/dev/null || { echo "$program is missing: install mmdebstrap and util-linux" >&2; exit 1; }
    done
    mkdir -p "$roots"
    # Another checkout may be making the same directory.
    exec 9>"$roots/$release.lock"
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
            --include=postgresql,postgresql-client,pgbackrest,etcd-server,etcd-client,iproute2,util-linux,mount,procps,openssl,python3-minimal \
            "$release" "$root" "deb $site $release main"
        printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
        # What was downloaded is installed; documentation and lists of packages are not read here.
        rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/doc "$root"/usr/share/locale
        touch "$root/.complete"
    fi
    exec 9>&-
    cd "$repo"
    cargo build --locked --workspace
    # The test programs of this build: the end-to-end tests, and those that run the real PostgreSQL and pgBackRest.
    # Chosen as `make test` chooses them, so that nothing is compiled twice.
    program() { # TEST PACKAGES...
        test=$1
        shift
        cargo test --locked --no-run "$@" --test "$test" 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
    }
    # Links of their own, so that a build does not replace the programs of a tour under way.
    mkdir -p "$repo/target/debian"
    programs=$(mktemp -d "$repo/target/debian/programs.XXXXXX")
    trap 'rm -rf "$programs"' EXIT
    trap 'exit 130' INT TERM
    chmod 755 "$programs"
    ln target/debug/cellar target/debug/multiadmin target/debug/multipooler "$programs"
    ln "$(program e2e -p cellar-tests)" "$programs/e2e"
    ln "$(program config --workspace --exclude cellar-tests)" "$programs/config"
    ln "$(program instance --workspace --exclude cellar-tests)" "$programs/instance"
    # A process namespace ends all that is in it with its first process; mounts and network go with theirs.
    CELLAR_PROGRAMS=$programs unshare --mount --net --pid --fork --kill-child --propagation private \
        sh "$0" "$release" "$@"
    exit
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
programs=$CELLAR_PROGRAMS
unset CELLAR_PROGRAMS
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
tests crates/pgbackrest "$programs/config"
tests crates/postgres "$programs/instance"
if [ $# = 0 ]; then
    # shellcheck disable=SC2086
    set -- $tour
fi
case $1 in
all) shift ;;
# shellcheck disable=SC2086
short) set -- $short ;;
esac
tests tests "$programs/e2e" "$@"
[ -z "$failed" ] || { echo "$PRETTY_NAME: a test failed" >&2; exit 1; }
echo "$PRETTY_NAME: all tests passed"

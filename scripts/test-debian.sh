#!/bin/sh
# The end-to-end tests on another release of Debian, with that release's PostgreSQL, pgBackRest and etcd.
# Usage: test-debian.sh RELEASE [short | all | FILTER...]
#
# RELEASE is a name that Debian's mirror has: bookworm, trixie, sid. Without more arguments a tour of about five minutes
# runs; `short` is one of a minute, `all` is the whole suite, and filters are names of tests. The programs are this
# machine's build, so the release must not be older than this machine's.
#
# The root directory of the release is made once, by debian-root.sh; FRESH=1 makes it again. The tests run in namespaces
# of their own: nothing is mounted and no process is left when this ends, however it ends. It takes root.
set -eu

release=${1:?usage: test-debian.sh RELEASE [short | all | FILTER...]}
shift
case $release in
*[!a-z]*) echo "$release is not the name of a release, such as trixie" >&2; exit 2 ;;
esac
repo=$(cd "$(dirname "$0")/.." && pwd -P)
tour="named_source lifecycle::a_cluster restore_targets::every upkeep::expiry upkeep::a_damaged drills::a_drill_proves rebuild::a_rebuild_is rotation::keys host_names::standby"
short="named_source::a_primary host_names::standby_is_backed_up_with drills::a_drill_proves restore_plan:: rebuild::a_rebuild_is"

if [ -z "${CELLAR_PROGRAMS:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "it takes root: a root directory, mounts and namespaces" >&2; exit 1; }
    for program in unshare pivot_root; do
        command -v "$program" >/dev/null || { echo "$program is missing: install util-linux" >&2; exit 1; }
    done
    root=$("$repo/scripts/debian-root.sh" "$release")
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
    CELLAR_PROGRAMS=$programs CELLAR_ROOT=$root unshare --mount --net --pid --fork --kill-child --propagation private \
        sh "$0" "$release" "$@"
    exit
fi

# In the namespaces: the release's root directory becomes the root, with this repository at its own path.
root=$CELLAR_ROOT
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
unset CELLAR_PROGRAMS CELLAR_ROOT
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

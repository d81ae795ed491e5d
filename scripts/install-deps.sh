#!/bin/sh
# Installs what building and running Cellar needs and this machine lacks (Debian 12 or like it).
# Leaves no service running or enabled that was not there before.
# Usage: install-deps.sh [PROGRAM...]: programs that are packages of the same name, besides what is always needed.
set -eu

missing=""
need() { # PROGRAM PACKAGE...
    program=$1
    shift
    # Those for root are in sbin, which is not in an ordinary user's PATH.
    if ! command -v "$program" >/dev/null 2>&1 && ! [ -x /usr/sbin/"$program" ] &&
        ! ls /usr/lib/postgresql/*/bin/"$program" >/dev/null 2>&1; then
        missing="$missing $*"
    fi
}

need cc gcc libc6-dev
need protoc protobuf-compiler libprotobuf-dev
[ -e /usr/include/google/protobuf/descriptor.proto ] || missing="$missing libprotobuf-dev"
need initdb postgresql
need pgbench postgresql
need psql postgresql-client
need pgbackrest pgbackrest
need etcd etcd-server
need etcdctl etcd-client
need setpriv util-linux
need ss iproute2
need systemd-analyze systemd
need ip iproute2
need nft nftables
need haproxy haproxy
need pgbouncer pgbouncer
for program in "$@"; do need "$program" "$program"; done

if ! command -v cargo >/dev/null 2>&1; then
    echo "a Rust toolchain is needed and not found: see https://rustup.rs, then run this again" >&2
    exit 1
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing packages:$missing (this is not a Debian system: install their equivalents)" >&2
    exit 1
fi

as_root=""
if [ "$(id -u)" != 0 ]; then
    as_root="sudo -n"
    $as_root true 2>/dev/null || { echo "missing packages:$missing: install them, or allow sudo" >&2; exit 1; }
fi

# Debian's packages make a database cluster and start their services when installed. A policy that refuses
# to start anything, and a setting that makes no cluster, keep the machine as it was.
policy=/usr/sbin/policy-rc.d
made_policy=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    made_policy=1
fi
restore() { [ -z "$made_policy" ] || $as_root rm -f "$policy"; }
trap restore EXIT INT TERM

case "$missing" in
*postgresql*)
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    ;;
esac

echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 || {
    $as_root apt-get update >&2
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >&2
}

# The packages enable their services for the next boot.
for unit in postgresql etcd haproxy pgbouncer patroni; do
    case "$missing" in
    *"$unit"*)
        for wants in /etc/systemd/system/*.wants/"$unit".service; do
            [ -e "$wants" ] || [ -L "$wants" ] || continue
            $as_root rm -f "$wants"
        done
        ;;
    esac
done

#!/bin/sh
# A three-cell cluster by hand: what `cellar up` does, one step after the other.
#
#   bootstrap.sh DIR BINDIR STANZA PRIMARY STANDBY...
#
# DIR holds what needs no time: certificates, and in DIR/kit the configuration that Cellar
# generated for the same cells and ports. Waits look every 0.1 s.
set -eu
dir=$1 bin=$2 stanza=$3 primary=$4
shift 4
export LC_ALL=C TZ=UTC

did() { echo "$(date +%s.%N) $*"; }

# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
	what=$1 looks=0
	shift
	until "$@" >/dev/null 2>&1; do
		looks=$((looks + 1))
		[ "$looks" -lt 600 ] || { echo "never: $what" >&2; exit 1; }
		sleep 0.1
	done
}

configure() {
	data=$dir/$1/pg_data
	cp "$dir/kit/$1/cellar.conf" "$dir/kit/$1/pg_hba.conf" "$dir/kit/$1/pg_ident.conf" "$data/"
	line="include_if_exists = 'cellar.conf'"
	grep -qxF "$line" "$data/postgresql.conf" || echo "$line" >>"$data/postgresql.conf"
}

start() { "$bin/pg_ctl" start -w -s -D "$dir/$1/pg_data" -l "$dir/$1/log/postgres.log"; }

ask() { psql -h "$dir/$1/pg_sockets" -p "$(cat "$dir/kit/$1/port")" -U postgres -d postgres -XAtqc "$2"; }

streams() { ask "$1" "select status from pg_stat_wal_receiver" | grep -qx streaming; }

serve() {
	pgbackrest server --config="$dir/$1/pgbackrest.conf" >"$dir/$1/log/pgbackrest-server.log" 2>&1 &
	wait_for "the TLS server of $1" pgbackrest server-ping --config="$dir/$1/pgbackrest.conf" \
		--log-level-console=off --log-level-file=off
}

did begin
etcd $(cat "$dir/kit/etcd.args") >"$dir/log/etcd.log" 2>&1 &
export ETCDCTL_API=3
wait_for etcd etcdctl --endpoints="$(cat "$dir/kit/etcd.url")" --cacert="$dir/etcd/tls/ca.crt" \
	--cert="$dir/etcd/tls/client.crt" --key="$dir/etcd/tls/client.key" endpoint health
did etcd answers

"$bin/initdb" --pgdata "$dir/$primary/pg_data" --data-checksums --username=postgres --auth=peer \
	--encoding=UTF8 --locale=C.UTF-8 --no-instructions >/dev/null
configure "$primary"
did initdb
start "$primary"
ask "$primary" "create role cellar_replication login replication"
did the primary runs
serve "$primary"
did its TLS server answers

pgbackrest --config="$dir/$primary/jobs/bootstrap.conf" --stanza="$stanza" stanza-create >/dev/null
did stanza-create
pgbackrest --config="$dir/$primary/jobs/full.conf" --stanza="$stanza" --type=full backup \
	>"$dir/$primary/jobs/full.log"
did the first full backup

for cell in "$@"; do
	mkdir -m 700 "$dir/$cell/pg_data"
	pgbackrest --config="$dir/$cell/jobs/bootstrap.conf" --stanza="$stanza" --type=standby restore \
		>"$dir/$cell/jobs/seed.log"
	did "$cell restored"
	configure "$cell"
	start "$cell"
	wait_for "$cell to stream" streams "$cell"
	did "$cell streams"
	serve "$cell"
	did "its TLS server answers"
done

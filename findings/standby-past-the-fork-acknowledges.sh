#!/usr/bin/env bash
# PostgreSQL 16.2: a standby that has replayed past the fork streams, and acknowledges commits of its primary that it does not have.
#
# An old primary has WAL behind the point where the new one's timeline begins, as after every failover in which it wrote something
# that reached nobody. Started as a standby (standby.signal, primary_conninfo), it replays its own WAL to the end, past the fork.
# Its WAL receiver then begins to report as flushed what was replayed. The new primary lets it stream while fork and that position lie
# in one segment, shows it as a synchronous standby with a flush_lsn that is ahead of its own WAL, and acknowledges every commit below
# that position at once, with synchronous_commit = on and synchronous_standby_names naming this standby alone. The rows are not there:
# the standby logs a mismatch of the record behind the fork, or waits, and shows nothing of them.
#
# Needs: bash, python3 with pip, the package index. Run as root, PostgreSQL runs as the user nobody.
set -euo pipefail

work=$(mktemp -d /tmp/finding.XXXXXX)
chmod 755 "$work"
finish() {
    for data in "$work/old" "$work/new"; do
        [ -f "$data/postmaster.pid" ] && as "$bin/pg_ctl" stop -D "$data" -m immediate -s || true
    done
    rm -rf "$work"
}
trap finish EXIT

as() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    as() { setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME="$work" "$@"; }
    chown nobody "$work"
fi

pip3 --quiet --disable-pip-version-check install --no-deps --target "$work/python" --root-user-action=ignore pgserver==0.1.4
bin="$work/python/pgserver/pginstall/bin"
version=$(as "$bin/postgres" --version)
echo "version: $version"
[ "$version" = "postgres (PostgreSQL) 16.2" ]

settings=(-c listen_addresses= -c unix_socket_directories="$work" -c fsync=off -c logging_collector=off -c autovacuum=off)
start() { as "$bin/pg_ctl" start -s -w -D "$work/$1" -l "$work/$1.log" -o "${settings[*]} -p $2"; }
sql() { as "$bin/psql" -h "$work" -p "$1" -U postgres -d postgres -XqAt -c "$2"; }
wait_for() {
    for _ in $(seq 300); do
        "$@" && return
        sleep 0.1
    done
    echo "not within 30 s: $*" >&2
    exit 1
}
answers() { [ "$(sql "$1" "$2" 2> /dev/null)" = "$3" ]; }

as "$bin/initdb" -D "$work/old" -U postgres --auth=trust --no-sync > "$work/initdb.log"
start old 5432
sql 5432 "CREATE TABLE t (what text)"
as "$bin/pg_basebackup" -h "$work" -p 5432 -U postgres -D "$work/new" --checkpoint=fast --wal-method=stream --no-sync
as touch "$work/new/standby.signal"
as sh -c "echo \"primary_conninfo = 'host=$work port=5432 user=postgres'\" >> '$work/new/postgresql.auto.conf'"
start new 5433
sql 5432 "SELECT pg_switch_wal()" > "$work/switch.out"
sql 5432 "INSERT INTO t VALUES ('on both')"
wait_for answers 5433 "SELECT count(*) FROM t" 1

# The standby loses its primary and is promoted; the primary writes on, and dies.
sql 5433 "ALTER SYSTEM SET primary_conninfo = ''"
sql 5433 "SELECT pg_reload_conf()" > "$work/reload.out"
wait_for answers 5433 "SELECT count(*) FROM pg_stat_wal_receiver" 0
sql 5432 "INSERT INTO t SELECT 'on the old one alone' FROM generate_series(1, 20000)"
tail=$(sql 5432 "SELECT pg_current_wal_lsn()")
as "$bin/pg_ctl" stop -s -w -D "$work/old" -m immediate
sql 5433 "SELECT pg_promote()" > "$work/promote.out"
fork=$(cut -f 2 "$work/new/pg_wal/00000002.history")

# The old primary follows the new one, and is its only synchronous standby.
as touch "$work/old/standby.signal"
as sh -c "echo \"primary_conninfo = 'host=$work port=5433 user=postgres application_name=old'\" >> '$work/old/postgresql.auto.conf'"
start old 5432
sql 5433 "ALTER SYSTEM SET synchronous_standby_names = 'old'"
sql 5433 "SELECT pg_reload_conf()" > "$work/reload.out"
# It comes and goes: after each attempt that leads nowhere it connects again.
wait_for answers 5433 "SELECT flush_lsn > pg_current_wal_lsn() FROM pg_stat_replication WHERE sync_state = 'sync'" t
begun=$(date +%s)
# A wait that is cancelled would be told of in a warning.
said=$(sql 5433 "SET statement_timeout = '20s'; SET synchronous_commit = on; INSERT INTO t VALUES ('acknowledged by the old one')" 2>&1)
took=$(($(date +%s) - begun))
acknowledged=$(sql 5433 "SELECT pg_current_wal_lsn()")
echo "the new timeline begins at $fork, the old primary ends at $tail"
echo "a commit at $acknowledged was acknowledged (within 15 s, without a warning: $([ "$took" -lt 15 ] && [ -z "$said" ] && echo yes || echo "no: $said"))"
sleep 3
there=$(sql 5432 "SELECT count(*) FROM t WHERE what = 'acknowledged by the old one'")
echo "rows of it on the standby that acknowledged it: $there"
grep -E "LOG|FATAL" "$work/old.log" | tail -n 3 | sed 's/^[^[]*//'
[ "$took" -lt 15 ]
[ -z "$said" ]
[ "$there" = 0 ]
echo "as described"

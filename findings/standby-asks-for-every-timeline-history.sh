#!/usr/bin/env bash
# PostgreSQL 16.2: a standby cannot follow a primary whose timelines have a gap.
#
# A server that ends its recovery takes the first timeline whose history file it does not find. If a file
# 00000002.history is there, even an empty one, a server on timeline 1 therefore comes out on timeline 3. That is right
# where timeline 2 was used elsewhere. But a standby on timeline 1 that connects to it asks for the history of *every*
# timeline up to the primary's, 00000002.history among them, though 3 is no descendant of 2. If that file is gone by
# then (its server was lost before it could archive it, somebody tidied up), each attempt ends with FATAL, and the standby
# never streams, although 00000003.history alone would tell it all it needs. An empty file in the primary's pg_wal helps.
#
# Needs: bash, python3 with pip, the package index. Run as root, PostgreSQL runs as the user nobody.
set -euo pipefail

work=$(mktemp -d /tmp/finding.XXXXXX)
chmod 755 "$work"
finish() {
    for data in "$work/primary" "$work/standby"; do
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

as "$bin/initdb" -D "$work/primary" -U postgres --auth=trust --no-sync > "$work/initdb.log"
settings=(-c listen_addresses= -c unix_socket_directories="$work" -c fsync=off -c logging_collector=off)
start() { as "$bin/pg_ctl" start -s -w -D "$work/$1" -l "$work/$1.log" -o "${settings[*]} -p $2"; }
sql() { as "$bin/psql" -h "$work" -p "$1" -U postgres -d postgres -XqAt -c "$2"; }
start primary 5432
as "$bin/pg_basebackup" -h "$work" -p 5432 -U postgres -D "$work/standby" --checkpoint=fast --wal-method=stream --no-sync
as "$bin/pg_ctl" stop -s -w -D "$work/primary" -m fast

# Timeline 2 is taken, and the primary ends a recovery.
as touch "$work/primary/pg_wal/00000002.history" "$work/primary/recovery.signal"
as sh -c "cat >> '$work/primary/postgresql.auto.conf'" <<CONF
restore_command = 'false'
recovery_target_timeline = 'current'
CONF
start primary 5432
for _ in $(seq 100); do
    [ "$(sql 5432 "SELECT pg_is_in_recovery()")" = f ] && break
    sleep 0.1
done
sql 5432 "CHECKPOINT"
timeline=$(sql 5432 "SELECT timeline_id FROM pg_control_checkpoint()")
echo "timeline after the recovery: $timeline"

# The history of the timeline between is lost.
as rm "$work/primary/pg_wal/00000002.history"
as touch "$work/standby/standby.signal"
as sh -c "cat >> '$work/standby/postgresql.auto.conf'" <<CONF
primary_conninfo = 'host=$work port=5432 user=postgres'
wal_retrieve_retry_interval = '100ms'
CONF
start standby 5433
refusal='could not receive timeline history file from the primary server: ERROR:  could not open file "pg_wal/00000002.history"'
for _ in $(seq 100); do
    refused=$(grep -cF "$refusal" "$work/standby.log" || true)
    [ "$refused" -ge 20 ] && break
    sleep 0.1
done
streams=$(sql 5432 "SELECT count(*) FROM pg_stat_replication")
echo "times that the standby asked for 00000002.history in vain: $refused; standbys that stream: $streams"
# A command each: in a list with && a failure of any but the last ends nothing.
[ "$timeline" = 3 ]
[ "$refused" -ge 20 ]
[ "$streams" = 0 ]

# An empty file is enough.
as touch "$work/primary/pg_wal/00000002.history"
for _ in $(seq 100); do
    streams=$(sql 5432 "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
    [ "$streams" = 1 ] && break
    sleep 0.1
done
echo "standbys that stream with an empty 00000002.history in the primary's pg_wal: $streams"
[ "$streams" = 1 ]
echo "as described"

#!/usr/bin/env bash
# PostgreSQL 16.2: a copy of a physical replication slot holds back VACUUM as its original does, and nothing ends that but to
# drop it.
#
# A standby with hot_standby_feedback that streams through a slot leaves its xmin in the slot: also when it is gone, so that
# rows it may still need are kept. When it streams without the slot from then on, the slot's xmin stands for ever.
# pg_copy_physical_replication_slot() looks like the way to a slot that keeps the same WAL and no rows: the manual says that
# the copy "starts to reserve WAL from the same LSN as the source slot" and nothing of xmin. But the copy has that xmin, too,
# from its first moment, although no standby ever used it. pg_replication_slot_advance() moves its restart_lsn on and leaves the
# xmin. So whoever copies slots for another standby, or to rename one, keeps dead rows for nobody.
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
sql 5432 "CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 1000)"
as "$bin/pg_basebackup" -h "$work" -p 5432 -U postgres -D "$work/standby" --checkpoint=fast --wal-method=stream --no-sync \
    --create-slot --slot=first --write-recovery-conf
as sh -c "cat >> '$work/standby/postgresql.auto.conf'" <<CONF
hot_standby_feedback = on
wal_receiver_status_interval = 1
CONF
start standby 5433
for _ in $(seq 100); do
    xmin=$(sql 5432 "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'first'")
    [ -n "$xmin" ] && break
    sleep 0.1
done
as "$bin/pg_ctl" stop -s -w -D "$work/standby" -m fast
xmin=$(sql 5432 "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'first'")
echo "xmin of the slot, whose standby is gone: $xmin"
[ -n "$xmin" ]

sql 5432 "SELECT pg_copy_physical_replication_slot('first', 'second')" > "$work/copied"
copied=$(sql 5432 "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'second'")
echo "xmin of its copy, which nobody has used: $copied"
[ "$copied" = "$xmin" ]

# The original goes, and the copy still keeps the rows.
sql 5432 "SELECT pg_drop_replication_slot('first')" > "$work/dropped"
sql 5432 "DELETE FROM t"
sql 5432 "SELECT pg_replication_slot_advance('second', pg_current_wal_lsn())" > "$work/advanced"
kept() { sql 5432 "VACUUM (VERBOSE) t" 2>&1 | grep -oE "[0-9]+ are dead but not yet removable" | grep -oE "^[0-9]+"; }
with=$(kept)
after=$(sql 5432 "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'second'")
sql 5432 "SELECT pg_drop_replication_slot('second')" > "$work/dropped"
without=$(kept)
echo "dead rows that VACUUM must keep: $with with the copy (xmin $after after it was advanced), $without without it"
[ "$with" = 1000 ]
[ "$after" = "$xmin" ]
[ "$without" = 0 ]
echo "as described"

#!/usr/bin/env bash
# PostgreSQL 16.2: pg_control says "shut down" of a primary that was killed as its recovery ended.
#
# The checkpoint with which a recovery ends sets the state in pg_control to "shut down", and only afterwards does the
# server set it to "in production". A server that dies in between says that it was shut down, although nothing was: no
# switch to a new WAL segment took place, and the rows of the last, half-filled segment are not in the archive and were
# not even offered to archive_command. Who asks pg_controldata whether a stopped primary archived everything, and
# restores from the archive then, loses acknowledged rows. What tells the two apart is the position of the checkpoint:
# a shutdown of a server that archives writes it as the first record of a segment (offset 40, after the long page header),
# the end of a recovery writes it in the middle of one, unless a segment had just begun when the server died.
#
# The moment is held here by a recovery_end_command, which runs after that checkpoint. In a recovery after a crash there
# is no such command, and the moment lasts some milliseconds.
#
# Needs: bash, python3 with pip, the package index. Run as root, PostgreSQL runs as the user nobody.
set -euo pipefail

work=$(mktemp -d /tmp/finding.XXXXXX)
chmod 755 "$work"
finish() {
    [ -f "$work/data/postmaster.pid" ] && as "$bin/pg_ctl" stop -D "$work/data" -m immediate -s || true
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

control() { as env LC_ALL=C "$bin/pg_controldata" -D "$work/data" | sed -n "s/^$1: *//p"; }
offset() { # of the checkpoint in its segment of 16 MiB
    local position
    position=$(control "Latest checkpoint location")
    echo $(( 0x${position#*/} % 0x1000000 ))
}
sql() { as "$bin/psql" -h "$work" -U postgres -d postgres -XqAt -c "$1"; }
start() { as "$bin/pg_ctl" start -s "$@" -D "$work/data" -l "$work/log" -o "${settings[*]}"; }

as "$bin/initdb" -D "$work/data" -U postgres --auth=trust --no-sync > "$work/initdb.log"
as mkdir "$work/archive"
as sh -c "cat >> '$work/data/postgresql.auto.conf'" <<CONF
archive_mode = on
archive_command = 'cp %p $work/archive/%f'
restore_command = 'cp $work/archive/%f %p'
recovery_end_command = 'touch $work/at-the-end; exec sleep 600'
CONF
settings=(-c listen_addresses= -c unix_socket_directories="$work" -c logging_collector=off)

# A shutdown, to compare with.
start -w
sql "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i"
as "$bin/pg_ctl" stop -s -w -m fast -D "$work/data"
shutdown="$(control "Database cluster state") at offset $(offset)"
echo "after a shutdown: $shutdown"

# Rows, a crash, and a recovery that is killed as it ends.
start -w
sql "INSERT INTO t SELECT generate_series(1001, 2000)"
last=$(sql "SELECT pg_walfile_name(pg_current_wal_lsn())")
as "$bin/pg_ctl" stop -s -m immediate -D "$work/data"
as touch "$work/data/recovery.signal"
start -W
for _ in $(seq 600); do
    [ -e "$work/at-the-end" ] && break
    sleep 0.1
done
[ -e "$work/at-the-end" ]
postmaster=$(head -n 1 "$work/data/postmaster.pid")
children=$(cat "/proc/$postmaster/task/$postmaster/children")
for child in $children; do
    # What the startup process waits for.
    children="$children $(cat "/proc/$child/task/$child/children")"
done
# shellcheck disable=SC2086
kill -KILL "$postmaster" $children
rm -f "$work/data/postmaster.pid"
killed="$(control "Database cluster state") at offset $(offset)"
echo "killed as the recovery ended: $killed"
# A recovery that has ended is on a new timeline, and its first file has these rows too: the segment of any timeline counts.
segment=${last:8}
archived=$(find "$work/archive" -name "*$segment*" | wc -l)
offered=$(find "$work/data/pg_wal/archive_status" -name "*$segment*" | wc -l)
echo "the segment with the last rows, $segment of any timeline: archived: $archived, files in archive_status: $offered"

[ "$shutdown" = "shut down at offset 40" ]
# A command each: in a list with && a failure of any but the last ends nothing.
[[ "$killed" =~ ^shut\ down\ at\ offset ]]
[ "$killed" != "$shutdown" ]
[ "$archived" = 0 ]
[ "$offered" = 0 ]
echo "as described"

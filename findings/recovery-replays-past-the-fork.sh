#!/usr/bin/env bash
# PostgreSQL 16.2: a recovery onto timeline 2 takes rows from timeline 1 that were committed after the two had parted.
#
# Timeline 2 begins in the middle of a WAL segment, so its first file repeats timeline 1's part of that segment. While
# that file is not in the archive (its server was lost in the first minute), and timeline 1's file of the same number is
# (the old primary lived on, filled the segment and archived it), restore_command is asked for timeline 1's file next, and
# all of it is replayed, also what lies behind the fork that 00000002.history names. Nothing is logged about it. The new
# timeline's history then says that these rows came from timeline 2, on which nobody ever wrote them. With
# recovery_target_timeline = 2, which asks for the very line that leaves timeline 1 at the fork, they should not be there.
#
# Needs: bash, python3 with pip, the package index. Run as root, PostgreSQL runs as the user nobody.
set -euo pipefail

work=$(mktemp -d /tmp/finding.XXXXXX)
chmod 755 "$work"
finish() {
    for data in "$work/primary" "$work/promoted" "$work/restored"; do
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

settings=(-c listen_addresses= -c unix_socket_directories="$work" -c fsync=off -c logging_collector=off)
start() { as "$bin/pg_ctl" start -s -w -D "$work/$1" -l "$work/$1.log" -o "${settings[*]} -p $2"; }
sql() { as "$bin/psql" -h "$work" -p "$1" -U postgres -d postgres -XqAt -c "$2"; }
configure() { as sh -c "cat >> '$work/$1/postgresql.auto.conf'"; }
wait_for() {
    for _ in $(seq 200); do
        "$@" && return
        sleep 0.1
    done
    echo "not within 20 s: $*" >&2
    exit 1
}
answers() { [ "$(sql "$1" "$2")" = "$3" ]; }

# A primary that archives, a backup of it, and a standby.
as mkdir "$work/archive"
as "$bin/initdb" -D "$work/primary" -U postgres --auth=trust --no-sync > "$work/initdb.log"
configure primary <<CONF
archive_mode = on
archive_command = 'cp %p $work/archive/%f'
CONF
start primary 5432
sql 5432 "CREATE TABLE t (what text)"
for copy in restored promoted; do
    as "$bin/pg_basebackup" -h "$work" -p 5432 -U postgres -D "$work/$copy" --checkpoint=fast --wal-method=stream --no-sync
done
as touch "$work/promoted/standby.signal"
# Of the new timeline only the history comes into the archive: the server is lost before its first file is full.
configure promoted <<CONF
primary_conninfo = 'host=$work port=5432 user=postgres'
archive_command = 'case %f in *.history) cp %p $work/archive/%f;; *) false;; esac'
CONF
start promoted 5433
sql 5432 "INSERT INTO t VALUES ('before the fork')"
wait_for answers 5433 "SELECT count(*) FROM t" 1

# The timelines part, and both are written to.
sql 5433 "SELECT pg_promote()" > "$work/promote.out"
sql 5433 "INSERT INTO t VALUES ('on timeline 2')"
sql 5432 "INSERT INTO t VALUES ('on timeline 1, after the fork')"
segment=$(sql 5432 "SELECT pg_walfile_name(pg_current_wal_lsn())")
sql 5432 "SELECT pg_switch_wal()" > "$work/switch.out"
wait_for test -s "$work/archive/$segment"
wait_for test -s "$work/archive/00000002.history"
fork=$(cut -f 2 "$work/archive/00000002.history")
echo "the archive: $(cd "$work/archive" && ls | grep -v backup | tr '\n' ' '); timeline 2 leaves timeline 1 at $fork"
as "$bin/pg_ctl" stop -s -w -D "$work/primary" -m immediate
as "$bin/pg_ctl" stop -s -w -D "$work/promoted" -m immediate

# The backup is recovered onto timeline 2.
configure restored <<CONF
archive_mode = off
restore_command = 'cp $work/archive/%f %p'
recovery_target_timeline = '2'
CONF
as touch "$work/restored/recovery.signal"
start restored 5434
wait_for answers 5434 "SELECT pg_is_in_recovery()" f
rows=$(sql 5434 "SELECT string_agg(what, ' | ') FROM t")
echo "rows after a recovery with recovery_target_timeline = 2: $rows"
history=$(cat "$work/restored/pg_wal/00000003.history")
echo "its own history, of timeline 3:"
echo "$history"
end=$(tail -n 1 <<< "$history" | cut -f 2)
behind=$(sql 5434 "SELECT '$end'::pg_lsn > '$fork'::pg_lsn")
[ "$rows" = "before the fork | on timeline 1, after the fork" ]
# A command each: in a list with && a failure of any but the last ends nothing.
[ "$(tail -n 1 <<< "$history" | cut -f 1)" = 2 ]
[ "$behind" = t ]
[ "$(grep -cE 'WARNING|ERROR|FATAL|PANIC' "$work/restored.log" || true)" = 0 ]
echo "as described"

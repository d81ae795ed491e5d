#!/usr/bin/env bash
# PostgreSQL 16.2: pg_stat_wal_receiver.status is "streaming" although no byte is ever streamed.
#
# A standby names a replication slot that does not exist on its primary. The primary refuses START_REPLICATION each
# time, and nothing is replicated. All the same, a query that looks at the right moment sees a row of
# pg_stat_wal_receiver with the status "streaming": the receiver has that status from its start, and the row is shown
# as soon as the connection stands, before the primary has answered. A health check that asks once whether the status
# is "streaming" can therefore call a standby healthy that never received anything. What tells the two apart:
# received_lsn's time (last_msg_receipt_time is that of the receiver's own start), pg_stat_replication on the primary
# (its state stays "startup", or there is no row), or a receiver that is still the same process a second later.
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
as "$bin/pg_ctl" start -s -w -D "$work/primary" -l "$work/primary.log" -o "${settings[*]} -p 5432"
as "$bin/pg_basebackup" -h "$work" -p 5432 -U postgres -D "$work/standby" --checkpoint=fast --wal-method=stream --no-sync
as touch "$work/standby/standby.signal"
as sh -c "cat >> '$work/standby/postgresql.auto.conf'" <<CONF
primary_conninfo = 'host=$work port=5432 user=postgres'
primary_slot_name = 'no_such_slot'
wal_retrieve_retry_interval = '50ms'
CONF
as "$bin/pg_ctl" start -s -w -D "$work/standby" -l "$work/standby.log" -o "${settings[*]} -p 5433"

# What is written from now on reaches a standby only by streaming: there is no archive.
primary() { as "$bin/psql" -h "$work" -p 5432 -U postgres -d postgres -XqAt -c "$1"; }
standby() { as "$bin/psql" -h "$work" -p 5433 -U postgres -d postgres -XqAt -c "$1"; }
primary "CREATE TABLE never_arrives ()"

# Looks without a pause for ten seconds.
seen=$(standby "DO \$\$
DECLARE
    receiver record;
    streaming bigint := 0;
    other bigint := 0;
    ends timestamptz := clock_timestamp() + interval '10 seconds';
BEGIN
    WHILE clock_timestamp() < ends LOOP
        SELECT * INTO receiver FROM pg_stat_get_wal_receiver();
        IF receiver.status = 'streaming' THEN
            streaming := streaming + 1;
        ELSIF receiver.status IS NOT NULL THEN
            other := other + 1;
        END IF;
    END LOOP;
    RAISE NOTICE 'streaming: %, other: %', streaming, other;
END \$\$" 2>&1)
refused=$(grep -c 'replication slot "no_such_slot" does not exist' "$work/primary.log" || true)
arrived=$(standby "SELECT to_regclass('never_arrives') IS NOT NULL")
echo "looks at pg_stat_wal_receiver: $seen"
echo "times that the primary refused: $refused"
echo "what was written since has arrived: $arrived"
# A command each: in a list with && a failure of any but the last ends nothing.
[ "$refused" -gt 0 ]
[ "$arrived" = f ]
[[ "$seen" =~ streaming:\ [1-9] ]]
echo "as described"

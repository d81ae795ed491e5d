#!/bin/sh
# The Debian packages on a release of Debian, under a systemd of their own: install, a cluster of one host, upgrade, remove,
# purge, shut down. What must never happen is looked for after each step: data is gone, PostgreSQL was restarted, or a
# service of Debian's packages has changed.
# Usage: test-deb.sh RELEASE [PROGRAMS]
#
# PROGRAMS is a directory with the programs (by default target/debug), of this machine's build, so the release must not be
# older than this machine's. It takes root, and the root directory of debian-root.sh, of which nothing is changed. systemd
# runs in namespaces and a control group of its own; nothing is left when this ends, however it ends.
set -eu

release=${1:?usage: test-deb.sh RELEASE [PROGRAMS]}
repo=$(cd "$(dirname "$0")/.." && pwd -P)
programs=${2:-$repo/target/debug}
data=/var/lib/cellar/demo

[ "$(id -u)" = 0 ] || { echo "it takes root: a root directory, mounts and namespaces" >&2; exit 1; }
for program in unshare nsenter pivot_root; do
    command -v "$program" >/dev/null || { echo "$program is missing: install util-linux" >&2; exit 1; }
done

# Runs in the namespaces before systemd, and becomes it: a copy of the root directory becomes the root.
if [ -n "${CELLAR_BOOT:-}" ]; then
    root=$CELLAR_BOOT/root
    mount -t overlay overlay -o "lowerdir=$CELLAR_LOWER,upperdir=$CELLAR_BOOT/upper,workdir=$CELLAR_BOOT/work" "$root"
    mkdir -p "$root/packages" "$root/.outside"
    mount --bind "$CELLAR_BOOT/packages" "$root/packages"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    # PrivateDevices binds these into the sandbox.
    mkdir "$root/dev/pts"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    mkdir -m 1777 "$root/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    cd "$root"
    pivot_root . .outside
    umount -l /.outside
    ip link set lo up
    ip address add 10.77.0.1/32 dev lo
    echo '10.77.0.1 db1.test' >>/etc/hosts
    exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        "$(readlink -f /lib/systemd/systemd)" --system --log-target=journal
fi

lower=$("$repo/scripts/debian-root.sh" "$release" systemd systemd-sysv man-db)
mkdir -p "$repo/target/test-deb"
work=$(mktemp -d "$repo/target/test-deb/XXXXXX")
mkdir "$work/root" "$work/upper" "$work/work" "$work/packages"
# A control group of its own, if this machine lets us have one: what is left in it is known to be ours.
hierarchy=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$hierarchy" ] || { echo "this machine has no cgroup2 mounted, which systemd needs" >&2; exit 1; }
group=$hierarchy/cellar-test-deb-$$
mkdir "$group"
boot=
cleanup() {
    trap '' INT TERM
    [ -z "$boot" ] || kill -KILL "$boot" 2>/dev/null || true
    wait 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$group" ] || break
        sleep 0.2
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

echo "== packages of $programs"
COMPRESSION=none VERSION=0.0.9 "$repo/scripts/build-deb.sh" "$programs" "$work/packages"
COMPRESSION=none VERSION=9.0.0 "$repo/scripts/build-deb.sh" "$programs" "$work/packages"
COMPRESSION=none VERSION=9.0.0 "$repo/scripts/build-deb.sh" "$programs" "$work/again" >/dev/null
for package in "$work"/again/*; do
    cmp "$package" "$work/packages/$(basename "$package")" || { echo "FAILED: built twice, two packages" >&2; exit 1; }
done
rm -rf "$work/again"

echo "== systemd of $release"
# The shell that becomes unshare joins the group first, so that everything is in it.
CELLAR_BOOT=$work CELLAR_LOWER=$lower sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" \
    unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child --propagation private \
    sh "$0" "$release" >"$work/console" 2>&1 &
unshare=$!

fail() {
    echo "FAILED on $release: $1" >&2
    inside 'systemctl --no-pager --full status "cellar*" "etcd*"; journalctl --no-pager -b --grep "ellar|namespace" -n 60' >&2 || true
    tail -20 "$work/console" >&2
    exit 1
}
# Runs a command in the namespaces.
inside() {
    nsenter --target "$boot" --all env -i LC_ALL=C.UTF-8 HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "$1"
}
# Waits for a command to succeed, for at most a number of seconds.
within() { # SECONDS WHAT COMMAND
    end=$(($(date +%s) + $1))
    until inside "$3" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || fail "not within $1 s: $2"
        sleep 0.2
    done
}
check() { # WHAT COMMAND
    inside "$2" >/dev/null 2>&1 || fail "$1 ($2)"
}

for _ in $(seq 100); do
    boot=$(cat "/proc/$unshare/task/$unshare/children" 2>/dev/null | tr -d ' ') || boot=
    [ -z "$boot" ] || break
    sleep 0.1
done
[ -n "$boot" ] || { cat "$work/console" >&2; exit 1; }
within 60 "systemd to have started everything" 'systemctl is-system-running | grep -E "running|degraded"'

# What Debian's packages run and enable, which is none of our business.
theirs() { inside 'systemctl show -p Id,ActiveState,UnitFileState,MainPID,NRestarts etcd.service postgresql.service'; }
before=$(theirs)
untouched() {
    [ "$(theirs)" = "$before" ] || fail "services of Debian's packages have changed: $before became $(theirs)"
}
main_pid() { inside "systemctl show --value -p MainPID $1@demo.service"; }
postmaster() { inside "head -1 $data/zone1/pg_data/postmaster.pid"; }
files() { inside "cd $data && find . -path ./zone1/pg_data -prune -o -path ./log -prune -o -type f -print | grep -Ev '/(log|jobs|lock|spool|tmp|pid|etcd)/' | sort; ls zone1/pg_data/PG_VERSION etcd/data/member/snap/db"; }

echo "== install"
inside 'dpkg -i /packages/*_0.0.9_*.deb' >"$work/dpkg" 2>&1 || { cat "$work/dpkg" >&2; fail "dpkg"; }
check "the command works" 'cellar --version'
check "its manual is there" 'man --locale=C cellar-backup | grep -q "prove it"'
check "the daemons' manuals are there" 'man --locale=C multipooler | grep -q SIGTERM && man multiadmin | grep -q SIGTERM'
check "completions are there" 'test -s /usr/share/bash-completion/completions/cellar && test -s /usr/share/zsh/vendor-completions/_cellar && test -s /usr/share/fish/vendor_completions.d/cellar.fish'
check "nothing of ours runs" 'test -z "$(systemctl list-units --all --no-legend "cellar*")"'
check "nothing of ours is enabled" 'test -z "$(find /etc/systemd -name "cellar*")"'
check "the units are right" 'systemd-analyze verify --man=no cellar@demo.target cellar-etcd@demo.service cellar-multiadmin@demo.service cellar-multipooler@demo.service cellar-handover@demo.service'
untouched

echo "== a cluster of one host"
inside 'install -d -o postgres -m 750 /srv/repo
    mkdir -p /etc/systemd/system/cellar-multipooler@demo.service.d
    printf "[Service]\nWatchdogSec=8\nTimeoutAbortSec=1\n" \
        >/etc/systemd/system/cellar-multipooler@demo.service.d/test.conf
    systemctl daemon-reload
    cat >/root/cluster.toml <<END
cluster = "demo"
[database]
name = "app"
[repo]
path = "/srv/repo"
[[cells]]
name = "zone1"
host = "db1.test"
END
    cd /root && cellar cluster init --spec cluster.toml --dir /root/demo && cellar host install /root/demo/bundles/zone1.bundle' \
    >"$work/init" 2>&1 || { cat "$work/init" >&2; fail "the host is not installed"; }
check "the target is enabled and starts at once" 'timeout 10 systemctl enable --now cellar@demo.target'
inside 'cellar cluster wait --dir /root/demo --timeout 60s' >"$work/wait" 2>&1 || { cat "$work/wait" >&2; fail "the cluster does not come up"; }
for unit in etcd multiadmin multipooler; do
    within 30 "$unit to be ready" "systemctl is-active --quiet cellar-$unit@demo.service"
done
check "the host says that all runs" "cellar host status --dir $data"
check "a backup works in the sandbox" 'cellar backup --from zone1 --allow-primary --dir /root/demo'
check "a drill works in the sandbox" 'cellar drill --dir /root/demo'
first=$(postmaster)
kept=$(files)
same() {
    [ "$(postmaster)" = "$first" ] && inside "kill -0 $first" || fail "PostgreSQL was $first and is $(postmaster)"
    [ "$(files)" = "$kept" ] || fail "files are not those of before: $(files)"
}

echo "== an agent that stands still"
agent=$(main_pid cellar-multipooler)
inside "kill -STOP $agent"
within 40 "systemd to end an agent that says nothing" "test \$(systemctl show --value -p MainPID cellar-multipooler@demo.service) != $agent && systemctl is-active --quiet cellar-multipooler@demo.service"
same

echo "== upgrade"
etcd=$(main_pid cellar-etcd) admin=$(main_pid cellar-multiadmin) agent=$(main_pid cellar-multipooler)
inside 'dpkg -i /packages/*_9.0.0_*.deb' >"$work/dpkg" 2>&1 || { cat "$work/dpkg" >&2; fail "dpkg"; }
for pair in multiadmin:$admin multipooler:$agent; do
    unit=cellar-${pair%:*}
    within 40 "$unit to run the new program" "test \$(systemctl show --value -p MainPID $unit@demo.service) != ${pair#*:} && systemctl is-active --quiet $unit@demo.service"
done
[ "$(main_pid cellar-etcd)" = "$etcd" ] || fail "etcd was restarted"
same
untouched
pids() { for unit in etcd multiadmin multipooler; do main_pid "cellar-$unit"; done; }
before_upgrade=$(pids)
check "host upgrade finds what the package has restarted" "cellar host upgrade --dir $data"
[ "$(pids)" = "$before_upgrade" ] || fail "host upgrade has restarted what runs the programs in place"
# The same programs in other files, as after packages that restart nothing, Debian's of etcd among them.
inside 'for program in etcd multiadmin multipooler; do
    cp -p "/usr/bin/$program" "/usr/bin/$program.new" && mv "/usr/bin/$program.new" "/usr/bin/$program" || exit 1
done'
inside "cellar host upgrade --dir $data" >"$work/upgrade" 2>&1 || { cat "$work/upgrade" >&2; fail "host upgrade"; }
grep -q 'etcd, multiadmin, multipooler of cell zone1 started anew' "$work/upgrade" || fail "host upgrade said: $(cat "$work/upgrade")"
for pid in $before_upgrade; do
    ! inside "kill -0 $pid" 2>/dev/null || fail "process $pid runs still after host upgrade"
done
for unit in etcd multiadmin multipooler; do
    check "systemd runs the new $unit" "systemctl is-active --quiet cellar-$unit@demo.service && test /proc/$(main_pid "cellar-$unit")/exe -ef /usr/bin/$unit"
done
same
untouched

echo "== remove, purge"
inside 'dpkg -r cellar-server cellar' >"$work/dpkg" 2>&1 || { cat "$work/dpkg" >&2; fail "dpkg"; }
check "the agents have ended" 'test -z "$(systemctl list-units --no-legend --state=active "cellar-*@demo.service")"'
same
inside 'dpkg -P cellar-server cellar' >"$work/dpkg" 2>&1 || { cat "$work/dpkg" >&2; fail "dpkg"; }
check "no program is left" 'test ! -e /usr/bin/cellar && test ! -e /usr/bin/multipooler && test ! -e /usr/lib/systemd/system/cellar@.target'
same
untouched

echo "== install again, shut down"
inside 'dpkg -i /packages/*_9.0.0_*.deb' >"$work/dpkg" 2>&1 || { cat "$work/dpkg" >&2; fail "dpkg"; }
check "nothing starts by itself" 'test -z "$(systemctl list-units --no-legend --state=active "cellar-*@demo.service")"'
check "it is started" 'timeout 10 systemctl start cellar@demo.target'
within 60 "the agent to watch the PostgreSQL that runs" "cellar status --dir /root/demo | grep -Eq '^zone1 +primary +running'"
same
check "everything on the host is stopped" "cellar host stop --dir $data && test ! -e $data/zone1/pg_data/postmaster.pid"
check "and not started again" 'test -z "$(systemctl list-units --no-legend --state=active,activating "cellar-*@demo.service")"'
check "it is started again" 'timeout 10 systemctl restart cellar@demo.target'
within 60 "PostgreSQL to be started" "cellar status --dir /root/demo | grep -Eq '^zone1 +primary +running'"
inside 'systemctl poweroff' >/dev/null 2>&1 || true
for _ in $(seq 300); do
    kill -0 "$unshare" 2>/dev/null || break
    sleep 0.2
done
kill -0 "$unshare" 2>/dev/null && fail "the host does not shut down"
boot=
tail -1 "$work/upper$data/zone1/log/postgres.log" | grep -q 'database system is shut down' ||
    { tail -5 "$work/upper$data/zone1/log/postgres.log" >&2; echo "FAILED on $release: PostgreSQL was not shut down with the host" >&2; exit 1; }
echo "$release: the packages install, upgrade, remove and purge; PostgreSQL process $first lived until it was stopped"

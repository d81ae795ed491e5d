#!/bin/sh
# A three-cell cluster, a load, a proven backup of a standby, and a standby rebuilt from it.
#
#   scripts/demo.sh        bring the cluster up, or use the one that runs, and show all of it
#   scripts/demo.sh down   end the cluster and remove everything it made
#
# The cluster is called `demo` and lies in cellar's default directory, or in $CELLAR_DEMO_DIR.
# The programs are those of the release build, or those in $CELLAR_BIN_DIR. Both paths must be absolute.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cellar=${CELLAR_BIN_DIR:-$root/target/release}/cellar
# Programs that run as another user may not be allowed into the directory we were started in.
cd /

# The environment may point at another cluster (`cellar env`), which is none of our business.
unset CELLAR_DIR
dir_flag=""
if [ -n "${CELLAR_DEMO_DIR:-}" ]; then
    export CELLAR_DIR="$CELLAR_DEMO_DIR"
    dir_flag=" --dir $CELLAR_DEMO_DIR"
fi

if [ ! -x "$cellar" ]; then
    echo "$cellar is not there: build it with \`make release\`" >&2
    exit 1
fi

say() {
    printf '\n== %s\n' "$*"
}

show() { # ARGUMENT...: runs cellar, and says how
    printf '$ cellar %s\n' "$*"
    "$cellar" "$@"
}

standbys() { # one a line, in the order of their indexes
    "$cellar" status | awk '$2 == "standby" { print $1 }'
}

case "${1:-}" in
down)
    # The name is a guard: a cluster of another name in that directory is left alone.
    exec "$cellar" down --destroy --cluster demo
    ;;
'') ;;
*)
    echo "usage: $0 [down]" >&2
    exit 2
    ;;
esac

say "Three cells on this machine: zone1, zone2, zone3"
# No --cells: these three are the default, and a cluster that has got more cells since is taken as it is.
# No fixed ports: a cluster that exists keeps its own, a new one takes the first free place.
show up --cluster demo --port-offset auto

# A fresh cluster has zone2 and zone3 here; after a promotion by hand it may be others.
rebuilt=$(standbys | head -n 1)
source_cell=$(standbys | tail -n 1)
if [ -z "$source_cell" ]; then
    echo "the cluster has no standby to back up: look at \`$cellar status$dir_flag\`" >&2
    exit 1
fi

say "Some load on the primary"
# PostgreSQL lets in the OS user that runs it and nobody else, not even root.
show exec --as-os-user -- pgbench -i -q -s 5
show exec --as-os-user -- pgbench -n -c 2 -T 3

say "A backup of the standby in $source_cell, and of no other"
show backup --from "$source_cell"

say "The proof is in pgBackRest's own log: local paths come from $source_cell, paths with a host from the primary"
job=$("$cellar" jobs list --limit 1 | awk 'NR == 2 { print $1 }')
printf '$ cellar jobs logs %s | grep "backup file"\n' "$job"
copied=$("$cellar" jobs logs "$job" | sed -n 's/.*DETAIL: //; s/ checksum .*//; /^backup file /p')
local_files=$(printf '%s\n' "$copied" | grep -c '^backup file /') || true
printf '%s\n' "$copied" | sed -n '/^backup file \//p' | sed -n 1,3p
echo "... $local_files files like these, and from the primary:"
printf '%s\n' "$copied" | sed '/^backup file \//d'

say "What the repository holds"
show backups list

say "The standby in $rebuilt, rebuilt from the repository"
show rebuild "$rebuilt"

say "How the cluster is now"
# A pooler writes its status at most once a second, so the newest news may still be on their way.
tries=0
until "$cellar" doctor >/dev/null 2>&1 || [ "$tries" -ge 20 ]; do
    tries=$((tries + 1))
    sleep 1
done
show status

cat <<END

The cluster goes on running. Next:
  alias cellar='$cellar$dir_flag'
  cellar status --watch
  cellar exec --as-os-user -- psql            a shell on the primary
  cellar backup --from $source_cell --type full
  cellar cells add zone4
  cellar --help
  make down                                   end it and remove its data
END

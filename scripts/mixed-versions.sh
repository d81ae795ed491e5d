#!/bin/sh
# A tour of backup and restore in clusters of two builds: a newer multiadmin with older multipoolers, and the
# other way round. Usage: mixed-versions.sh OLDER_DIR NEWER_DIR, each with cellar, multiadmin and multipooler.
set -eu

older=${1:?usage: mixed-versions.sh OLDER_DIR NEWER_DIR}
newer=${2:?usage: mixed-versions.sh OLDER_DIR NEWER_DIR}
work=$(mktemp -d /tmp/cellar-mixed.XXXXXX)
chmod 755 "$work"
CELLAR_DIR=$work/cluster
export CELLAR_DIR

down() { "$work/programs/cellar" down --destroy >/dev/null 2>&1 || true; }
trap 'down; rm -rf "$work"' EXIT INT TERM

# The programs that `cellar` starts lie beside it.
programs() { # CELLAR MULTIADMIN MULTIPOOLER
    rm -rf "$work/programs"
    mkdir -p "$work/programs"
    cp "$1/cellar" "$2/multiadmin" "$3/multipooler" "$work/programs/"
    chmod 755 "$work/programs" "$work"/programs/*
}

step() {
    echo "-- cellar $*"
    "$work/programs/cellar" "$@"
}

tour() {
    step up --cells zone1,zone2,zone3 --port-offset auto
    step backup --from zone2 --type full
    step backup --from zone3 --type incr
    step backups list
    # Not through a pipe, whose status would be another program's.
    step restore --latest --yes > "$work/restored" || { cat "$work/restored"; exit 1; }
    cat "$work/restored"
    step backup --from zone2 --type full
    # The command says how to undo it.
    step restore rollback "$(sed -n 's/.*cellar restore rollback \([0-9a-f-]*\).*/\1/p' "$work/restored")" --yes
    step drill --on zone3
    step verify
    step check
    step expire --yes
    step status
    step down --destroy
}

echo "== newer cellar and multiadmin, older multipoolers"
programs "$newer" "$newer" "$older"
tour
echo "== older cellar and multiadmin, newer multipoolers"
programs "$older" "$older" "$newer"
tour
echo "mixed clusters: both tours passed"

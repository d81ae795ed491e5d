#!/bin/sh
# Builds the programs of the last release, which `make test-last-release` runs beside those of now, and keeps them in
# target/last-release. Usage: last-release.sh COMMIT
set -eu

commit=${1:?usage: last-release.sh COMMIT}
repo=$(cd "$(dirname "$0")/.." && pwd -P)
kept=$repo/target/last-release/$commit
[ ! -x "$kept/multipooler" ] || exit 0
cd "$repo"
git cat-file -e "$commit^{commit}" 2>/dev/null || {
    echo "commit $commit, the last release, is not in this clone: git fetch --unshallow" >&2
    exit 1
}
mkdir -p "$repo/target"
source=$(mktemp -d "$repo/target/last-release.XXXXXX")
trap 'rm -rf "$source"; git worktree prune' EXIT
trap 'exit 130' INT TERM
git worktree add --quiet --detach --force "$source" "$commit"
# In our own target directory, since most of the crates that it depends on are the same there. Our own programs are put
# in their place again by the next build.
CARGO_TARGET_DIR=$repo/target ${CARGO:-cargo} build --locked --quiet --workspace --bins \
    --manifest-path "$source/Cargo.toml"
mkdir -p "$kept.new"
for program in cellar multiadmin multipooler; do
    mv "target/debug/$program" "$kept.new/"
done
mv "$kept.new" "$kept"

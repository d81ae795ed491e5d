#!/bin/sh
# Builds the Debian packages cellar and cellar-server from programs that are built already. It needs no network, and the
# same programs and sources give the same packages, byte for byte.
# Usage: build-deb.sh PROGRAMS OUT
#
# PROGRAMS is a directory with cellar, multiadmin and multipooler, such as target/release; OUT is where the packages go.
# Variables: VERSION (default: the workspace's), SOURCE_DATE_EPOCH (default: that of the last commit), MAINTAINER,
# COMPRESSION (default: xz; none is quick, for tests).
set -eu
umask 022
export LC_ALL=C

programs=${1:?usage: build-deb.sh PROGRAMS OUT}
out=${2:?usage: build-deb.sh PROGRAMS OUT}
repo=$(cd "$(dirname "$0")/.." && pwd -P)
for program in dpkg-deb objdump gzip; do
    command -v "$program" >/dev/null || { echo "$program is missing: install dpkg, binutils and gzip" >&2; exit 1; }
done
for program in cellar multiadmin multipooler; do
    [ -x "$programs/$program" ] || { echo "$programs/$program is not there: build it first (make release)" >&2; exit 1; }
done
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml")}
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$repo" log -1 --format=%ct)}
maintainer=${MAINTAINER:-The maintainers of Cellar <maintainers@cellar.invalid>}
architecture=$(dpkg --print-architecture)
export SOURCE_DATE_EPOCH="$epoch"

mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The newest version of libc that one of the programs asks for.
libc() { # PROGRAM...
    objdump -T "$@" | sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\)).*/\1/p' | sort -uV | tail -1
}

install_documents() { # ROOT PACKAGE
    documents=$1/usr/share/doc/$2
    mkdir -p "$documents"
    install -m 644 "$repo/packaging/deb/copyright" "$documents/copyright"
    if [ -e "$repo/packaging/deb/$2.lintian-overrides" ]; then
        install -D -m 644 "$repo/packaging/deb/$2.lintian-overrides" "$1/usr/share/lintian/overrides/$2"
    fi
    printf 'cellar (%s) unstable; urgency=medium\n\n  * See the history of the repository.\n\n -- %s  %s\n' \
        "$version" "$maintainer" "$(date -u -R -d "@$epoch")" | gzip -9n >"$documents/changelog.gz"
}

# Puts the package together: control files, checksums, times.
pack() { # ROOT PACKAGE PROGRAM...
    root=$1
    package=$2
    shift 2
    find "$root" -path '*/man/*' -type f -exec gzip -9n {} +
    size=$(du -k -s --apparent-size "$root" | cut -f1)
    mkdir "$root/DEBIAN"
    sed "s|@VERSION@|$version|g; s|@ARCHITECTURE@|$architecture|; s|@MAINTAINER@|$maintainer|; s|@SIZE@|$size|; s|@LIBC@|$(libc "$@")|" \
        "$repo/packaging/deb/$package.control" >"$root/DEBIAN/control"
    for script in postinst prerm postrm; do
        [ ! -e "$repo/packaging/deb/$package.$script" ] ||
            install -m 755 "$repo/packaging/deb/$package.$script" "$root/DEBIAN/$script"
    done
    (cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    find "$root" -exec touch -h -d "@$epoch" {} +
    dpkg-deb --root-owner-group --threads-max=1 -Z"${COMPRESSION:-xz}" --build "$root" \
        "$out/${package}_${version}_$architecture.deb" >/dev/null
    echo "$out/${package}_${version}_$architecture.deb"
}

root=$work/cellar
share=$root/usr/share
mkdir -p "$root/usr/bin" "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/vendor-completions" \
    "$share/fish/vendor_completions.d"
install -m 755 "$programs/cellar" "$root/usr/bin"
"$programs/cellar" manual --out "$share/man/man1"
"$programs/cellar" completions bash >"$share/bash-completion/completions/cellar"
"$programs/cellar" completions zsh >"$share/zsh/vendor-completions/_cellar"
"$programs/cellar" completions fish >"$share/fish/vendor_completions.d/cellar.fish"
install_documents "$root" cellar
(cd "$repo" && find docs -name '*.md' -type f) | sed 's|^docs/||' | while read -r page; do
    install -D -m 644 "$repo/docs/$page" "$share/doc/cellar/$page"
done
# Not those that only build or test it.
(cd "$repo" && cargo tree --offline --locked --workspace --exclude cellar-tests --exclude cellar-sim --edges normal \
    --prefix none --format '{p} {l}') | grep -v '^cellar-' | sed 's/ (\*)$//; s/ (proc-macro)//' | sort -u >"$share/doc/cellar/libraries.txt"
pack "$root" cellar "$programs/cellar"

root=$work/cellar-server
mkdir -p "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/usr/share/man/man8" "$root/var/lib/cellar"
install -m 755 "$programs/multiadmin" "$programs/multipooler" "$root/usr/bin"
install -m 644 "$repo"/packaging/systemd/* "$root/usr/lib/systemd/system"
install -m 644 "$repo"/packaging/man/*.8 "$root/usr/share/man/man8"
install_documents "$root" cellar-server
pack "$root" cellar-server "$programs/multiadmin" "$programs/multipooler"

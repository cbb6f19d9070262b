#!/bin/bash
# Builds QEMU's own ivshmem-server and ivshmem-client, unchanged, from the source package of the Debian
# release this runs on, and prints the directory that holds them. Debian packages neither program.
#
# The result lives outside the repository, in ${FAMEZD_CACHE:-$HOME/.cache/famezd}/stock, keyed by the
# source's version: these programs are QEMU's, under its licence. Remove that directory to build anew.
# Needs the network the first time only; says what it does on stderr.
set -euo pipefail

CACHE=$(realpath -m "${FAMEZD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/famezd}/stock")
readonly CACHE
readonly PROGRAMS=(ivshmem-server ivshmem-client)
# What configure insists on, even with every feature off, besides the tools to unpack and compile.
readonly NEEDS=(dpkg-dev gcc libc6-dev libglib2.0-dev meson ninja-build pkg-config python3 python3-venv zlib1g-dev)
readonly ATTEMPTS=3

say() { printf 'stock: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# A mirror that is being updated, or a network that drops out, is the usual failure: worth another go.
persist() {
    local attempt
    for ((attempt = 1; attempt < ATTEMPTS; attempt++)); do
        "$@" >&2 && return
        say "attempt $attempt of $ATTEMPTS failed: $*"
        sleep $((attempt * 2))
    done
    "$@" >&2
}

# One link per release and architecture says what was built for it, so that a home directory shared
# between machines serves each its own, and so that a later call asks nobody for the version.
link_of_this_release() (
    # shellcheck source=/dev/null
    . /etc/os-release
    printf '%s/%s-%s-%s\n' "$CACHE" "${ID:-unknown}" "${VERSION_ID:-${VERSION_CODENAME:-unknown}}" "$(uname -m)"
)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "$@" >&2
}

install_needs() {
    local package missing=()
    for package in "${NEEDS[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    # apt-get itself is the lock, shared by every user with whatever else installs for these tests.
    exec 8</usr/bin/apt-get
    flock 8
    install_packages "${missing[@]}" \
        || { as_root apt-get -q update >&2 && install_packages "${missing[@]}"; } \
        || fail "cannot install the packages that the build needs: as root, run: apt-get install ${missing[*]}"
    exec 8<&-
}

# Debian's own archives, as this system names them, but for sources. Other vendors' archives and
# backports are left out: a newer QEMU there would not be this release's.
source_archives() {
    local list parts
    eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
    mkdir "$1"
    cat "$list" "$parts"*.list 2>/dev/null \
        | sed -nE '/-backports/d; s/^[[:space:]]*deb(-src)?[[:space:]]+(.*\/debian)/deb-src \2/p' \
        | sort -u >"$1/debian.list" || true
    cat_paragraphs "$parts"*.sources | awk '
        BEGIN { RS = ""; ORS = "\n\n" }
        !/(^|\n)URIs:([^\n]|\n[ \t])*\/debian/ { next }
        { gsub(/[^ \t\n]+-backports[^ \t\n]*/, ""); sub(/(^|\n)Types:[^\n]*/, "\nTypes: deb-src"); sub(/^\n/, "") }
        /(^|\n)Suites:[ \t]*[^ \t\n]/' >"$1/debian.sources"
    [ -s "$1/debian.list" ] || [ -s "$1/debian.sources" ] \
        || fail "no Debian archive among apt's sources ($list, $parts)"
}

# A file need not end in an empty line, nor even in a whole one, and only that parts paragraphs.
cat_paragraphs() {
    local file
    for file in "$@"; do
        [ ! -f "$file" ] || { cat "$file" && printf '\n\n'; }
    done
}

# apt with its lists and caches in directory $1, leaving the system's configuration and lists alone.
private_apt() {
    local where=$1
    shift
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$where/sources" \
        -o Dir::State::lists="$where/lists" -o Dir::Cache="$where/cache" \
        -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::Languages=none "$@"
}

fetch_source() {
    local work=$1
    source_archives "$work/sources"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/package"
    # One archive out of reach (updates, security) does not matter as long as the source is found.
    persist private_apt "$work" update || say "apt-get update failed: trying with what it got"
    cd "$work/package"
    persist private_apt "$work" source --download-only qemu || fail "cannot fetch the source of qemu"
    # apt has checked the signature of the .dsc by the archive's key, and every file's sum.
    dpkg-source --no-check -x ./*.dsc "$work/qemu" >&2 || fail "cannot unpack the source of qemu"
}

# QEMU with everything off but "tools", without which it leaves out contrib/; then only the two
# programs and what they link. The compiler options are QEMU's own.
compile() {
    local work=$1 program targets=()
    mkdir "$work/build"
    cd "$work/build"
    ../qemu/configure --without-default-features --enable-tools --disable-system --disable-user \
        --disable-docs --disable-install-blobs --disable-werror >configure.log 2>&1 || fail "configure: $(tail -n 20 configure.log)"
    for program in "${PROGRAMS[@]}"; do
        targets+=("contrib/$program/$program")
    done
    ninja "${targets[@]}" >ninja.log 2>&1 || fail "ninja: $(tail -n 20 ninja.log)"
    mkdir "$work/programs"
    cp "${targets[@]}" "$work/programs"
}

build() {
    local link=$1 work version kept
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    [ ! -e "$link" ] || return 0 # another process built it while this one waited
    # Under the lock, an unfinished build is one that was killed.
    rm -rf "$CACHE"/unfinished.*
    work=$(mktemp -d "$CACHE/unfinished.XXXXXX")
    # shellcheck disable=SC2064 # the directory of now, not a variable that is gone by then
    trap "rm -rf '$work'" EXIT
    install_needs
    (fetch_source "$work")
    version=$(cd "$work/qemu" && dpkg-parsechangelog -S Version)
    say "building ${PROGRAMS[*]} of qemu $version"
    (compile "$work")
    kept="qemu-${version#*:}-$(uname -m)"
    [ -e "$CACHE/$kept" ] || mv -T "$work/programs" "$CACHE/$kept"
    ln -s "$kept" "$work/link"
    mv -T "$work/link" "$link"
}

main() {
    local link
    # A pyenv, a venv or a cross compiler in front of the system's own would be built with instead.
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    link=$(link_of_this_release)
    [ -e "$link" ] || build "$link"
    readlink -f "$link"
}

main "$@"

#!/usr/bin/env bash
# Builds the Debian package from an sdist: packaging/deb.sh SDIST BUILD OUTPUT
#
# BUILD is a directory to build in, which is made anew; the package goes to the directory OUTPUT. Two builds from one
# sdist with the same tools have the same bytes. As root, or with sudo, it installs what the build needs.
set -euo pipefail
sdist=$(realpath "$1") output=$(realpath -m "$3")
as_root=$([ "$(id -u)" = 0 ] || echo sudo)
# A python3 of another origin would not have Debian's modules.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

rm -rf "$2"
mkdir -p "$2/famezd" "$output"
cd "$2/famezd"
tar --extract --gzip --strip-components=1 --file "$sdist"
cp -r packaging/debian debian

apt_get() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends "$@"
}
if ! dpkg-query --show dpkg-dev python3-pip >/dev/null 2>&1 || ! dpkg-checkbuilddeps 2>/dev/null; then
    # apt-get itself is the lock, shared with whatever else installs for famezd's tests.
    exec 8</usr/bin/apt-get
    flock 8
    apt_get update
    apt_get install dpkg-dev python3-pip
    apt_get build-dep ./
    exec 8<&-
fi

# There is no network while a package is built.
python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --platform "manylinux2014_$(uname -m)" \
    --dest debian/bundled --requirement debian/bundled.txt

SOURCE_DATE_EPOCH=$(dpkg-parsechangelog --show-field Timestamp)
export SOURCE_DATE_EPOCH
# What is older than that would keep its date, which is that of a checkout.
find . -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-buildpackage --build=binary --unsigned-changes --unsigned-buildinfo
mv ../famezd_*.deb "$output"

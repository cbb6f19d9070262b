#!/usr/bin/env bash
# Builds the rpm from an sdist: packaging/rpm.sh SDIST BUILD OUTPUT
#
# BUILD is a directory to build in, which is made anew; the package goes to the directory OUTPUT. Two builds from one
# sdist with the same tools have the same bytes. On Debian it installs, as root or with sudo, what the build needs.
set -euo pipefail
sdist=$(realpath "$1") build=$(realpath -m "$2") output=$(realpath -m "$3")
as_root=$([ "$(id -u)" = 0 ] || echo sudo)
# The distribution's python3 is the one that famezd will run with.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
without_database=()

if command -v apt-get >/dev/null; then
    tools=(python3-pip python3-setuptools python3-wheel rpm)
    dpkg-query --show "${tools[@]}" >/dev/null 2>&1 || {
        # apt-get itself is the lock, shared with whatever else installs for famezd's tests.
        exec 8</usr/bin/apt-get
        flock 8
        $as_root apt-get -q update
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "${tools[@]}"
        exec 8<&-
    }
    # In which Debian's packages are not.
    without_database=(--nodeps)
fi

rm -rf "$build"
mkdir -p "$build" "$output"
tar --extract --gzip --strip-components=1 --directory "$build" --file "$sdist" --wildcards '*/packaging/rpm/famezd.spec'
rpmbuild -bb "${without_database[@]}" \
    --define "_topdir $build" --define "_sourcedir $(dirname "$sdist")" \
    --define "_buildhost localhost" --define "source_date_epoch_from_changelog 1" \
    --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    "$build/packaging/rpm/famezd.spec"
mv "$build"/RPMS/noarch/famezd-*.rpm "$output"

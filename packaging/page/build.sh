#!/bin/sh
# Makes the page's library, famezd/page/d3.js, and its licences of what package-lock.json names; needs npm.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
page=$here/../../famezd/page
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$here/library.js" "$work"
cd "$work"
npm ci --no-audit --no-fund --ignore-scripts
node_modules/.bin/esbuild library.js --bundle --minify --format=esm --target=es2022 --legal-comments=none \
    --banner:js="/* D3, https://d3js.org, ISC licence: see d3.LICENSE */" --outfile="$page/d3.js"
for package in node_modules/d3-* node_modules/internmap; do
    printf '%s %s\n\n' "$(basename "$package")" "$(node -p "require('./$package/package.json').version")"
    cat "$package/LICENSE"
    echo
done > "$page/d3.LICENSE"

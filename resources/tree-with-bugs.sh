#!/usr/bin/env bash
# Makes a copy of the tree with the bugs of all patches of a folder: tree-with-bugs.sh PATCHES COPY.
# Only files that differ are replaced, so that Cargo builds no more than it must.
set -euo pipefail
cd "$(dirname "$0")/.."
patches=$(realpath "$1")
copy=$(realpath -m "$2")

rm -rf "$copy.new"
mkdir -p "$copy.new" "$copy"
tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$copy.new"
for patch in "$patches"/*.patch; do
	# The copy may be below a repository, which is not its own.
	(cd "$copy.new" && GIT_CEILING_DIRECTORIES=$(dirname "$copy") git apply "$patch")
done
(cd "$copy" && find . -type f) | while read -r file; do
	[ -f "$copy.new/$file" ] || rm "$copy/$file"
done
(cd "$copy.new" && find . -type f) | while read -r file; do
	cmp -s "$copy.new/$file" "$copy/$file" || install -D "$copy.new/$file" "$copy/$file"
done
rm -rf "$copy.new"

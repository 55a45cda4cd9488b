#!/usr/bin/env bash
# Makes the release of the last commit twice, from clones in two folders, with two target folders,
# numbers of jobs, users' settings and moments, and compares all bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

one() { # one FOLDER JOBS TIMEZONE LANGUAGE MASK
	echo "a release from $work/$1, with $2 jobs"
	mkdir -p "$work/$1"
	ln -s "${CARGO_HOME:-$HOME/.cargo}" "$work/$1/cargo"
	(umask "$5" && git clone --quiet "$tree" "$work/$1/tree" && cd "$work/$1/tree" &&
		CARGO_HOME=$work/$1/cargo CARGO_TARGET_DIR=$work/$1/built CARGO_BUILD_JOBS=$2 TZ=$3 \
			LC_ALL=$4 SIGN='' resources/package/release.sh "$work/$1/files") \
		>"$work/log" 2>&1 || {
		cat "$work/log" >&2
		exit 1
	}
}

one first 1 UTC C 022
one a/second/with/a/longer/name 2 Asia/Tokyo C.UTF-8 077
cmp "$work/first/files/SHA256SUMS" "$work/a/second/with/a/longer/name/files/SHA256SUMS"
(cd "$work/a/second/with/a/longer/name/files" && sha256sum --check SHA256SUMS)
echo "the two releases have the same bytes"

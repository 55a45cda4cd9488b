#!/usr/bin/env bash
# Shows that each fuzz target, or each of those named, finds a bug within a minute. A copy of the
# tree gets the bugs of all patches in tests/fuzz/seeded; the line `found:` of a patch is what the
# target of that name must say when it fails. A target begins with the corpus of the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/fuzz/common.sh

limit=60
jobs=${FUZZ_JOBS:-$(nproc)}
dir=$(realpath -m "${CARGO_TARGET_DIR:-target}/fuzz")
copy=$dir/seeded/tree
targets=("$@")
[ ${#targets[@]} != 0 ] || mapfile -t targets < <(all_targets)

rm -rf "$dir/seeded/corpus"
resources/tree-with-bugs.sh tests/fuzz/seeded "$copy"
# Its own folder: Cargo takes two copies of a workspace for one.
(cd "$copy" && build_targets "$dir/seeded/target" "$dir/seeded/programs")

one() {
	local target=$1 log=$dir/seeded/$1.log corpus=$dir/seeded/corpus/$1 text begun=$SECONDS
	mkdir -p "$corpus"
	text=$(sed -n 's/^found: //p' "tests/fuzz/seeded/$target.patch")
	if [ -z "$text" ]; then
		echo "error: tests/fuzz/seeded/$target.patch has no line found:"
		return 1
	fi
	if "$dir/seeded/programs/$target" -max_total_time="$limit" "${limits[@]}" \
		-artifact_prefix="$dir/seeded/$target-" \
		"$corpus" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
		echo "error: $target has not found its bug in $limit s and $(executions "$log") executions"
		return 1
	fi
	if ! grep -qF -- "$text" "$log"; then
		tail -n 40 "$log"
		echo "error: $target failed, but not by its bug (\"$text\"); all of its output is in $log"
		return 1
	fi
	printf '  %-14s found its bug after %2d s, %9d executions\n' "$target" "$((SECONDS - begun))" \
		"$(executions "$log")"
}

echo "looking for ${#targets[@]} seeded bugs, each for at most $limit s"
each "$jobs" "${targets[@]}"

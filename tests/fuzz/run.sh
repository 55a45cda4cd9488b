#!/usr/bin/env bash
# Runs every fuzz target, or those named, for FUZZ_SECONDS each (default 600), FUZZ_JOBS at once
# (default: one for each processor), and prints the executions and the covered edges of each. The
# inputs in tests/fuzz/corpus come first. Inputs that reach new code are kept in target/fuzz/corpus,
# and those that fail in target/fuzz/failures.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/fuzz/common.sh

seconds=${FUZZ_SECONDS:-600}
jobs=${FUZZ_JOBS:-$(nproc)}
dir=${CARGO_TARGET_DIR:-target}/fuzz
targets=("$@")
[ ${#targets[@]} != 0 ] || mapfile -t targets < <(all_targets)

one() {
	local target=$1 log=$dir/$1.log corpus=$dir/corpus/$1
	mkdir -p "$corpus"
	if ! "$dir/programs/$target" -max_total_time="$seconds" "${limits[@]}" \
		-artifact_prefix="$dir/failures/$target-" \
		"$corpus" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
		tail -n 40 "$log"
		echo "error: $target failed; all of its output is in $log"
		return 1
	fi
	printf '  %-14s %10d executions, %5d edges\n' "$target" "$(executions "$log")" \
		"$(awk '/ cov: / { cov = $4 } END { print cov + 0 }' "$log")"
}

build_targets "$dir" "$dir/programs"
mkdir -p "$dir/failures"
echo "fuzzing ${#targets[@]} targets for $seconds s each, $jobs at once"
each "$jobs" "${targets[@]}"

#!/usr/bin/env bash
# Runs every fuzz target, or those named, for FUZZ_SECONDS each (default 600). Inputs that reach new
# code are kept in target/fuzz/corpus, and those that fail in target/fuzz/failures.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${FUZZ_SECONDS:-600}
triple=x86_64-unknown-linux-gnu
dir=${CARGO_TARGET_DIR:-target}/fuzz
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
	for file in tests/fuzz/targets/*.rs; do
		name=$(basename "$file" .rs)
		[ "$name" = access ] || targets+=("$name")
	done
fi

# LLVM's coverage of edges and comparisons (clang's SanitizerCoverage documentation), which guides
# libFuzzer; the stable compiler has all of it. With --target, build scripts are not instrumented.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --quiet --profile fuzz --target "$triple" --target-dir "$dir" --package fuzz

for target in "${targets[@]}"; do
	mkdir -p "$dir/corpus/$target" "$dir/failures"
	log=$dir/$target.log
	echo "fuzzing $target for $seconds s"
	if ! "$dir/$triple/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 \
		-rss_limit_mb=2048 \
		-max_len=4096 -print_final_stats=1 -artifact_prefix="$dir/failures/$target-" \
		"$dir/corpus/$target" >"$log" 2>&1; then
		tail -n 40 "$log"
		echo "error: $target failed; all of its output is in $log"
		exit 1
	fi
	awk '/stat::number_of_executed_units/ { n = $2 }
		/DONE +cov:/ { cov = $4 }
		END { print "  " n " inputs, " cov " edges covered" }' "$log"
done

# What run.sh and seeded.sh share.
# shellcheck shell=bash

triple=x86_64-unknown-linux-gnu

# No input may take ten seconds, 2 GiB of memory, or more than 4 KiB of its own.
# shellcheck disable=SC2034 # The scripts use it.
limits=(-timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1)

# The names of all targets: their files, without the one that they share.
all_targets() {
	local file name
	for file in tests/fuzz/targets/*.rs; do
		name=$(basename "$file" .rs)
		[ "$name" = access ] || echo "$name"
	done
}

# Builds all targets of the tree in the working directory, with this folder for Cargo, and links the
# programs into another one. LLVM's coverage of edges and comparisons (clang's SanitizerCoverage
# documentation) guides libFuzzer; the stable compiler has all of it. With --target, build scripts
# are not instrumented.
build_targets() {
	local cargo=$1 programs=$2 target
	RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
		cargo build --quiet --profile fuzz --target "$triple" --target-dir "$cargo" --package fuzz
	mkdir -p "$programs"
	for target in $(all_targets); do
		ln -f "$cargo/$triple/fuzz/fuzz_$target" "$programs/$target"
	done
}

# Runs `one TARGET` for each, some at once. Fails if one has failed.
each() {
	local jobs=$1 failed=0 running=0 target
	shift
	for target; do
		if [ "$running" -ge "$jobs" ]; then
			wait -n || failed=1
			running=$((running - 1))
		fi
		one "$target" &
		running=$((running + 1))
	done
	while [ "$running" -gt 0 ]; do
		wait -n || failed=1
		running=$((running - 1))
	done
	return "$failed"
}

# The number of inputs that a run of libFuzzer has tried, by its log.
executions() {
	awk '/stat::number_of_executed_units/ { n = $2 } END { print n + 0 }' "$1"
}

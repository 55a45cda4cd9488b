#!/usr/bin/env bash
# Shows that a soak finds what is lost. A copy of the tree gets the leaks of all patches in
# integration/seeded, and a short soak runs its mini-vmm; the line `found:` of each patch is what
# the soak must say is lost.
set -euo pipefail
cd "$(dirname "$0")/.."

triple=x86_64-unknown-linux-gnu
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
copy=$target/soak-seeded/tree
log=$target/soak-seeded/log

resources/tree-with-bugs.sh integration/seeded "$copy"
echo "building a mini-vmm that leaks"
(cd "$copy" && RUSTFLAGS='-C target-feature=+crt-static' cargo build --quiet --release \
	--target "$triple" --target-dir "$target/soak-seeded/target" \
	--config profile.release.lto=false --package mini-vmm --bin mini-vmm)

export MINI_VMM_BIN=$target/soak-seeded/target/$triple/release/mini-vmm
if cargo run --quiet --package lab --bin soak -- "${SECONDS_OF_SOAK:-45}" 1 2>&1 | tee "$log"; then
	echo "error: a soak of a mini-vmm that leaks has lost nothing"
	exit 1
fi
for patch in integration/seeded/*.patch; do
	text=$(sed -n 's/^found: //p' "$patch")
	if ! grep -qF -- "  $text" "$log"; then
		echo "error: the soak has not found the leak of $patch (\"$text\")"
		exit 1
	fi
	echo "found: $(basename "$patch" .patch)"
done

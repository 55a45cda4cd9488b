#!/usr/bin/env bash
# Makes all files of a release: release.sh OUTPUT. The bytes depend on the commit and on the
# toolchain, not on the folder, the time, the user or the number of jobs. SIGN=KEY signs the
# checksums with that key of gpg. CARGO_TARGET_DIR and CARGO_BUILD_JOBS do what they do for cargo.
set -euo pipefail
# The order of lists.
export LC_ALL=C
mkdir -p "$1"
output=$(realpath "$1")
cd -P "$(dirname "$0")/../.."

fail() { # fail WHAT HINT
	echo "error: $1" >&2
	echo "hint: $2" >&2
	exit 1
}

[[ -z $(git status --porcelain) ]] ||
	fail "the tree has changes that no commit has" "commit or stash them: git status"
[[ -z $(ls -A "$output") ]] || fail "$output is not empty" "name a new folder"
command -v cargo-cyclonedx >/dev/null ||
	fail "cargo-cyclonedx is not installed, which lists what the programs are made of" \
		"cargo install --locked cargo-cyclonedx"

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
target=x86_64-unknown-linux-gnu
built=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")/release-build
cargo_home=${CARGO_HOME:-$HOME/.cargo}

# Messages of panics name source files: they must not name this machine's folders. The last prefix
# that fits counts.
remap=--remap-path-prefix
flags=("$remap=$PWD=/mini-vmm" "$remap=$(realpath "$cargo_home")=/cargo"
	"$remap=$cargo_home=/cargo" "$remap=$built=/target")
build() { # build TARGET_DIR FLAG...: the release programs, with these flags of rustc
	local folder=$1
	shift
	CARGO_TARGET_DIR=$folder CARGO_ENCODED_RUSTFLAGS=$(
		IFS=$'\x1f'
		echo "${flags[*]}${1:+$'\x1f'$*}"
	) cargo build --locked --release --target "$target" \
		--package mini-vmm --package mini-vmm-bench
}

echo "building the static programs"
build "$built/static" -C target-feature=+crt-static
echo "building the programs of the Debian package"
build "$built/dynamic"
static=$built/static/$target/release
dynamic=$built/dynamic/$target/release

for program in mini-vmm mini-vmm-trace mini-vmm-bench; do
	install -m 755 "$static/$program" "$output/$program"
done
rm -rf "$built/man"
CARGO_TARGET_DIR=$built/man-program cargo run --locked --quiet --package mini-vmm --example man -- \
	"$built/man"
resources/package/deb.sh "$dynamic" "$built/man" "$output"
resources/package/image.sh "$output" "$output"

echo "$version" >"$output/VERSION"
# The changes of this version, and those that no version has yet.
awk -v head="## $version" \
	'index($0, "## ") == 1 { on = $0 == "## Unreleased" || index($0, head) == 1 } on' \
	CHANGELOG.md >"$output/CHANGES.md"
[[ -s $output/CHANGES.md ]] || fail "CHANGELOG.md has no section $version" "write the section"

# What the programs are made of, from Cargo.lock, as CycloneDX. The tool writes a file beside the
# manifest of each package of the workspace, and names packages of the workspace by their folders.
name=mini-vmm-$version.cdx
trap 'find . -name "$name.json" -not -path "./target/*" -delete' EXIT
for package in mini-vmm mini-vmm-bench; do
	folder=.
	[[ $package = mini-vmm ]] || folder=src/bench
	cargo cyclonedx --quiet --manifest-path "$folder/Cargo.toml" --format json \
		--spec-version 1.5 --target "$target" --override-filename "$name"
	list=$output/$package-$version.cdx.json
	text=$(<"$folder/$name.json")
	printf '%s\n' "${text//"file://$PWD"/"file:///mini-vmm"}" >"$list"
	if grep -qF -- "$PWD/" "$list"; then
		fail "$list names this folder" "look at the names of packages in the file"
	fi
done

(cd "$output" && sha256sum -- * >SHA256SUMS)
if [[ -n ${SIGN-} ]]; then
	gpg --batch --armor --local-user "$SIGN" --detach-sign "$output/SHA256SUMS"
else
	echo "the checksums are not signed: SIGN=KEY make release signs them with gpg's KEY"
fi
echo "$output"

#!/usr/bin/env bash
# Makes a container image of the static programs and of nothing else: image.sh PROGRAMS OUTPUT, two
# folders. The image is an archive of the OCI image layout 1.0.0, which podman and containerd load.
# The bytes of the archive depend on the programs and on the source tree alone.
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
programs=$(realpath "$1")
mkdir -p "$2"
output=$(realpath "$2")
cd "$(dirname "$0")/../.."

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The time of the last commit, so that two images are alike.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# alike TAR FOLDER: an archive without anything of this machine, this user or this moment.
alike() {
	tar --create --file "$1" --directory "$2" --sort=name --format=ustar \
		--owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" .
}

mkdir -p "$work/root/bin" "$work/layout/blobs/sha256"
for program in mini-vmm mini-vmm-trace mini-vmm-bench; do
	# A program that needs a library cannot start: the image has none.
	headers=$(readelf --program-headers --wide "$programs/$program")
	if [[ $headers = *INTERP* ]]; then
		echo "error: $programs/$program is not static" >&2
		echo "hint: make build makes static programs" >&2
		exit 1
	fi
	install -m 755 "$programs/$program" "$work/root/bin/$program"
done
alike "$work/layer" "$work/root"

# blob FILE: moves a file to where its digest names it, and prints digest and size as JSON members.
blob() {
	local digest size
	digest=$(sha256sum "$1" | cut -d' ' -f1)
	size=$(stat --format=%s "$1")
	mv "$1" "$work/layout/blobs/sha256/$digest"
	printf '"digest": "sha256:%s", "size": %s' "$digest" "$size"
}

created=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
layer=$(blob "$work/layer")
diff_id=$(sed 's/.*"\(sha256:[0-9a-f]*\)".*/\1/' <<<"$layer")
# The layer is not compressed, so the digest of its contents (diff_id) is that of the blob.
cat >"$work/config" <<-EOF
	{
	  "created": "$created", "architecture": "amd64", "os": "linux",
	  "config": {
	    "Entrypoint": ["/bin/mini-vmm"], "Env": ["PATH=/bin"],
	    "Labels": { "org.opencontainers.image.version": "$version" }
	  },
	  "rootfs": { "type": "layers", "diff_ids": ["$diff_id"] },
	  "history": [{ "created": "$created", "created_by": "resources/package/image.sh" }]
	}
EOF
config=$(blob "$work/config")
type=application/vnd.oci.image
cat >"$work/manifest" <<-EOF
	{
	  "schemaVersion": 2, "mediaType": "$type.manifest.v1+json",
	  "config": { "mediaType": "$type.config.v1+json", $config },
	  "layers": [{ "mediaType": "$type.layer.v1.tar", $layer }]
	}
EOF
manifest=$(blob "$work/manifest")
echo '{ "imageLayoutVersion": "1.0.0" }' >"$work/layout/oci-layout"
cat >"$work/layout/index.json" <<-EOF
	{
	  "schemaVersion": 2, "mediaType": "$type.index.v1+json",
	  "manifests": [{
	    "mediaType": "$type.manifest.v1+json", $manifest,
	    "annotations": { "org.opencontainers.image.ref.name": "mini-vmm:$version" }
	  }]
	}
EOF
archive=$output/mini-vmm_${version}_amd64.oci.tar
alike "$archive" "$work/layout"
echo "$archive"

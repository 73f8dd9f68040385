# shellcheck shell=bash
# Sourced, not run. Writes an image layout (OCI image spec 1.0, image-layout.md): per architecture an image of one
# layer, and an index of them. A layout is a folder that skopeo copies to a registry as it is: nothing is compressed
# twice.

# All that is made bears one time, so that the same packages give the same digests.
# shellcheck disable=SC2034 # debian-root.sh
OCI_EPOCH=1700000000
OCI_CREATED=2023-11-14T22:13:20Z
OCI_MANIFEST=application/vnd.oci.image.manifest.v1+json
OCI_INDEX=application/vnd.oci.image.index.v1+json

# Moves a file into the layout under its digest; prints `"digest":"sha256:HEX","size":N`.
oci_add_blob() { # layout, file
  local digest
  digest=$(sha256sum "$2" | cut -d ' ' -f 1)
  mv "$2" "$1/blobs/sha256/$digest" || return 1
  oci_blob "$1" "sha256:$digest"
}

oci_blob() { # layout, digest; prints the same of a file that is there
  local size
  size=$(stat -c %s "$1/blobs/sha256/${2#sha256:}") || return 1
  printf '"digest":"%s","size":%s' "$2" "$size"
}

# Consumes the tar; prints the descriptor of the image's manifest.
oci_add_image() { # layout, architecture, tar, the image's `config` as JSON, who made it
  local layout=$1 arch=$2 tar=$3 diff layer config manifest
  mkdir -p "$layout/blobs/sha256"
  diff=$(sha256sum "$tar" | cut -d ' ' -f 1)
  gzip -n -6 <"$tar" >"$tar.gz" || return 1
  rm -f "$tar"
  layer=$(oci_add_blob "$layout" "$tar.gz") || return 1
  cat >"$tar.json" <<JSON
{"architecture":"$arch","os":"linux","created":"$OCI_CREATED","config":$4,
"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"$OCI_CREATED","created_by":"$5"}]}
JSON
  config=$(oci_add_blob "$layout" "$tar.json") || return 1
  cat >"$tar.json" <<JSON
{"schemaVersion":2,"mediaType":"$OCI_MANIFEST",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json",$config},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",$layer}]}
JSON
  manifest=$(oci_add_blob "$layout" "$tar.json") || return 1
  oci_descriptor "$arch" "$manifest"
}

oci_descriptor() { # architecture, what oci_blob prints of its manifest
  printf '"mediaType":"%s",%s,"platform":{"architecture":"%s","os":"linux"}' "$OCI_MANIFEST" "$2" "$1"
}

# Names what is there: TAG-ARCH each image, TAG the index of them all.
oci_finish() { # layout, tag, then for each image its architecture and its descriptor
  local layout=$1 tag=$2 children='' entries='' index ref='"org.opencontainers.image.ref.name"'
  shift 2
  while [ $# -gt 0 ]; do
    children+="${children:+,}{$2}"
    entries+="{$2,\"annotations\":{$ref:\"$tag-$1\"}},"
    shift 2
  done
  printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' "$OCI_INDEX" "$children" >"$layout/index"
  index=$(oci_add_blob "$layout" "$layout/index") || return 1
  printf '{"schemaVersion":2,"manifests":[%s{"mediaType":"%s",%s,"annotations":{%s:"%s"}}]}' \
    "$entries" "$OCI_INDEX" "$index" "$ref" "$tag" >"$layout/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

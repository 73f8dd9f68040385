#!/usr/bin/env bash
# Makes small stand-ins for python:3.11-slim, for amd64 and arm64, out of Debian packages, and pushes them to a registry.
# For tests and for machines that cannot reach Docker Hub. Nothing of the other architecture is executed: packages are
# unpacked only, so it needs no emulation. The result is an OCI layout, compressed once and then only copied.
#
#   deploy/base-images.sh --cache DIR                             make them (or find them made) in DIR
#   deploy/base-images.sh --cache DIR --registry localhost:5002   and push, over plain HTTP:
#       python:3.11-slim-amd64   python:3.11-slim-arm64   python:3.11-slim (index)   library/python:3.11-slim (index)
#
# `library/python` is what an engine asks for when that registry is its mirror of docker.io.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/apt.sh
. "$here/lib/apt.sh"

suite=bookworm # the Debian release whose python3 is 3.11
tag=3.11-slim
arches=(amd64 arm64)
cache='' registry=''

while [ $# -gt 0 ]; do
  case "$1" in
    --cache) cache=${2:?--cache needs a folder}; shift 2 ;;
    --registry) registry=${2:?--registry needs HOST:PORT}; shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) farm_die "unknown argument $1 (see --help)" ;;
  esac
done
[ -n "$cache" ] || farm_die "--cache DIR is needed"

# What is in them is decided by this file alone, so its hash names the result.
layout=$cache/python-$(sha256sum "$here/base-images.sh" | cut -c1-12)

packages=base-files,base-passwd,libc-bin,dash,coreutils,sed,grep,findutils,debianutils,hostname,tar,gzip,python3-minimal,libpython3-stdlib,python3
# Not needed to run programs. gconv is 8 MB of character sets that Python brings itself.
excluded=(/usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/bug
  /usr/share/pixmaps /usr/share/applications '/usr/lib/*/gconv' '/usr/lib/python3*/test' '/usr/lib/python3*/pydoc_data')

make_tar() { # architecture, output
  local options=() path source
  for path in "${excluded[@]}"; do options+=(--dpkgopt="path-exclude=$path/*"); done
  source=()
  if [ "$FARM_OS" = debian ]; then
    farm_source_for_suite "$suite" >"$work/$1.sources" && source=("$work/$1.sources")
  fi
  # In the extract variant no maintainer script runs; the hook does the few things of theirs that matter.
  # shellcheck disable=SC2016 # $1 is the hook's own
  farm_root env SOURCE_DATE_EPOCH=1700000000 mmdebstrap --quiet --architectures="$1" --variant=extract --format=tar --skip=output/dev \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$packages" "${options[@]}" \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
    --extract-hook='set -e; r=$1
      cp "$r/usr/share/base-passwd/passwd.master" "$r/etc/passwd"; cp "$r/usr/share/base-passwd/group.master" "$r/etc/group"
      mkdir -p "$r/tmp" "$r/usr/local/bin"; chmod 1777 "$r/tmp"
      ln -sf mawk "$r/usr/bin/awk"; ln -sf /usr/bin/python3 "$r/usr/local/bin/python"
      rm -rf "$r/var/lib/apt" "$r/var/cache/apt" "$r/var/lib/dpkg"' \
    "$suite" "$2" "${source[@]}" </dev/null >"$work/$1.log" 2>&1 || { tail -n 20 "$work/$1.log" >&2; return 1; }
}

# Moves a file into the layout under its digest; prints `sha256:HEX SIZE`.
add_blob() {
  local digest
  digest=$(sha256sum "$1" | cut -d ' ' -f 1)
  printf 'sha256:%s %s\n' "$digest" "$(stat -c %s "$1")"
  mv "$1" "$work/oci/blobs/sha256/$digest"
}

# shellcheck disable=SC2207 # two words are wanted
add_image() { # architecture; prints the descriptor of its manifest
  local arch=$1 diff layer config manifest lacks='no apt, no dpkg database, no pip, no CA certificates'
  diff=$(sha256sum "$work/$arch.tar" | cut -d ' ' -f 1)
  gzip -n -6 <"$work/$arch.tar" >"$work/$arch.tar.gz"
  layer=($(add_blob "$work/$arch.tar.gz"))
  cat >"$work/json.$arch" <<JSON
{"architecture":"$arch","os":"linux","created":"2023-11-14T22:13:20Z","config":{"Env":["PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin","LANG=C.UTF-8"],"Cmd":["python3"],"Labels":{"org.opencontainers.image.title":"python $tag stand-in","org.opencontainers.image.vendor":"farm","org.opencontainers.image.description":"Made by farm from Debian $suite packages for tests; not the python image of Docker Hub. Lacks: $lacks."}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"2023-11-14T22:13:20Z","created_by":"farm deploy/base-images.sh"}]}
JSON
  config=($(add_blob "$work/json.$arch"))
  cat >"$work/json.$arch" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"${config[0]}","size":${config[1]}},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"${layer[0]}","size":${layer[1]}}]}
JSON
  manifest=($(add_blob "$work/json.$arch"))
  printf '"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s,"platform":{"architecture":"%s","os":"linux"}' \
    "${manifest[0]}" "${manifest[1]}" "$arch"
}

make_layout() {
  command -v mmdebstrap >/dev/null || farm_die "mmdebstrap is missing (deploy/lib/apt.sh installs it)"
  farm_os
  if [ "$FARM_OS" != debian ]; then
    farm_say "this is not Debian: the packages come from mmdebstrap's own default mirror of Debian $suite"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || farm_die "install debian-archive-keyring first: Debian's signatures cannot be checked without it"
  fi
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/making.XXXXXX")
  trap 'farm_root rm -rf "$work"' EXIT
  mkdir -p "$work/oci/blobs/sha256"
  local arch pids=() pid failed=''
  for arch in "${arches[@]}"; do
    { make_tar "$arch" "$work/$arch.tar" && add_image "$arch" >"$work/$arch.descriptor"; } &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  [ -z "$failed" ] || farm_die "making the base images failed (the mirror must hold Debian $suite for: ${arches[*]})"
  local children='' entries='' descriptor index
  for arch in "${arches[@]}"; do
    descriptor=$(cat "$work/$arch.descriptor")
    children+=${children:+,}{$descriptor}
    entries+="{$descriptor,\"annotations\":{\"org.opencontainers.image.ref.name\":\"$tag-$arch\"}},"
  done
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "$children" >"$work/index"
  index=($(add_blob "$work/index"))
  printf '{"schemaVersion":2,"manifests":[%s{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"%s"}}]}' \
    "$entries" "${index[0]}" "${index[1]}" "$tag" >"$work/oci/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
  # Complete before it has its name; whoever came first wins.
  mv -T "$work/oci" "$layout" 2>/dev/null || [ -e "$layout/index.json" ]
  # What an older recipe made is not wanted again.
  find "$cache" -maxdepth 1 -name 'python-*' ! -path "$layout" -exec rm -rf {} +
}

push() { # name in the layout, destination
  local log
  log=$(skopeo --insecure-policy copy --all --preserve-digests --dest-tls-verify=false --dest-no-creds "oci:$layout:$1" "docker://$registry/$2" 2>&1) ||
    { printf '%s\n' "$log" >&2; farm_die "pushing $registry/$2 failed"; }
}

[ -e "$layout/index.json" ] || make_layout
if [ -n "$registry" ]; then
  command -v skopeo >/dev/null || farm_die "skopeo is missing (deploy/lib/apt.sh installs it)"
  push "$tag" "python:$tag" # brings all layers; the others find them there
  pids=()
  for arch in "${arches[@]}"; do push "$tag-$arch" "python:$tag-$arch" & pids+=($!); done
  push "$tag" "library/python:$tag" & pids+=($!)
  for pid in "${pids[@]}"; do wait "$pid"; done
fi

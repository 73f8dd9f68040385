#!/usr/bin/env bash
# Puts base images for amd64 and arm64 into a registry: stand-ins for python:3.11-slim and debian:bookworm-slim, made of
# Debian packages where Docker Hub cannot be reached, or the real ones.
#
# This is the way for machines without a way out, and for those without a farm yet. Elsewhere a farm brings the real ones, of any name:
#   farm mirror python:3.11-slim --platform linux/amd64,linux/arm64 --per-arch-tags
#
#   deploy/base-images.sh --cache DIR                             make them (or find them made) in DIR
#   deploy/base-images.sh --cache DIR --registry localhost:5002   and push, over plain HTTP
#
#   --only python|debian       only one of the two; both unless said
#   --base debian|hub          made of Debian packages (the default), or pulled from Docker Hub
#   --hub HOST:PORT            with --base hub: pull from this mirror of Docker Hub instead; plain HTTP on localhost
#   --hub-insecure             that mirror speaks plain HTTP, or its certificate cannot be checked
#
# In the registry there are then, and alike for debian:bookworm-slim,
#   python:3.11-slim-amd64   python:3.11-slim-arm64   python:3.11-slim (index)   library/python:3.11-slim (index)
# `library/python` is what an engine asks for when that registry is its mirror of docker.io.
#
# What is in DIR stays until its recipe changes; remove DIR to make or pull all anew. Two runs at once are safe.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib/apt.sh
. "$here/lib/apt.sh"
# shellcheck source=lib/oci-layout.sh
. "$here/lib/oci-layout.sh"
# shellcheck source=lib/debian-root.sh
. "$here/lib/debian-root.sh"

arches=(amd64 arm64)
names=(python debian)
cache='' registry='' base=debian hub='' hub_insecure=''

while [ $# -gt 0 ]; do
  case "$1" in
    --cache) cache=${2:?--cache needs a folder}; shift 2 ;;
    --registry) registry=${2:?--registry needs HOST:PORT}; shift 2 ;;
    --base) base=${2:?--base needs debian or hub}; shift 2 ;;
    --only) names=("${2:?--only needs python or debian}"); shift 2 ;;
    --hub) hub=${2:?--hub needs HOST:PORT}; shift 2 ;;
    --hub-insecure) hub_insecure=1; shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) farm_die "unknown argument $1 (see --help)" ;;
  esac
done
[ -n "$cache" ] || farm_die "--cache DIR is needed"
case "$cache" in *:*) farm_die "--cache $cache: skopeo takes no folder with a colon in its name" ;; esac
case "$base" in debian | hub) ;; *) farm_die "--base $base: only debian and hub are known" ;; esac
case "${names[0]}" in python | debian) ;; *) farm_die "--only ${names[0]}: only python and debian are known" ;; esac
[ "$base" = hub ] || [ -z "$hub$hub_insecure" ] || farm_die "--hub and --hub-insecure go with --base hub"
case "$registry$hub" in *://*) farm_die "registries are named HOST:PORT, without http://" ;; esac

# ---- making

make_images() {
  local arch pid failed='' descriptors=()
  for arch in "${arches[@]}"; do
    make_image "$arch" &
    running+=($!)
  done
  for pid in "${running[@]}"; do wait "$pid" || failed=1; done
  running=()
  [ -z "$failed" ] || farm_die "making $name:$tag failed, see above"
  for arch in "${arches[@]}"; do descriptors+=("$arch" "$(cat "$work/$arch.descriptor")"); done
  oci_finish "$work/oci" "$tag" "${descriptors[@]}"
}

make_image() { # architecture; leaves $work/ARCH.descriptor
  local tar=$work/$1.tar version
  # Whoever is interrupted neither tries another way nor tells of failure.
  trap 'exit 130' INT TERM
  make_tar "$1" "$tar" || {
    tail -n 20 "$work/$1.log" | cut -c1-400 >&2
    farm_die "no root of Debian $suite for $1 (does this machine's mirror hold $suite for ${arches[*]}?)"
  }
  version=$(version_in "$tar") || return 1
  oci_add_image "$work/oci" "$1" "$tar" "$(image_config "$version")" 'farm deploy/base-images.sh' >"$work/$1.descriptor"
}

check_maker() {
  command -v mmdebstrap >/dev/null || farm_die "mmdebstrap is missing (deploy/lib/apt.sh installs it)"
  [ "$FARM_OS" != debian ] || return 0
  farm_say "this is not Debian: the packages come from mmdebstrap's own default mirror of Debian $suite"
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
    farm_die "install debian-archive-keyring first: Debian's signatures cannot be checked without it"
}

# ---- pulling

# Sets what all copies from the hub have in common. Without a host, skopeo asks Docker Hub.
choose_hub() {
  hub_source=docker://${hub:+$hub/}library/$name:$tag hub_title=${hub:-Docker Hub} hub_tls=true
  case "$hub" in localhost | localhost:* | 127.*) hub_tls=false ;; esac
  [ -z "$hub_insecure" ] || hub_tls=false
}

pull_images() {
  local arch log blob got descriptors=()
  check_skopeo
  # Asked first and not for long: a copy may take as long as it takes.
  log=$(skopeo --command-timeout 30s inspect --raw --tls-verify="$hub_tls" "$hub_source" 2>&1 >/dev/null) ||
    pull_failed "$log"
  for arch in "${arches[@]}"; do
    log=$(skopeo --insecure-policy --override-os linux --override-arch "$arch" copy --digestfile "$work/digest" \
      --src-tls-verify="$hub_tls" "$hub_source" "oci:$work/oci:$tag-$arch" 2>&1) || pull_failed "$log" "$arch"
    # A mirror that has one architecture only gives that, whatever it is asked for.
    got=$(skopeo --override-arch "$arch" inspect --format '{{.Os}}/{{.Architecture}}' "oci:$work/oci:$tag-$arch")
    [ "$got" = "linux/$arch" ] || farm_die "$name:$tag of $hub_title is $got where linux/$arch is wanted"
    blob=$(oci_blob "$work/oci" "$(cat "$work/digest")")
    descriptors+=("$arch" "$(oci_descriptor "$arch" "$blob")")
  done
  oci_finish "$work/oci" "$tag" "${descriptors[@]}"
}

pull_failed() { # log, architecture
  farm_die "$name:$tag${2:+ for linux/$2} cannot be pulled from $hub_title: $(reason "$1")." \
    "Use --base debian to make a stand-in, or name a mirror of Docker Hub by --hub HOST:PORT"
}

check_skopeo() { command -v skopeo >/dev/null || farm_die "skopeo is missing (deploy/lib/apt.sh installs it)"; }

# ---- the cache: a layout per set, named after what decides on its content

work='' running=()
discard() { # folders; root's files are in one only if it was left by a run that was killed
  rm -rf --one-file-system "$@" 2>/dev/null || farm_root rm -rf --one-file-system "$@"
}
end() {
  [ -n "$work" ] || return 0
  [ "${#running[@]}" = 0 ] || kill "${running[@]}" 2>/dev/null || true
  debian_stop
  wait
  discard "$work" || true
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

provide() { # python or debian
  local name=$1 set=$1 lock verb=made began=$SECONDS
  # shellcheck source=lib/base-debian.sh
  . "$here/lib/base-$name.sh"
  if [ "$base" = hub ]; then
    set=$name-hub verb=pulled
    choose_hub
    layout=$cache/$set-$(printf '%s\n' "$hub_source" | sha256sum | cut -c1-12)
  else
    layout=$cache/$set-$({
      cat "$here/lib/base-$name.sh" "$here/lib/debian-root.sh" "$here/lib/oci-layout.sh"
      recipe_inputs
    } | sha256sum | cut -c1-12)
  fi
  # Who makes holds the lock alone, who pushes shares it. All children hold it too: while a folder of an unfinished run
  # is in use, be it by what a kill -9 left running, nobody gets here.
  exec {lock}>>"$cache/$set.lock"
  flock -ns "$lock" || { farm_say "another run is at $name:$tag: waiting for its end"; flock -s "$lock"; }
  if [ -e "$layout/index.json" ]; then
    farm_say "$name:$tag has been $verb before"
  else
    flock "$lock"
    [ -e "$layout/index.json" ] || fill
    flock -s "$lock"
  fi
  [ -z "$registry" ] || push_all
  exec {lock}>&-
}

fill() { # makes $layout
  discard "$cache/making-$set."*
  work=$(mktemp -d "$cache/making-$set.XXXXXX")
  if [ "$base" = hub ]; then
    farm_say "pulling $name:$tag from $hub_title (${arches[*]})"
    pull_images
  else
    farm_say "making $name:$tag of Debian $suite packages (${arches[*]})"
    check_maker
    make_images
  fi
  # Complete before it has its name.
  mv -T "$work/oci" "$layout"
  discard "$work"
  work=''
  # What an older recipe made is not wanted again.
  find "$cache" -maxdepth 1 -name "$set-????????????" ! -path "$layout" -exec rm -rf {} +
  farm_say "$name:$tag $verb in $((SECONDS - began)) s"
}

# ---- pushing

push_all() {
  local arch pids=() pid
  check_skopeo
  push "$tag" "$name:$tag" # brings all layers; the others find them there
  for arch in "${arches[@]}"; do push "$tag-$arch" "$name:$tag-$arch" & pids+=($!); done
  push "$tag" "library/$name:$tag" & pids+=($!)
  for pid in "${pids[@]}"; do wait "$pid"; done
  farm_say "pushed to $registry: $name:$tag, its -${arches[0]} and -${arches[1]}, and library/$name:$tag"
}

push() { # name in the layout, destination
  local log why
  log=$(skopeo --insecure-policy copy --all --preserve-digests --dest-tls-verify=false --dest-no-creds \
    "oci:$layout:$1" "docker://$registry/$2" 2>&1) && return
  why=$(reason "$log")
  case "$why" in
    *'connection refused'* | *'no such host'* | *'no route to host'* | *timeout*)
      farm_die "cannot push $2 to $registry: nothing answers there (${why##*: })." \
        "Start a registry there, or name another by --registry HOST:PORT" ;;
    *) farm_die "cannot push $2 to $registry: $why" ;;
  esac
}

# Of what skopeo has written, the end of the last line: that says what was the matter.
reason() {
  printf '%s\n' "$1" | tail -n 1 | sed -E 's/.*msg="(.*)"$/\1/; s/\\"/"/g; s/.*(pinging container registry)/\1/'
}

farm_os
if ! mkdir -p "$cache" 2>/dev/null || ! [ -w "$cache" ]; then
  farm_die "--cache $cache: not to be written by $(id -un); take another folder, or make it yours by chown"
fi
cache=$(cd "$cache" && pwd)
for name in "${names[@]}"; do provide "$name"; done

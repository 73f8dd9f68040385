#!/usr/bin/env bash
# From a fresh Debian 12/13 or Ubuntu 24.04 machine to an image for two architectures, built by a farm of your
# own: packages, compiling, `farm` in the PATH, `farm up`, base images, the example built, looked at and run.
# Run it from a clone, as root or as a user with sudo. It asks nothing and may be run again at any time: what is done
# is not done twice. What is compiled is compiled as the owner of the clone.
#
#   deploy/quickstart.sh [OPTIONS]
#
#   --base debian|hub      where the base images come from: Debian packages (default) or Docker Hub
#   --from FILE            don't compile: take farm's programs from an archive or a Debian package that deploy/package.sh
#                          has made (the package is read, not installed); only the base images that the example needs
#                          are made then. In an archive that was unpacked this is what happens anyway
#   --bin-dir DIR          the same with the programs in DIR (target/debug, say)
#   --prefix DIR           put the binaries into DIR/bin (default: /usr/local)
#   --state-dir DIR        the farm's data (default: /var/lib/farm)
#   --registry-port PORT   the registry's port on localhost (default: 5002)
#   --port PORT            the coordinator's port on 127.0.0.1 (default: 7070)
#   --no-space-check       go on with little free space
set -euo pipefail
# Whoever calls this: what is made is for all to read, and `cd` says nothing.
umask 022
unset CDPATH
root=$(cd "$(dirname "${BASH_SOURCE[0]:-.}")/.." && pwd)
for name in deploy/lib/apt.sh deploy/base-images.sh examples/multiarch/Dockerfile; do
  if [ ! -r "$root/$name" ] || { [ ! -r "$root/Cargo.toml" ] && [ ! -r "$root/REQUIRES" ]; }; then
    echo "farm: error: $root is neither farm's source tree nor an archive of farm: clone the repository or unpack the" \
      "archive, and run deploy/quickstart.sh in it" >&2
    exit 2
  fi
done
# shellcheck source=lib/apt.sh
. "$root/deploy/lib/apt.sh"
# shellcheck source=lib/compile.sh
. "$root/deploy/lib/compile.sh"
# shellcheck source=lib/from.sh
. "$root/deploy/lib/from.sh"

platforms=(linux/amd64 linux/arm64)
log=$root/target/quickstart.log
images_log=$root/target/base-images.log
cache=$root/target/base-images

# ---- what was asked for

base='' bin_dir='' from='' prefix=/usr/local state=${FARM_LOCAL_STATE_DIR:-/var/lib/farm} registry_port=5002 port=7070 space=1
usage() { farm_say "error: $1 (see --help)"; exit 2; }
port_of() { # option, value
  [[ $2 =~ ^[1-9][0-9]{0,4}$ && $2 -le 65535 ]] || usage "$1 $2: write a port from 1 to 65535"
}
asked=("$@")
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --no-space-check) space=''; shift; continue ;;
    --base | --from | --bin-dir | --prefix | --state-dir | --registry-port | --port)
      [ -n "${2:-}" ] || usage "$1 needs a value" ;;
    *) usage "unknown argument $1" ;;
  esac
  case "$1" in
    --base) base=$2; [[ $base =~ ^(debian|hub)$ ]] || usage "--base $base: debian and hub are known" ;;
    --from) from=$(realpath -m "$2") ;;
    --bin-dir) bin_dir=$(cd "$2" 2>/dev/null && pwd) || usage "--bin-dir $2: no such folder" ;;
    --prefix) prefix=$(realpath -m "$2") ;;
    --state-dir) state=$(realpath -m "$2") ;;
    --registry-port) port_of "$1" "$2"; registry_port=$2 ;;
    --port) port_of "$1" "$2"; port=$2 ;;
  esac
  shift 2
done
[ -z "$from" ] || [ -z "$bin_dir" ] || usage "--from and --bin-dir both say where the programs are: one of them"
[ -n "$from$bin_dir" ] || [ -e "$root/Cargo.toml" ] || from=$root
compiling=''
[ -n "$from$bin_dir" ] || compiling=1
registry=localhost:$registry_port
image=$registry/multiarch-example:latest
at=(--state-dir "$state") elsewhere=''
[ "$state" = /var/lib/farm ] || elsewhere=" --state-dir $state"

# ---- can it work here?

farm_os
case "$FARM_OS" in
  debian | ubuntu) ;;
  *) farm_die "this is ${FARM_OS:-an unknown system}; only Debian (12, 13) and Ubuntu (24.04; 22.04 with a newer Postgres, skopeo and mmdebstrap) are known here" ;;
esac
case "$FARM_CODENAME" in
  bookworm | trixie | jammy | noble) ;;
  *) farm_say "not tried on ${FARM_OS} ${FARM_CODENAME:-(no code name)}; going on" ;;
esac
farm_host_arch >/dev/null
for program in "${programs[@]}"; do
  [ -z "$bin_dir" ] || [ -x "$bin_dir/$program" ] || farm_die "--bin-dir $bin_dir: there is no $program in it"
done
[ -z "$from" ] || farm_from_check "$from"

# Root does the rest, so that sudo is asked once and not in the middle of it; the way to the caller's Rust goes along.
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || farm_die "needs root: run it as root, or install sudo and let $(id -un) use it"
  farm_say "going on as root, by sudo (compiling stays with the owner of $root)"
  along=("FARM_CALLER_PATH=$PATH")
  for name in CARGO_HOME RUSTUP_HOME CARGO_NET_OFFLINE NO_COLOR \
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || along+=("$name=${!name}")
  done
  exec sudo env "${along[@]}" bash "$root/deploy/quickstart.sh" "${asked[@]}"
fi
PATH=$PATH:/usr/local/sbin:/usr/local/bin

# A command as another user, with that user's home.
as_user() { # numeric id, command...
  local id=$1 entry
  shift
  entry=$(getent passwd "$id" || true)
  # Nobody has that id in a container that a folder of its host is mounted into.
  if [ "$id" = 0 ] || [ -z "$entry" ]; then "$@"; return; fi
  setpriv --reuid "$id" --regid "$(cut -d: -f4 <<<"$entry")" --init-groups \
    env "HOME=$(cut -d: -f6 <<<"$entry")" "USER=$(cut -d: -f1 <<<"$entry")" "PATH=${FARM_CALLER_PATH:-$PATH}" "$@"
}
owner=$(stat -c %u "$root/deploy/quickstart.sh") caller=${SUDO_UID:-0}
farm_as_builder() { as_user "$owner" "$@"; }

# shellcheck source=lib/steps.sh
. "$root/deploy/lib/steps.sh"
# shellcheck source=lib/example.sh
. "$root/deploy/lib/example.sh"

# ---- the end, whatever it is

images='' began=$SECONDS
work=$(mktemp -d)

# shellcheck disable=SC2329 # by trap
leave() {
  local rc=$?
  trap '' INT TERM HUP
  trap - EXIT
  end_step
  [ -z "$images" ] || end_group "$images"
  farm_apt_cleanup
  rm -rf "$work"
  [ ! -d "$root/target" ] || [ "$owner" = 0 ] ||
    chown -R "$owner" "$cache" "$log" "$images_log" 2>/dev/null || true
  exit "$rc"
}
trap leave EXIT
trap 'printf "\nstopped; run it again and it goes on from here\n"; exit 130' INT
trap 'printf "\nstopped; run it again and it goes on from here\n"; exit 143' TERM HUP

# What to do when a step has failed, besides what its own message says.
cure() { # the step's command
  case "$1" in
    rust | packages) echo "Is apt's mirror to be reached, and no other apt at work? apt-get update says more." ;;
    compile) echo "Nothing that was compiled is lost. Without a network: are the crates here (cargo fetch)? Killed (signal 9)? Then memory was short." ;;
    install_programs) echo "May $prefix/bin be written to? --prefix DIR takes another place." ;;
    farm_up) echo "farm status$elsewhere and farm logs --of PART$elsewhere say more; other ports: --port, --registry-port." ;;
    push_base_images) echo "How they are made: $images_log. --base hub takes the real ones from Docker Hub." ;;
    submit | look_at_index | run_variants) echo "The farm is up: farm status$elsewhere, farm workers and farm builds say more." ;;
  esac
}

# ---- what the steps do

# MB that will be needed below a folder, and the folder's nearest parent that is there.
free_space() {
  local need path mount free
  declare -A needs=()
  while read -r need path; do
    while [ ! -e "$path" ]; do path=$(dirname "$path"); done
    mount=$(df --output=target "$path" | tail -n 1)
    needs[$mount]=$((${needs[$mount]:-0} + need))
  done
  for mount in "${!needs[@]}"; do
    free=$(($(df --output=avail -k "$mount" | tail -n 1) / 1024))
    [ "$free" -ge "${needs[$mount]}" ] ||
      farm_die "$mount has $free MB of free space, and about ${needs[$mount]} MB are needed there;" \
        "free some, or go on with --no-space-check"
  done
}

rust() {
  farm_install_rust "$rust_needed"
  say "Rust $FARM_RUST: $FARM_CARGO"
}

packages() {
  farm_install_packages
  farm_install_engine
  farm_enable_binfmt
  local postgres
  postgres=$(dirname "$(farm_postgres_bin)")
  say "$(dockerd --version | sed 's/,.*//'); Postgres ${postgres##*/}; $(farm_foreign_qemu) for the other architecture"
}

# Who brings compiled programs is in a hurry: what the example needs is enough then.
base_images() {
  local options=(--cache "$cache")
  [ -z "$base" ] || options+=(--base "$base")
  [ -n "$compiling" ] || options+=(--only python)
  "$root/deploy/base-images.sh" "${options[@]}" "$@"
}

# While cargo compiles: the two hardly wait for each other.
begin_base_images() {
  set -m
  { rc=0; base_images || rc=$?; echo "$rc" >"$work/images"; } >"$images_log" 2>&1 3>&- </dev/null &
  images=$!
  set +m
}

compile() { farm_compile_moving "$root"; }

install_programs() {
  local program changed=()
  mkdir -p "$prefix/bin"
  for program in "${programs[@]}"; do
    cmp -s "$bin_dir/$program" "$prefix/bin/$program" && continue
    install -m 755 "$bin_dir/$program" "$prefix/bin/.$program.new"
    mv -f "$prefix/bin/.$program.new" "$prefix/bin/$program"
    changed+=("$program")
  done
  say "${from_version:+farm $from_version }in $prefix/bin${changed[*]:+, new: ${changed[*]}}"
  [ "$(PATH=${FARM_CALLER_PATH:-$PATH} command -v farm)" = "$prefix/bin/farm" ] ||
    say "PATH doesn't lead to it: export PATH=$prefix/bin:\$PATH"
}

# A process goes on with the file that it was started from when there is a newer one in its place.
runs_replaced_programs() {
  local exe
  for exe in /proc/[0-9]*/exe; do
    [[ $(readlink "$exe" 2>/dev/null) != "$prefix/bin/farm-"*" (deleted)" ]] || return 0
  done
  return 1
}

# What runs on mustn't hold this script's outputs open.
farm_up() {
  if runs_replaced_programs; then
    say "the farm that is up was started from older programs: restarting it"
    "$prefix/bin/farm" down "${at[@]}" 3>&-
  fi
  "$prefix/bin/farm" up "${at[@]}" --registry-port "$registry_port" --port "$port" 3>&-
  say "coordinator http://127.0.0.1:$port, registry $registry"
}

has_tag() { skopeo inspect --raw --tls-verify=false "docker://$registry/python:3.11-slim-$1" >/dev/null 2>&1; }

push_base_images() {
  local mark pushed what='python:3.11-slim, debian:bookworm-slim'
  until [ -e "$work/images" ]; do
    kill -0 "$images" 2>/dev/null || [ -e "$work/images" ] || farm_die "making the base images was ended by a signal"
    sleep 0.1
  done
  [ "$(cat "$work/images")" = 0 ] || { cat "$images_log"; exit 1; }
  # Pushed by this recipe, and still there (`farm down --purge` takes them away): nothing to do.
  mark=$(cat "$root/deploy/base-images.sh" "$root"/deploy/lib/*.sh - <<<"$base $compiling" | sha256sum | cut -d ' ' -f 1)
  mark+=" $registry $state"
  pushed=$cache/pushed
  if grep -qsxF "$mark" "$pushed" && has_tag amd64 && has_tag arm64; then say "there already"; return 0; fi
  base_images --registry "$registry"
  printf '%s\n' "$mark" >"$pushed"
  [ -n "$compiling" ] || what='python:3.11-slim'
  say "in $registry, for amd64 and arm64: $what"
}

# ---- what will be done, and how long it takes

plan() {
  local missing line minutes
  mapfile -t missing < <(farm_missing_packages)
  farm_engine_present || missing+=(docker.io)
  printf '%sfarm%s on %s, %s, %d CPUs; it asks nothing\n' "$bold" "$plain" "$(. /etc/os-release; echo "${PRETTY_NAME:-$FARM_OS}")" \
    "$(farm_host_arch)" "$(nproc)"
  line='all here'
  [ "${#missing[@]}" = 0 ] || line="${#missing[@]} by apt and what these need; about a minute, as fast as the mirror is"
  printf '  packages   %s\n' "$line"
  if [ -n "$compiling" ]; then
    minutes=$((farm_compile_cpu_minutes / $(nproc) + 1))
    line="about $minutes minutes"
    [ ! -x "$bin_dir/farm" ] || line="what has changed since the last time; at most $minutes minutes"
    printf '  compiling  %s\n' "$line"
  else
    printf '  compiling  nothing: the programs are in %s\n' "${from:-$bin_dir}"
  fi
  printf '  farm       started, then the example built for two architectures, published and run; less than a minute\n'
  printf 'Ctrl-C stops it, and another run goes on from there. All that happens: %s\n\n' "$log"
}

# ---- main

FARM_ONLY_RUN=1 steps=7
if [ -n "$compiling" ]; then
  FARM_ONLY_RUN='' steps=9 bin_dir=$(farm_compiled "$root") rust_needed=$(farm_rust_needed "$root")
fi
if [ -n "$from" ]; then
  farm_from_unpack "$from" "$work/from"
  bin_dir=$work/from/bin
fi
farm_as_builder mkdir -p "$root/target"
: >"$log"
if [ -n "$space" ]; then
  free_space < <(
    farm_engine_present || echo 1200 /usr
    [ -z "$compiling" ] || [ -x "$bin_dir/farm" ] || echo 3000 "$root/target"
    [ -e "$state/token" ] || echo 1800 "$state"
  )
fi
plan

if [ -n "$compiling" ]; then
  apt_step=1
  step 'Rust' rust
  farm_find_rust "$rust_needed" # for this shell, too
fi
apt_step=$((number + 1))
step 'packages (apt)' packages
begin_base_images
if [ -n "$compiling" ]; then step 'compiling' compile; fi
step 'farm in the PATH' install_programs
step 'farm up' farm_up
step 'base images' push_base_images
images=''
step "farm submit examples/multiarch -t $image --platform linux/amd64,linux/arm64" submit
step 'the index' look_at_index
step 'both variants' run_variants

url=''
[ "$port $state" = '7070 /var/lib/farm' ] || url="FARM_URL=http://127.0.0.1:$port FARM_TOKEN_FILE=$state/token "
sudo=''
[ "$caller" = 0 ] || sudo='sudo '
printf '\nall of it: %d s, %s of these for packages\n\n' $((SECONDS - began)) "$(seconds_of "$apt_ms")"
printf 'next:  %sfarm submit FOLDER -t %s/NAME:latest --platform linux/amd64,linux/arm64   (farm --help)\n' \
  "$url" "$registry"
printf 'where: programs %s/bin; data, logs, token %s; images %s; this run %s\n' "$prefix" "$state" "$registry" "$log"
printf 'stop:  %sfarm down%s   (farm down --purge: its data, too)\n' "$sudo" "$elsewhere"

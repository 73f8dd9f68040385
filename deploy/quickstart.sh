#!/usr/bin/env bash
# From a fresh Debian 12/13 or Ubuntu 24.04 machine to an image for two architectures, built by a farm of your
# own: packages, compiling, `farm` in the PATH, `farm up`, base images, the example built, looked at and run.
# Run it from a clone, as root or as a user with sudo. It asks nothing and may be run again at any time: what is done
# is not done twice. What is compiled is compiled as the owner of the clone.
#
#   deploy/quickstart.sh [OPTIONS]
#
#   --base debian|hub      where the base images come from: Debian packages (default) or Docker Hub
#   --bin-dir DIR          don't compile: take farm's binaries from DIR (target/debug, say); only the base images that
#                          the example needs are made then
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
for name in deploy/lib/apt.sh deploy/base-images.sh Cargo.toml examples/multiarch/Dockerfile; do
  if [ ! -r "$root/$name" ]; then
    echo "farm: error: $root isn't farm's source tree: clone the repository and run deploy/quickstart.sh in it" >&2
    exit 2
  fi
done
# shellcheck source=lib/apt.sh
. "$root/deploy/lib/apt.sh"

programs=(farm farm-local farm-coordinator farm-worker)
platforms=(linux/amd64 linux/arm64)
log=$root/target/quickstart.log
images_log=$root/target/base-images.log
cache=$root/target/base-images

# ---- what was asked for

base='' bin_dir='' prefix=/usr/local state=${FARM_LOCAL_STATE_DIR:-/var/lib/farm} registry_port=5002 port=7070 space=1
usage() { farm_say "error: $1 (see --help)"; exit 2; }
port_of() { # option, value
  [[ $2 =~ ^[1-9][0-9]{0,4}$ && $2 -le 65535 ]] || usage "$1 $2: write a port from 1 to 65535"
}
asked=("$@")
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --no-space-check) space=''; shift; continue ;;
    --base | --bin-dir | --prefix | --state-dir | --registry-port | --port)
      [ -n "${2:-}" ] || usage "$1 needs a value" ;;
    *) usage "unknown argument $1" ;;
  esac
  case "$1" in
    --base) base=$2; [[ $base =~ ^(debian|hub)$ ]] || usage "--base $base: debian and hub are known" ;;
    --bin-dir) bin_dir=$(cd "$2" 2>/dev/null && pwd) || usage "--bin-dir $2: no such folder" ;;
    --prefix) prefix=$(realpath -m "$2") ;;
    --state-dir) state=$(realpath -m "$2") ;;
    --registry-port) port_of "$1" "$2"; registry_port=$2 ;;
    --port) port_of "$1" "$2"; port=$2 ;;
  esac
  shift 2
done
registry=localhost:$registry_port
image=$registry/multiarch-example:latest
at=(--state-dir "$state")

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
owner=$(stat -c %u "$root/Cargo.toml") caller=${SUDO_UID:-0}
farm_as_builder() { as_user "$owner" "$@"; }

# ---- steps and their times

number=0 steps=9 apt_step=0 job='' images='' began=$SECONDS in_step=''
work=$(mktemp -d)
exec 3>&1 # what a step says to people; its own output goes into the log
bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

say() { printf '      %s\n' "$*" >&3; }
farm_say() {
  printf 'farm: %s\n' "$*" >&2
  case "${in_step:+x}$*" in xerror:*) ;; x*) say "$*" ;; esac # errors are shown with the end of the log
}
show() { # pattern of lines that are for the log only
  local line
  while IFS= read -r line; do
    printf '%s\n' "$line"
    [[ -n ${1:-} && $line =~ $1 ]] || say "$line"
  done
}

step() { # title, command...; in a process group of its own, so that all of it can be ended
  local begin=${EPOCHREALTIME/[.,]/} from rc=0
  number=$((number + 1))
  printf '%s[%d/%d] %s%s\n' "$bold" "$number" "$steps" "$1" "$plain"
  printf '\n=== %s\n' "$1" >>"$log"
  from=$(stat -c %s "$log")
  shift
  set -m
  (set -e; in_step=1; trap 'exit 143' TERM; "$@") >>"$log" 2>&1 </dev/null &
  job=$!
  set +m
  wait "$job" || rc=$?
  job=''
  local ms=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
  if [ "$rc" != 0 ]; then
    printf '      failed after %d.%d s (exit %d); the end of what it said:\n\n' \
      $((ms / 1000)) $((ms % 1000 / 100)) "$rc"
    tail -c "+$((from + 1))" "$log" | tail -n 20
    printf '\nAll of it: %s. When the cause is mended, run this again: it goes on from there.\n' "$log"
    exit 1
  fi
  printf '      %d.%d s\n' $((ms / 1000)) $((ms % 1000 / 100))
}

end_group() { # process group; half a minute for its own cleaning up
  local tries=150
  kill -TERM -- "-$1" 2>/dev/null || return 0
  while group_lives "$1"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { kill -KILL -- "-$1" 2>/dev/null || true; return 0; }
    sleep 0.2
  done
}

# Those that have ended and that nobody has waited for don't count.
group_lives() { # process group
  if command -v ps >/dev/null; then
    ps -eo pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^[ZX]/ { lives = 1 } END { exit !lives }'
  else
    kill -0 -- "-$1" 2>/dev/null
  fi
}

# shellcheck disable=SC2329 # by trap
leave() { # at the end, whatever the end is
  local rc=$?
  trap '' INT TERM HUP
  trap - EXIT
  if [ -n "$job" ] && [ "$number" = "$apt_step" ]; then
    # The shell takes notice of it when apt has ended: an installation that is cut short is a mess.
    printf 'waiting for apt to end\n'
    kill -TERM "$job" 2>/dev/null || true
    wait "$job" || true
  elif [ -n "$job" ]; then
    end_group "$job"
  fi
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
  [ "$steps" = 9 ] || options+=(--only python)
  "$root/deploy/base-images.sh" "${options[@]}" "$@"
}

# While cargo compiles: the two hardly wait for each other.
begin_base_images() {
  set -m
  { rc=0; base_images || rc=$?; echo "$rc" >"$work/images"; } >"$images_log" 2>&1 3>&- </dev/null &
  images=$!
  set +m
}

compile() {
  farm_as_builder env -u DATABASE_URL SQLX_OFFLINE=true "RUSTC=$RUSTC" CARGO_TERM_COLOR=never \
    "$FARM_CARGO" build --release --locked --workspace "${programs[@]/#/--bin=}" \
    --manifest-path "$root/Cargo.toml" --target-dir "$root/target"
  [ -x "$root/target/release/farm" ] ||
    farm_die "cargo didn't put farm into target/release: is build.target set in a configuration of cargo's?"
}

install_programs() {
  local program changed=()
  mkdir -p "$prefix/bin"
  for program in "${programs[@]}"; do
    cmp -s "$bin_dir/$program" "$prefix/bin/$program" && continue
    install -m 755 "$bin_dir/$program" "$prefix/bin/.$program.new"
    mv -f "$prefix/bin/.$program.new" "$prefix/bin/$program"
    changed+=("$program")
  done
  say "in $prefix/bin${changed[*]:+, new: ${changed[*]}}"
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
  mark=$(cat "$root/deploy/base-images.sh" "$root"/deploy/lib/*.sh - <<<"$base $steps" | sha256sum | cut -d ' ' -f 1)
  mark+=" $registry $state"
  pushed=$cache/pushed
  if grep -qsxF "$mark" "$pushed" && has_tag amd64 && has_tag arm64; then say "there already"; return 0; fi
  base_images --registry "$registry"
  printf '%s\n' "$mark" >"$pushed"
  [ "$steps" = 9 ] || what='python:3.11-slim'
  say "in $registry, for amd64 and arm64: $what"
}

# As whoever called, who is to go on with it.
farm_as_caller() {
  as_user "$caller" env -u FARM_TOKEN -u FARM_CONTEXT -u FARM_PROGRESS "FARM_URL=http://127.0.0.1:$port" "FARM_TOKEN_FILE=$state/token" \
    "$prefix/bin/farm" "$@"
}

submit() {
  local example=$root/examples/multiarch
  if [ "$registry_port" != 5002 ]; then
    # The example names its bases with the usual port.
    chmod 755 "$work"
    cp -r "$example" "$work/multiarch"
    example=$work/multiarch
    sed -i "s/localhost:5002/$registry/" "$example/Dockerfile"
  fi
  # The single steps of the build are for the log; what was decided and what came of it is shown.
  (cd "$root" && farm_as_caller submit "${example#"$root"/}" -t "$image" --platform linux/amd64,linux/arm64) 2>&1 |
    show '^linux/[^ ]+ +([[|]|fetching |exporting )'
}

# A line for each element of the index's list: platform, digest. There may be neither jq nor Python.
index_lines() {
  tr -d ' \t\n' | awk '
    function value(text, key) {
      if (!match(text, "\"" key "\":\"[^\"]*\"")) return ""
      text = substr(text, RSTART, RLENGTH - 1); sub(/.*"/, "", text); return text
    }
    { start = index($0, "\"manifests\":["); if (!start) exit
      depth = 0; item = ""
      for (i = start + 13; i <= length($0); i++) {
        c = substr($0, i, 1)
        if (c == "{") depth++
        if (c == "]" && depth == 0) break
        if (depth) item = item c
        if (c == "}" && --depth == 0) {
          variant = value(item, "variant")
          if (variant != "") variant = "/" variant
          print value(item, "os") "/" value(item, "architecture") variant, value(item, "digest")
          item = ""
        }
      } }'
}

look_at_index() {
  local platform digest bytes found=''
  skopeo inspect --raw --tls-verify=false "docker://$image" >"$work/index"
  say "$image  sha256:$(sha256sum "$work/index" | cut -d ' ' -f 1)"
  while read -r platform digest; do
    bytes=$(skopeo inspect --raw --tls-verify=false "docker://${image%:latest}@$digest" |
      grep -oE '"size": *[0-9]+' | awk -F: '{ n += $2 } END { printf "%.1f", n / 1e6 }')
    say "$(printf '%-13s %s  %5s MB' "$platform" "$digest" "$bytes")"
    found+=" $platform"
  done < <(index_lines <"$work/index")
  for platform in "${platforms[@]}"; do
    [[ "$found " == *" $platform "* ]] || farm_die "$platform isn't in the index of $image"
  done
}

run_variants() {
  local platform
  # An engine of one's own has no socket here; docker knows it by itself.
  [ ! -S "$state/run/docker.sock" ] || export DOCKER_HOST=unix://$state/run/docker.sock
  for platform in "${platforms[@]}"; do
    say "docker run --rm --platform $platform $image"
    docker run --rm --pull always --quiet --platform "$platform" "$image" | sed 's/^/  /' | show
  done
}

# ---- main

rust_needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
if [ -n "$bin_dir" ]; then steps=7; else bin_dir=$root/target/release; fi
farm_as_builder mkdir -p "$root/target"
: >"$log"
if [ -n "$space" ]; then
  free_space < <(
    farm_engine_present || echo 1200 /usr
    [ -x "$bin_dir/farm" ] || echo 3000 "$root/target"
    [ -e "$state/token" ] || echo 1800 "$state"
  )
fi

if [ "$steps" = 9 ]; then
  apt_step=1
  step 'Rust' rust
  farm_find_rust "$rust_needed" # for this shell, too
fi
apt_step=$((number + 1))
step 'packages (apt)' packages
begin_base_images
if [ "$steps" = 9 ]; then step 'compiling (the first time takes some minutes)' compile; fi
step 'farm in the PATH' install_programs
step 'farm up' farm_up
step 'base images' push_base_images
images=''
step "farm submit examples/multiarch -t $image --platform linux/amd64,linux/arm64" submit
step 'the index' look_at_index
step 'both variants' run_variants

url=''
[ "$port $state" = '7070 /var/lib/farm' ] || url="FARM_URL=http://127.0.0.1:$port FARM_TOKEN_FILE=$state/token "
elsewhere=''
[ "$state" = /var/lib/farm ] || elsewhere=" --state-dir $state"
sudo=''
[ "$caller" = 0 ] || sudo='sudo '
printf '\nall of it: %d s\n\n' $((SECONDS - began))
printf 'next:  %sfarm submit FOLDER -t %s/NAME:latest --platform linux/amd64,linux/arm64   (farm --help)\n' \
  "$url" "$registry"
printf 'where: programs %s/bin; data, logs, token %s; images %s; this run %s\n' "$prefix" "$state" "$registry" "$log"
printf 'stop:  %sfarm down%s   (farm down --purge: its data, too)\n' "$sudo" "$elsewhere"

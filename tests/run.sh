#!/usr/bin/env bash
# Checks and tests, from a bare Debian or Ubuntu machine with Rust to a verdict.
#
#   tests/run.sh [quick|unit|store|api|security|e2e|all] [NEXTEST ARGUMENTS...]     all unless said
#   tests/run.sh faults [--beside COMMIT] [--seed N] [--faults N] [--kinds KINDS] | --steps | --pressure SECONDS
#   tests/run.sh differential [--seed N] [--cases N | --case K] [--keep DIR]
#   tests/run.sh package
#   tests/run.sh bed [COMMAND...] | env [COMMAND...] | sqlx | advisories
#
#   quick   for in between: lints of programs and libraries, and their unit tests; some 15 seconds after a change of a line
#   unit    lints, and the tests that need nothing but a CPU
#   store   tests of the database layer, in the test bed
#   api     tests of farm's processes over their interfaces, in the test bed; with the long forms of what `all` has short
#   security  who is let in and how far, in the test bed; with the long forms of what `all` has short
#   e2e     tests with builds in a real engine, in the test bed; with the long forms, too
#   all     every check and every test, and short runs of `package`, `differential` and `faults`, in the test bed
#   faults  a farm whose parts are all killed and troubled while it builds, by a plan that is drawn from a seed; then a
#           verdict on builds, tags and logs. No checks and no tests. 200 faults (about 15 minutes) unless said.
#           --kinds: old (what dies, stands still or can't be heard), new (what never ends, what can't be read), all (unless
#           said), or names of kinds with commas between them
#           --steps: a coordinator killed and stopped at each step of publishing (about 15 minutes).
#           --pressure: a build that takes all of the machine for so long, beside which its worker must stay alive.
#           --beside: one of the two coordinators is that of a tag or commit, which is compiled in target/beside first
#   differential  drawn Dockerfiles and contexts, built by farm and by buildx on one engine: files, settings, exit and
#           failing line must be the same. No checks and no tests. Seed 1 and 150 cases (some 10 minutes) unless said.
#           --case: one of them alone. --keep: leaves the Dockerfiles and contexts in a folder
#   package the archive and the Debian package that deploy/package.sh makes of the debug programs: what is in them, the units,
#           what is refused; made once more, the same; installed by apt in a fresh root, where both services then run.
#           The first part of it is in `all`
#   bed     no checks and no tests: a command (or a shell) in the test bed
#   env     no checks and no tests: a command in the environment of those tests that need no test bed; without a command
#           the environment itself
#   sqlx    no checks and no tests: writes coordinator/store/.sqlx anew after a change of queries or migrations
#   advisories  is anything known against the crates that farm is made of? Needs cargo-deny and a network; all else that
#           deny.toml says is a test (tests/deny), part of `unit` and `all`
#
# The test bed (src/bin/testbed.rs) is Postgres, two registries and a Docker engine in namespaces of their own: it meets
# nothing else on the machine, and dies as a whole, even by kill -9 of this script. It needs root, by sudo if need be.
#
# No test sees what is on the machine: its environment is made anew (`isolated` below, src/environment.rs), and in the bed
# a farm's state folder, /run and other tools' settings are hidden (`hide_machine`). Of the caller's environment only these
# variables count, a proxy for what has to be downloaded, and where Rust is:
#
# FARM_INSTALL_DENY=1   `advisories` builds cargo-deny when it is missing (takes minutes)
# FARM_SKIP_LINT=1      no fmt and clippy; what is compiled is then what `cargo build` made
# FARM_KEEP=1           leave the test bed's folder as it is at the end; it is on the disk then
# FARM_ON_DISK=1        have the test bed on the disk, also where there is memory enough for it (14 GB)
# FARM_TEST_BED=DIR     another folder for the test bed, so that two can run at once
# FARM_LOCKED=1         a lock file that does not fit is an error
# TRYCMD=overwrite      write tests/transcripts anew
# CARGO_INCREMENTAL=0, CARGO_PROFILE_DEV_DEBUG=0   compile without notes for the next time, and without lines in backtraces
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/.."
umask 022

# ---- whoever calls this, with whatever in the environment

options=(FARM_INSTALL_DENY FARM_SKIP_LINT FARM_KEEP FARM_ON_DISK FARM_TEST_BED FARM_LOCKED TRYCMD TERM CARGO_INCREMENTAL CARGO_PROFILE_DEV_DEBUG)
network=(http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR)

# This script anew with nothing in its environment but what is named here. HOME is that of the user database, as another
# user's may have come along, and PATH the system's, so that it is the system's engine that is tested.
sweep() {
  local name home path cargo kept=()
  home=$(getent passwd "$(id -u)" | cut -d: -f6)
  home=${home:-${HOME:-/}}
  for name in "${options[@]}" "${network[@]}"; do
    [ -z "${!name:-}" ] || kept+=("$name=${!name}")
  done
  [ "${CARGO_NET_OFFLINE:-}" != true ] || kept+=(CARGO_NET_OFFLINE=true)
  CARGO_HOME=$(rust_folder "${CARGO_HOME:-}" "$home" .cargo) RUSTUP_HOME=$(rust_folder "${RUSTUP_HOME:-}" "$home" .rustup)
  if [ -n "${RUSTUP_TOOLCHAIN:-}" ] && compgen -G "$RUSTUP_HOME/toolchains/$RUSTUP_TOOLCHAIN*" >/dev/null; then
    kept+=("RUSTUP_TOOLCHAIN=$RUSTUP_TOOLCHAIN")
  fi
  path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  cargo=$(command -v cargo || PATH=$path:$CARGO_HOME/bin command -v cargo || true)
  case ":$path:$cargo" in
    *":${cargo%/cargo}:"* | *:) ;;
    *:/*) path=${cargo%/cargo}:$path ;;
  esac
  # sqlx takes its queries from the files that are committed, unless check_sqlx says otherwise; an own target folder or
  # flags from a configuration of cargo's would put programs where nobody looks for them.
  PATH=$path exec env -i "${kept[@]}" "PATH=$path" "HOME=$home" LANG=C.UTF-8 TZ=UTC CI=true SQLX_OFFLINE=true \
    "CARGO_HOME=$CARGO_HOME" "RUSTUP_HOME=$RUSTUP_HOME" "CARGO_TARGET_DIR=$PWD/target" bash tests/run.sh --swept "$@"
}

# Where cargo or rustup keep what they have: as the caller's variable says, in the caller's HOME if it is the caller's, or
# at home.
rust_folder() { # the variable's value, home, name in a home
  if [[ $1 == /* && -d $1 && -r $1 ]]; then echo "$1"
  elif [ -O "${HOME:-}/$3" ]; then echo "$HOME/$3"
  else echo "$2/$3"; fi
}

# Sets `isolated` to the words in front of a command that give it the environment of all tests: what is in it here, and
# what nextest and the test bed add, is known to src/environment.rs.
isolate() { # HOME
  local name
  isolated=(env -i "PATH=$PATH" "HOME=$1" LANG=C.UTF-8 TZ=UTC CI=true SQLX_OFFLINE=true
    "CARGO_HOME=$CARGO_HOME" "RUSTUP_HOME=$RUSTUP_HOME")
  for name in TERM TRYCMD RUSTUP_TOOLCHAIN; do
    [ -z "${!name:-}" ] || isolated+=("$name=${!name}")
  done
}

case "${1:-}" in
  --swept) shift ;;
  --first-process | --inside) ;; # by this script
  *) sweep "$@" ;; # does not return
esac

. deploy/lib/apt.sh

state=${FARM_TEST_BED:-target/farm-testbed}
cache=target/base-images
binaries=target/nextest-binaries.json
metadata=target/nextest-metadata.json
log=target/nextest-output.log
times=target/run-times
store=coordinator/store
packages=target/package-test
farm_state=/var/lib/farm       # where a farm of the machine is
bed_home=/run/farm-test-home   # HOME in the test bed
enough_memory=14000            # from so many MB on that are free the test bed is in memory
fresh_sqlx=$PWD/target/sqlx-fresh
fault_kinds=old                # of the short run in `all`

# ---- phases and their times

phase() { # name, command... ; in a subshell, where the first error ends the command
  local name=$1 begin=${EPOCHREALTIME/[.,]/} rc
  shift
  printf '\n=== %s\n' "$name"
  set +e
  (set -e; "$@")
  rc=$?
  set -e
  note_time "$name" "$begin"
  [ "$rc" = 0 ] || { printf '=== %s failed (exit %s)\n' "$name" "$rc"; finish "$rc"; }
}

note_time() { # name, begin in microseconds, milliseconds in it that were noted already
  local ms=$(((${EPOCHREALTIME/[.,]/} - $2) / 1000 - ${3:-0}))
  printf '=== %s: %d.%d s\n' "$1" $((ms / 1000)) $((ms % 1000 / 100))
  printf '%d %s\n' "$ms" "$1" >>"$times"
}

noted() { awk '{ ms += $1 } END { print ms + 0 }' "$times"; }

finish() { # exit code
  trap - EXIT
  [ -z "${inside:-}" ] || exit "$1" # the table is the outer script's
  [ -z "${images:-}${packing:-}" ] || kill ${images:+"$images"} ${packing:+"$packing"} 2>/dev/null || true
  printf '\nwhere the time went\n'
  awk '{ ms = $1; $1 = ""; printf " %-24s %7.1f s\n", $0, ms / 1000 } END { printf "  %-23s %7.1f s\n", "in all", '"$SECONDS"' }' "$times"
  # What CI looks for is the last line.
  [ ! -e "$log" ] || sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -E '^ *Summary \[' | tail -n 1 || true
  exit "$1"
}

# ---- what the phases do

install_tools() {
  farm_check_rust "$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)"
  if ! command -v cargo-nextest >/dev/null; then
    farm_say "building cargo-nextest, once; takes some minutes"
    cargo install --locked cargo-nextest
  fi
  case "$1" in quick | unit) ;; *) farm_install; install_ssh; install_mail ;; esac
  case "$1" in e2e | all | bed) install_clients ;; esac
  if [ "$1" = package ]; then install_checkers; fi
  if [ "$1" = api ]; then take_published; fi
}

# What tests of --ssh speak to. (Of the server only the program: the packages that run one by themselves would open the machine.)
install_ssh() {
  local missing=()
  command -v ssh >/dev/null && command -v ssh-agent >/dev/null || missing+=(openssh-client)
  command -v dropbear >/dev/null && command -v dropbearkey >/dev/null || missing+=(dropbear-bin)
  install_missing "${missing[@]}"
}

# The mail server of tests.
install_mail() {
  local missing=()
  /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null || missing+=(python3-aiosmtpd)
  install_missing "${missing[@]}"
}

# What reads and signs images beside the engine's own tools, and crane's registry: of Debian's newest suite, as older ones have
# none or too old ones. What other systems have none of is told, and its tests say so.
install_clients() {
  local missing=() package suite=forky
  for package in crane oras cosign; do command -v "$package" >/dev/null || missing+=("$package"); done
  [ "${#missing[@]}" -gt 0 ] || return 0
  farm_os
  if [ "$FARM_OS" != debian ]; then
    farm_say "${missing[*]}: not to be had here as packages, and what they read isn't tested"
    return 0
  fi
  farm_apt_cleanup
  farm_say "installing ${missing[*]} of $suite"
  [ "$suite" = "$FARM_CODENAME" ] || farm_open_suite "$suite" || farm_die "crane, oras and cosign are Debian's newest suite's, which can't be asked"
  missing=("${missing[@]/%//$suite}")
  farm_installs_cleanly "${missing[@]}" || farm_die "${missing[*]} would upgrade what is installed here; install them by hand"
  farm_apt_install "${missing[@]}" || farm_die "apt-get install ${missing[*]} failed"
  farm_close_suite
}

# What reads packages and units.
install_checkers() {
  local missing=()
  command -v lintian >/dev/null || missing+=(lintian)
  command -v systemd-analyze >/dev/null || missing+=(systemd)
  install_missing "${missing[@]}"
}

# GitHub's own examples of deliveries, which the long form of `api` reads.
take_published() {
  local examples=@octokit/webhooks-examples@7.6.1 folder=target/published
  [ ! -e "$folder/package/package.json" ] || return 0
  command -v npm >/dev/null || install_missing npm
  rm -rf "$folder"
  mkdir -p "$folder"
  (cd "$folder" && npm pack --silent "$examples" && tar xzf ./*.tgz) || farm_die "npm pack $examples failed; it needs npm's registry"
}

install_missing() { # packages
  [ $# -gt 0 ] || return 0
  farm_say "installing $*"
  farm_apt_update 6 && farm_apt_install "$@" || farm_die "apt-get install $* failed"
}

# The base images are made while cargo compiles; the two hardly wait for each other.
begin_base_images() {
  deploy/base-images.sh --cache "$cache" --only python >target/base-images.log 2>&1 &
  images=$!
}

wait_base_images() {
  wait_beside 'base images' "$images" target/base-images.log
  images=''
}

# The packages are made and read while the tests and faults run, in what time of the CPUs those leave.
begin_packages() {
  nice -n 19 tests/package.sh files "$packages" >target/package.log 2>&1 &
  packing=$!
}

wait_packages() {
  wait_beside 'rest of package' "$packing" target/package.log
  packing=''
  rm -rf "$packages"
}

# The cases of `differential` run beside the faults, which wait for something more than half of the time, and get what those leave.
begin_differential() {
  nice -n 19 target/debug/farm-differential --seed 1 --cases 20 >target/differential.log 2>&1 &
  comparing=$!
}

wait_differential() {
  wait_beside 'rest of differential' "$comparing" target/differential.log
  comparing=''
  tail -n 1 target/differential.log
}

# Waits for what was begun beside other phases, and shows what it said when it failed.
wait_beside() { # name, process, log
  local begin=${EPOCHREALTIME/[.,]/} rc=0
  printf '\n=== %s\n' "$1"
  wait "$2" || rc=$?
  note_time "$1" "$begin"
  [ "$rc" = 0 ] || { cat "$3" >&2; finish "$rc"; }
}

# Clippy's driver is a compiler as well: it lints our own packages while it compiles them (lints.sh), and their
# dependencies are compiled once, by rustc. (`cargo clippy` would have all of them checked again, for two minutes and more.)
lint_while_compiling() {
  command -v clippy-driver >/dev/null || farm_die "clippy is missing: rustup component add clippy (or the package rust-clippy)"
  export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/lints.sh CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
}

# Everything is compiled here, once: nothing that follows calls rustc again. `--workspace` always, as with fewer packages
# the dependencies would get other features and be compiled anew.
build() {
  # More at once than there are CPUs: the largest, which cargo begins last, would be alone for a minute otherwise.
  cargo build --workspace --all-targets --jobs $((2 * $(nproc))) "${locked[@]}"
  cargo nextest list --workspace --offline --list-type binaries-only --message-format json >"$binaries"
  # Only what this machine compiles is here; the crates of other systems never were fetched.
  cargo metadata --format-version 1 --offline --filter-platform "$(rustc -vV | sed -n "s/^host: //p")" >"$metadata"
}

# The one thing in deny.toml that changes without us: so not part of a run that has to pass again.
advisories() {
  if ! command -v cargo-deny >/dev/null; then
    if [ -z "${FARM_INSTALL_DENY:-}" ]; then
      farm_die "cargo-deny is not here, so advisories were not looked at: install it (cargo install --locked cargo-deny)," \
        "or let this script do it (FARM_INSTALL_DENY=1 tests/run.sh advisories); it compiles for minutes"
    fi
    cargo install --locked cargo-deny
  fi
  cargo deny fetch db || farm_die "the database of advisories cannot be fetched, so they were not looked at: cargo-deny" \
    "needs a network for it (and git's own access to where the database is: \`cargo deny fetch db\` says it)"
  cargo deny --workspace check advisories
}

# In a run of everything it is said, where it can be found out, and fails nothing: a run that passed should pass again.
say_advisories() {
  if ! command -v cargo-deny >/dev/null; then
    farm_say "advisories were not looked at: cargo-deny is not here (FARM_INSTALL_DENY=1 tests/run.sh advisories installs it)"
  elif ! (advisories); then
    farm_say "advisories: see above; this run goes on"
  fi
}

check_beside() { # commit
  git rev-parse --verify --quiet "$1^{commit}" >/dev/null ||
    farm_die "--beside $1: no tag or commit of that name is here; \`git tag\` lists tags, \`git fetch --tags\` brings them"
  git cat-file -e "$1:$store/migrations/0023_schema_compat.sql" 2>/dev/null ||
    farm_die "--beside $1: that farm refuses every newer schema; name a commit that has $store/migrations/0023_schema_compat.sql"
}

# The coordinator of another commit, compiled in a work tree and a target folder that stay for the next time. The driver
# finds it by the same name (stage.rs).
build_beside() { # commit
  local commit name=${1//[^A-Za-z0-9._-]/_} folder
  commit=$(git rev-parse --verify "$1^{commit}")
  folder=$PWD/target/beside/$name
  git worktree prune
  if [ -e "$folder/source/.git" ]; then
    git -C "$folder/source" checkout --quiet --force --detach "$commit"
  else
    mkdir -p "$folder"
    git worktree add --quiet --force --detach "$folder/source" "$commit"
  fi
  (cd "$folder/source" && env -u RUSTC_WORKSPACE_WRAPPER -u CLIPPY_ARGS "CARGO_TARGET_DIR=$folder/../target" SQLX_OFFLINE=true \
    cargo build --workspace --bin farm-coordinator --offline) ||
    farm_die "--beside $1: it does not compile; if crates are missing: cargo fetch --manifest-path $folder/source/Cargo.toml"
  cp "$folder/../target/debug/farm-coordinator" "$folder/"
}

filter_of() {
  local needs_bed='package(farm-store) | package(farm-tests) | (package(farm-worker) & kind(test))'
  case "$1" in
    unit) echo "not ($needs_bed) | (package(farm-tests) & (kind(lib) | binary(layering) | binary(deny))) | (package(farm-store) & test(/^schema::rules|^proof::rules|^a_query_file_has|^queries_are/))" ;;
    store) echo 'package(farm-store) | (package(farm-tests) & binary(store))' ;;
    api) echo 'package(farm-tests) & binary(api)' ;;
    security) echo '(package(farm-tests) & (binary(security) | binary(oidc))) | (package(farm-coordinator) & test(/^outbound|^registry/))' ;;
    e2e) echo '(package(farm-tests) & (binary(bed) | binary(e2e) | binary(local))) | (package(farm-worker) & kind(test))' ;;
    # The long forms are in modules `full`, of whatever binary.
    all) echo 'not ((package(farm-tests) | (package(farm-worker) & kind(test))) & test(/(^|::)full::/))' ;;
  esac
}

run_tests() { # what, nextest arguments...
  local what=$1 color=auto
  shift
  [ ! -t 1 ] || color=always
  cargo nextest run --binaries-metadata "$binaries" --cargo-metadata "$metadata" --no-tests warn --color "$color" \
    -E "$(filter_of "$what")" "$@" 2>&1 | tee "$log"
}

# Without a bed: in an environment of its own, with an empty home.
alone() { # command...
  local home rc=0
  home=$(mktemp -d /tmp/farm-test-home-XXXXXX)
  isolate "$home"
  "${isolated[@]}" "$@" || rc=$?
  rm -rf "$home"
  return "$rc"
}

# In the test bed: writes what the macros of sqlx make of the present queries and migrations to target/sqlx-fresh.
generate_sqlx() {
  local database=generate_sqlx url migration whole lib=$store/src/lib.rs before said rc=0
  psql -Xq -d "$FARM_TEST_DATABASE_URL" -c "CREATE DATABASE $database"
  url=${FARM_TEST_DATABASE_URL/\/postgres\?//$database?}
  for migration in "$store"/migrations/*.sql; do
    whole=--single-transaction
    [ "$(head -c 17 "$migration")" != '-- no-transaction' ] || whole=
    psql -Xq -v ON_ERROR_STOP=1 $whole -d "$url" -f "$migration" >/dev/null
  done
  rm -rf "$fresh_sqlx"
  mkdir -p "$fresh_sqlx"
  # The macros write only when their crate is compiled. Afterwards its file gets its old time back, or every later build
  # would take it for changed.
  before=$(mktemp) said=$(mktemp)
  cp -p "$lib" "$before"
  touch "$lib"
  SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$fresh_sqlx DATABASE_URL=$url CARGO_TARGET_DIR=$PWD/target \
    cargo check --package farm-store --all-targets --offline --quiet --keep-going 2>"$said" || rc=$?
  if cmp -s "$before" "$lib"; then touch -r "$before" "$lib"; fi
  # Other packages may be in the middle of a change; the queries are all in this one.
  if [ "$rc" != 0 ]; then
    if grep -q 'could not compile `farm-store`' "$said" || [ -z "$(find "$fresh_sqlx" -name 'query-*.json' -print -quit)" ]; then
      cat "$said" >&2
    else
      rc=0
    fi
  fi
  rm -f "$before" "$said"
  psql -Xq -d "$FARM_TEST_DATABASE_URL" -c "DROP DATABASE $database WITH (FORCE)"
  return "$rc"
}

refresh_sqlx() {
  generate_sqlx
  mkdir -p "$store/.sqlx"
  rm -f "$store"/.sqlx/query-*.json
  cp "$fresh_sqlx"/query-*.json "$store/.sqlx/"
  farm_say "$(find "$store/.sqlx" -name 'query-*.json' | wc -l) queries in $store/.sqlx"
}

# ---- the test bed

# Runs a command in fresh network, mount and PID namespaces. Whatever kills this script kills `unshare` with it, its
# child with that, and being the first process of its PID namespace, that child takes all the others along.
in_namespaces() {
  local pid rc=0 as=() made=''
  [ "$(id -u)" = 0 ] || as=(sudo)
  # There must be a folder to mount something on.
  if [ ! -d "$farm_state" ]; then "${as[@]}" mkdir -p "$farm_state"; made=1; fi
  isolate "$bed_home"
  # Not before sudo, which adds variables of its own.
  "${as[@]}" "${isolated[@]}" setpriv --pdeathsig KILL \
    unshare --net --mount --pid --fork --kill-child=SIGKILL --mount-proc bash tests/run.sh --first-process "$@" <&0 &
  pid=$!
  # unshare itself lets signals pass; its child hands them on.
  trap 'pkill -TERM -P "$pid" || true' INT TERM
  wait_for "$pid" || rc=$?
  trap - INT TERM
  [ ${#as[@]} = 0 ] || sudo chown -R "$(id -u):$(id -g)" target
  # Not while it is hidden in another bed: the kernel would take that away with it.
  [ -z "$made" ] || "${as[@]}" flock -xn "$farm_state" rmdir --ignore-fail-on-non-empty "$farm_state" || true
  return "$rc"
}

# In mount namespaces of its own: what farm and its tools look at by themselves is that of no machine. There is an empty
# /run, so that no engine's socket is found, and the home of tests lies in it.
hide_machine() {
  local folder held resolv names=''
  case $PWD/ in /run/* | "$farm_state"/*) farm_die "$PWD is hidden in the test bed: clone the repository elsewhere" ;; esac
  resolv=$(readlink -f /etc/resolv.conf || true)
  case $resolv in /run/*) names=$(cat "$resolv" || true) ;; esac
  exec {held}<"$farm_state"
  flock -s "$held"
  for folder in /run "$farm_state" /etc/docker /etc/containers; do
    [ ! -d "$folder" ] || mount -t tmpfs -o mode=755 farm-test "$folder"
  done
  [ ! -e /etc/gitconfig ] || mount --bind /dev/null /etc/gitconfig
  mkdir -m 1777 /run/lock
  mkdir "$bed_home"
  if [ -n "$names" ]; then
    mkdir -p "${resolv%/*}"
    printf '%s\n' "$names" >"$resolv"
  fi
  # skopeo wants to be told whom to trust.
  [ ! -d /etc/containers ] || echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
}

first_process() {
  hide_machine
  ip link set lo up
  mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  export FARM_TEST_NAMESPACE=1
  # In the background, since a shell that waits in the foreground hears no signals; it stays, to reap orphans.
  "$@" <&0 &
  local pid=$! rc=0
  trap 'kill -TERM "$pid" 2>/dev/null || true' INT TERM
  wait_for "$pid" || rc=$?
  exit "$rc"
}

# `wait` ends early when a trap runs.
wait_for() {
  local rc=0
  while :; do
    rc=0; wait "$1" || rc=$?
    kill -0 "$1" 2>/dev/null || return "$rc"
  done
}

in_bed() { # command...
  local keep=() memory
  if [ -n "${FARM_KEEP:-}" ]; then keep=(--keep)
  elif [ "$what" != bed ] && [ -z "${FARM_ON_DISK:-}" ]; then
    # What is measured is measured on a disk; tests need none where there is memory enough.
    memory=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
    [ "$memory" -lt "$enough_memory" ] || keep=(--memory "$((memory / 2))m")
  fi
  in_namespaces target/debug/farm-testbed --state "$state" --cache "$cache" "${keep[@]}" -- "$@"
}

# ---- main

what=${1:-all}
[ $# = 0 ] || shift
case "$what" in
  quick | unit | store | api | security | e2e | all | faults | differential | package | bed | sqlx) ;;
  advisories) advisories; exit ;;
  env) alone "${@:-env}"; exit ;;
  --first-process) first_process "$@" ;; # does not return
  --inside)
    inside=1 what=$1; shift
    case "$what" in
      sqlx) phase 'queries' refresh_sqlx; exit 0 ;;
    esac
    phase 'tests' run_tests "$what" "$@"
    # Always the same seeds: a run that passes should pass again. The faults come last, as they leave the machine no rest.
    if [ "$what" = all ]; then
      begin_differential
      phase 'faults' target/debug/farm-faults --seed 1 --faults 15 --kinds "$fault_kinds"
      wait_differential
    fi
    exit 0 ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac

beside=''
if [ "$what" = faults ] && [ "${1:-}" = --beside ]; then
  [ -n "${2:-}" ] || farm_die "--beside needs a tag or a commit"
  beside=$2
  shift 2
  check_beside "$beside"
fi

mkdir -p target
: >"$times"
rm -f "$log"
# A lock file that does not fit is an error where nobody would commit the mended one.
locked=()
[ -z "${FARM_LOCKED:-}" ] || locked=(--locked)
trap 'exit 130' INT TERM

phase 'tools' install_tools "$what"
case "$what" in quick | unit) ;; *) begin_base_images ;; esac
if [ "$what" = all ]; then phase 'advisories' say_advisories; fi
case "$what${FARM_SKIP_LINT:+ without lints}" in
  quick | unit | all) phase 'fmt' cargo fmt --all -- --check ;;
esac
case "$what${FARM_SKIP_LINT:+ without lints}" in
  quick | unit | store | api | security | e2e | all | faults | differential | package) lint_while_compiling ;;
esac
case "$what" in
  quick)
    # One call of cargo: only what the tests need is compiled, and no test of another process.
    phase 'lints and unit tests' alone env ${RUSTC_WORKSPACE_WRAPPER:+"RUSTC_WORKSPACE_WRAPPER=$RUSTC_WORKSPACE_WRAPPER" "CLIPPY_ARGS=$CLIPPY_ARGS"} \
      "CARGO_TARGET_DIR=$CARGO_TARGET_DIR" cargo nextest run --workspace --lib --bins "${locked[@]}" \
      -E 'not package(farm-store) | test(/^(schema|proof)::rules/)' "$@"
    finish 0 ;;
  # What has changed in the queries may keep the rest from compiling; the test bed knows no queries.
  sqlx) phase 'build' cargo build --workspace --bin farm-testbed "${locked[@]}" ;;
  bed) phase 'build' cargo build --workspace --bin farm-testbed --bin farm-coordinator "${locked[@]}" ;;
  package) phase 'build' cargo build --workspace --bins "${locked[@]}" ;;
  faults)
    phase 'build' cargo build --workspace --bins "${locked[@]}"
    [ -z "$beside" ] || phase "build of $beside" build_beside "$beside" ;;
  *) phase 'build' build ;;
esac
case "$what" in
  unit)
    rc=0
    alone bash tests/run.sh --inside unit "$@" || rc=$?
    finish "$rc" ;;
  *)
    if [ "$what" = package ]; then
      phase 'package' tests/package.sh files "$packages"
      phase 'lintian, made anew' tests/package.sh again "$packages"
      phase 'installed' tests/package.sh install "$packages"
    fi
    wait_base_images
    begin=${EPOCHREALTIME/[.,]/} rc=0 before=$(noted)
    if [ "$what" = bed ]; then
      [ $# -gt 0 ] || set -- bash
      in_bed "$@" || rc=$?
    elif [ "$what" = package ]; then
      in_bed tests/package.sh services "$packages" || rc=$?
      note_time 'services' "$begin" $(($(noted) - before))
      farm_root rm -rf "$packages"
    elif [ "$what" = faults ] || [ "$what" = differential ]; then
      in_bed env ${beside:+"FARM_TEST_BESIDE=$beside"} "target/debug/farm-$what" "$@" || rc=$?
    else
      [ "$what" != all ] || begin_packages
      in_bed bash tests/run.sh --inside "$what" "$@" </dev/null || rc=$?
      note_time 'test bed up and down' "$begin" $(($(noted) - before))
      [ "$what" != all ] || [ "$rc" != 0 ] || wait_packages
    fi
    finish "$rc" ;;
esac
finish 0

# shellcheck shell=bash
# Sourced, not run. Puts what farm needs onto a Debian (12, 13) or Ubuntu (24.04) machine by apt: Postgres,
# a registry, QEMU, a Docker engine and small tools. Only what is missing is installed and nothing is upgraded; when all
# is there nothing is asked of apt, so that callers may run `farm_install` each time.
#
#   source deploy/lib/apt.sh; farm_install            everything for the test bed
#   farm_install_packages; farm_install_engine; farm_enable_binfmt     its parts
#   farm_check_rust, farm_install_rust                                 rust.sh
#
# A run that was killed leaves nothing that the next one does not clear away; farm_apt_cleanup does it at once.

FARM_POSTGRES_MIN=15
FARM_ENGINE_MIN=24   # the first dockerd that can keep its images in containerd's store

farm_say() { printf '%s\n' "farm: $*" >&2; }
farm_die() { farm_say "error: $*"; exit 1; }

# shellcheck source=rust.sh
. "$(dirname "${BASH_SOURCE[0]}")/rust.sh"

# Programs of the system administrator are not in an ordinary user's PATH.
case ":$PATH:" in *:/usr/sbin:*) ;; *) PATH=$PATH:/usr/sbin:/sbin ;; esac

farm_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else farm_die "needs root (or sudo) for: $*"; fi
}

farm_apt() { farm_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=400 "$@" </dev/null; }

# `apt-get update` does not wait for the lock on the lists as `install` does, and mirrors have bad moments.
farm_apt_update() { # number of tries, further arguments
  local tries=$1 try log
  shift
  # Once in a run is enough for the system's own lists.
  [ $# -gt 0 ] || [ -z "${FARM_APT_FRESH:-}" ] || return 0
  log=$(mktemp)
  for try in $(seq "$tries"); do
    if farm_apt update -q -o Acquire::Retries=2 "$@" >"$log" 2>&1 && ! grep -q '^Err:' "$log"; then
      rm -f "$log"
      [ $# -gt 0 ] || FARM_APT_FRESH=1
      return 0
    fi
    sleep "$try"
  done
  tail -n 20 "$log" >&2; rm -f "$log"
  return 1
}

FARM_POLICY=/usr/sbin/policy-rc.d
FARM_POLICY_MARK='# farm: while its packages are installed'
FARM_SOURCE=/etc/apt/sources.list.d/farm-engine.sources
FARM_PIN=/etc/apt/preferences.d/farm-engine

# Whatever was made for the installation only.
farm_apt_cleanup() {
  if grep -qsF "$FARM_POLICY_MARK" "$FARM_POLICY"; then farm_root rm -f "$FARM_POLICY"; fi
  if [ -e "$FARM_SOURCE" ] || [ -e "$FARM_PIN" ]; then farm_root rm -f "$FARM_SOURCE" "$FARM_PIN"; fi
}

# Whatever the packages bring must not start by itself: farm starts its own, and a port taken by surprise is a riddle.
farm_apt_install() {
  local made='' rc=0 log
  log=$(mktemp)
  # An installation that was interrupted would make apt refuse all that follows.
  if [ -n "$(dpkg --audit 2>/dev/null)" ]; then
    farm_say "finishing an installation that was interrupted: dpkg --configure -a"
    farm_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive dpkg --configure -a </dev/null >"$log" 2>&1 || true
  fi
  if [ ! -e "$FARM_POLICY" ] || grep -qF "$FARM_POLICY_MARK" "$FARM_POLICY"; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$FARM_POLICY_MARK" | farm_root tee "$FARM_POLICY" >/dev/null
    farm_root chmod 755 "$FARM_POLICY"; made=1
  fi
  farm_apt install -y -q --no-install-recommends "$@" >>"$log" 2>&1 || rc=$?
  [ -z "$made" ] || farm_root rm -f "$FARM_POLICY"
  [ "$rc" = 0 ] || tail -n 30 "$log" >&2
  rm -f "$log"
  return "$rc"
}

farm_os() { # sets FARM_OS (debian, ubuntu, ...) and FARM_CODENAME
  [ -z "${FARM_CODENAME:-}" ] || return 0
  [ -r /etc/os-release ] || farm_die "no /etc/os-release: which system is this?"
  FARM_OS=$(. /etc/os-release; echo "${ID:-}")
  FARM_CODENAME=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
  command -v apt-get >/dev/null || farm_die "only Debian and Ubuntu are known here; install docker, docker-registry, postgresql (>= $FARM_POSTGRES_MIN), qemu-user-static, mmdebstrap, skopeo by hand"
}

# Prints the folder of the newest Postgres server that is new enough; initdb and postgres are not in PATH on Debian.
farm_postgres_bin() {
  local dir version best='' best_version=0
  for dir in /usr/lib/postgresql/*/bin; do
    [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] || continue
    version=${dir%/bin}; version=${version##*/}
    if [ "${version%%.*}" -ge "$FARM_POSTGRES_MIN" ] && [ "${version%%.*}" -gt "$best_version" ]; then
      best=$dir best_version=${version%%.*}
    fi
  done
  [ -n "$best" ] && printf '%s\n' "$best"
}

farm_host_arch() {
  case "$(uname -m)" in
    x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) farm_die "$(uname -m) machines are not provided for: amd64 and arm64 are" ;;
  esac
}

# The interpreter of the architecture that this machine is not.
farm_foreign_qemu() { if [ "$(farm_host_arch)" = amd64 ]; then echo qemu-aarch64; else echo qemu-x86_64; fi; }

farm_engine_present() {
  local dir
  command -v dockerd >/dev/null && command -v containerd >/dev/null && command -v runc >/dev/null && command -v docker >/dev/null || return 1
  for dir in ~/.docker /usr/local/lib/docker /usr/local/libexec/docker /usr/lib/docker /usr/libexec/docker; do
    [ -x "$dir/cli-plugins/docker-buildx" ] && return 0
  done
  return 1
}

# With FARM_ONLY_RUN only what a farm needs that was compiled elsewhere, and an example on it.
farm_missing_packages() {
  local want
  farm_postgres_bin >/dev/null || echo postgresql
  while read -r command want; do
    command -v "$command" >/dev/null || echo "$want"
  done <<LIST
docker-registry docker-registry
update-binfmts binfmt-support
mmdebstrap mmdebstrap
skopeo skopeo
ip iproute2
iptables iptables
slirp4netns slirp4netns
pkill procps
unshare util-linux
git git
LIST
  if ! command -v "$(farm_foreign_qemu)-static" >/dev/null && ! command -v "$(farm_foreign_qemu)" >/dev/null; then echo qemu-user-static; fi
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  # The base images are made of Debian packages wherever this runs; by it their signatures are checked.
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
  [ -z "${FARM_ONLY_RUN:-}" ] || return 0
  while read -r command want; do
    command -v "$command" >/dev/null || echo "$want"
  done <<LIST
git git
cc gcc
openssl openssl
psql postgresql-client
LIST
  # gcc only recommends the headers that crates with C in them need.
  [ -e /usr/include/stdio.h ] || echo libc6-dev
}

farm_install_packages() {
  local missing
  mapfile -t missing < <(farm_missing_packages)
  [ "${#missing[@]}" -gt 0 ] || return 0
  farm_os
  farm_say "installing ${missing[*]}"
  farm_apt_update 6 || farm_die "apt-get update failed, six times; is apt's mirror to be reached (its words are above), and no other apt at work? Then run this again"
  if [[ " ${missing[*]} " == *" postgresql "* ]]; then
    local version
    version=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
    [ "${version:-0}" -ge "$FARM_POSTGRES_MIN" ] ||
      farm_die "this system's Postgres is ${version:-absent}; farm needs $FARM_POSTGRES_MIN or newer" \
      "(Ubuntu 22.04: add the PostgreSQL project's own apt repository, as the script in" \
      "/usr/share/postgresql-common/pgdg of the package postgresql-common does, then run this again)"
  fi
  farm_apt_install "${missing[@]}" || farm_die "apt-get install ${missing[*]} failed; apt's words are above. When it is mended, run this again: what is installed is kept"
  mapfile -t missing < <(farm_missing_packages)
  [ "${#missing[@]}" = 0 ] || farm_die "still missing after the installation: ${missing[*]}"
}

# Prints this machine's own source of its main archive, rewritten for another suite: same mirror, same keys.
farm_source_for_suite() {
  local suite=$1 stanza
  stanza=$(awk -v code="$FARM_CODENAME" -v suite="$suite" '
    BEGIN { RS = ""; FS = "\n" }
    { hit = 0; out = ""; off = 0
      for (i = 1; i <= NF; i++) {
        if ($i ~ /^#/) continue
        if ($i ~ /^Enabled:[ \t]*no/) off = 1
        if ($i ~ /^Check-Valid-Until:/) continue
        if ($i ~ /^Types:/) $i = "Types: deb"
        if ($i ~ /^Components:/) $i = "Components: main"
        if ($i ~ /^Suites:/) { n = split($i, w, /[ \t]+/); for (j = 2; j <= n; j++) if (w[j] == code) hit = 1; $i = "Suites: " suite }
        out = out $i "\n"
      }
      if (hit && !off) { printf "%s", out; exit }
    }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
  if [ -z "$stanza" ]; then # the one-line style of older installations
    local line
    line=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
      sed -nE "s/^deb[ \t]+(\[[^]]*\][ \t]+)?([^ \t]+)[ \t]+${FARM_CODENAME}[ \t]+main.*/\2/p" | head -n 1)
    [ -n "$line" ] || return 1
    stanza="Types: deb"$'\n'"URIs: $line"$'\n'"Suites: $suite"$'\n'"Components: main"
    [ ! -r /usr/share/keyrings/debian-archive-keyring.gpg ] || stanza+=$'\n'"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"
  fi
  # A testing suite's index may be past its date on a mirror; that is let pass for this one source only.
  printf '%s\nCheck-Valid-Until: no\n' "$stanza"
}

# Lets apt take packages of another suite of Debian's, by name only (`package/suite`), until farm_close_suite. Says why not.
farm_open_suite() {
  if ! farm_source_for_suite "$1" | farm_root tee "$FARM_SOURCE" >/dev/null; then
    farm_say "cannot tell this machine's mirror from its apt sources: $1 is not asked"
    farm_root rm -f "$FARM_SOURCE"
    return 1
  fi
  printf 'Package: *\nPin: release n=%s\nPin-Priority: 100\n' "$1" | farm_root tee "$FARM_PIN" >/dev/null
  if ! farm_apt_update 2 -o Dir::Etc::sourcelist="$FARM_SOURCE" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 2>/dev/null; then
    farm_say "$1 is not to be had from this machine's mirror"
    farm_close_suite
    return 1
  fi
}

farm_close_suite() { farm_root rm -f "$FARM_SOURCE" "$FARM_PIN"; }

# Can these packages be had without upgrading or removing anything that is installed? (Not `grep -q`: it stops reading,
# and what writes to it then fails.)
farm_installs_cleanly() {
  farm_apt -s install --no-install-recommends "$@" 2>/dev/null | grep -E '^0 upgraded, [0-9]+ newly installed, 0 to remove' >/dev/null
}

# Takes the engine of the newest suite that fits this machine as it is. Suites are named per package and never by
# `-t`: that would raise every dependency, the C library first, and so make another system of this one.
farm_install_engine() {
  if farm_engine_present; then
    local have
    have=$(dockerd --version 2>/dev/null | sed -n 's/^Docker version \([0-9]*\).*/\1/p')
    [ "${have:-0}" -ge "$FARM_ENGINE_MIN" ] || farm_die "the Docker engine installed here is version ${have:-unknown}; $FARM_ENGINE_MIN or newer is needed. Upgrade or remove it (package docker.io), then run this again"
    return 0
  fi
  farm_os
  farm_apt_cleanup
  local suites=() suite wanted=() package version found=''
  if [ "$FARM_OS" = debian ]; then
    for suite in forky trixie; do [ "$suite" = "$FARM_CODENAME" ] || suites+=("$suite"); done
  fi
  suites+=("$FARM_CODENAME")
  farm_apt_update 6 || farm_die "apt-get update failed, six times; is apt's mirror to be reached (its words are above), and no other apt at work? Then run this again"
  for suite in "${suites[@]}"; do
    if [ "$suite" != "$FARM_CODENAME" ] && ! farm_open_suite "$suite"; then continue; fi
    wanted=()
    for package in docker.io docker-cli docker-buildx containerd tini-static; do
      version=$(apt-cache madison "$package" 2>/dev/null | awk -v s="$suite" '$0 ~ " " s "(-updates|-security)?/" { print $3; exit }')
      [ "$package" != docker.io ] || found=$version
      # What is here already, in whatever version, apt may judge by its dependencies.
      if [ -n "$version" ] && ! dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii'; then wanted+=("$package/$suite"); fi
    done
    [ "$suite" != "$FARM_CODENAME" ] || wanted=("${wanted[@]%/*}")
    # runc and iptables come from the system itself.
    if [ -z "$found" ] || ! dpkg --compare-versions "$found" ge "$FARM_ENGINE_MIN"; then
      farm_say "$suite has docker.io ${found:-not at all}; $FARM_ENGINE_MIN or newer is needed"
    elif ! farm_installs_cleanly "${wanted[@]}"; then
      farm_say "docker.io $found of $suite would upgrade what is installed here: not taken"
    else
      farm_say "installing the engine: docker.io $found of $suite"
      farm_apt_install "${wanted[@]}" || farm_die "installing the engine failed"
      farm_close_suite
      farm_engine_present || farm_die "the engine is installed but dockerd, containerd, runc, docker or docker-buildx cannot be found"
      return 0
    fi
    farm_close_suite
  done
  farm_die "no suite has an engine that fits this machine; install Docker $FARM_ENGINE_MIN or newer with buildx by hand"
}

# Lets this kernel run the other architecture. The F flag opens the interpreter now, so that it works inside containers.
farm_enable_binfmt() {
  local name dir=/proc/sys/fs/binfmt_misc conf
  name=$(farm_foreign_qemu)
  mountpoint -q "$dir" || farm_root mount -t binfmt_misc binfmt_misc "$dir" || farm_die "cannot mount binfmt_misc (is this a container without privileges?)"
  farm_binfmt_works "$dir/$name" && return 0
  command -v update-binfmts >/dev/null && farm_root update-binfmts --enable "$name" >/dev/null 2>&1
  farm_binfmt_works "$dir/$name" && return 0
  # Where systemd-binfmt keeps the registrations (Debian 13) they are files in the kernel's own format.
  for conf in /usr/lib/binfmt.d/"$name"*.conf; do
    [ -e "$conf" ] || continue
    [ ! -e "$dir/$name" ] || echo -1 | farm_root tee "$dir/$name" >/dev/null
    grep -v '^#' "$conf" | head -n 1 | farm_root tee "$dir/register" >/dev/null
    farm_binfmt_works "$dir/$name" && return 0
  done
  farm_die "could not register $name with flag F in binfmt_misc: images of the other architecture cannot be built here"
}

farm_binfmt_works() { [ -e "$1" ] && grep -q '^enabled' "$1" && grep -q '^flags:.*F' "$1"; }

farm_install() {
  farm_install_packages
  farm_install_engine
  farm_enable_binfmt
}

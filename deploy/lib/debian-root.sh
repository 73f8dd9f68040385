# shellcheck shell=bash
# Sourced, not run. Makes a tar of a root file system of Debian packages by mmdebstrap, shut into namespaces of its own:
# when its first process dies, all of it does, its mounts with it, and all that it leaves is in one folder.
#
# Ways to configure packages:
#   chroot      maintainer scripts run inside the new root, so this machine must be able to execute the architecture
#   chrootless  they run with this machine's programs and work on the new root from outside (DPKG_ROOT): any
#               architecture at native speed. A script that does not know this would change this machine instead; so
#               for it all files of this machine are read-only, and it fails.
# For the extract variant, which runs no scripts, either will do. `work`, a folder, is for the caller to set.
# shellcheck disable=SC2154

# The first program in the namespaces: prepares what is to be different there, and becomes the command. /tmp is the
# scratch folder.
# shellcheck disable=SC2016 # expanded by the inner shell
debian_confine='
  scratch=$1 way=$2; shift 2
  mount --bind "$scratch" /tmp
  cd /tmp
  if [ "$way" = chrootless ]; then
    # Some scripts tell systemd to read its files anew. Where its folder hides the one of resolv.conf, that comes back.
    if [ -d /run/systemd ]; then
      names=$(cat /etc/resolv.conf 2>/dev/null || true)
      mount -t tmpfs -o mode=755 tmpfs /run/systemd
      if ! [ -e /etc/resolv.conf ]; then
        file=$(readlink -m /etc/resolv.conf)
        mkdir -p "${file%/*}"
        printf "%s\n" "$names" >"$file"
      fi
    fi
    # dpkg would read how this machine is to be, not how the new root is.
    mount --bind /tmp/dpkg.cfg.d /etc/dpkg/dpkg.cfg.d
    findmnt -rno TARGET --real | while read -r mount; do
      [ "$mount" = /tmp ] || mount -o remount,bind,ro "$(printf %b "$mount")" 2>/dev/null || true
    done
    for folder in / /etc /usr /usr/local /var /var/lib; do
      [ ! -w "$folder" ] || { echo "farm: $folder cannot be made read-only" >&2; exit 1; }
    done
  fi
  exec "$@"'

# Files that mmdebstrap is to read belong into the folder that debian_scratch prints; it sees them in /tmp.
# Writes the log to $work/ARCH.log, and for debian_stop the process to $work/ARCH.pid.
debian_tar() { # way, architecture, tar, arguments of mmdebstrap
  local way=$1 arch=$2 tar=$3 scratch mode=root rc=0
  shift 3
  scratch=$(debian_scratch "$arch")
  [ "$way" = chroot ] || mode=chrootless
  # mmdebstrap would ask arch-test whether the architecture can be executed; who calls this knows.
  # shellcheck disable=SC2016
  farm_root bash -c 'echo $$ >"$1"; shift; exec "$@"' - "$work/$arch.pid" \
    unshare --mount --pid --fork --kill-child --mount-proc bash -euc "$debian_confine" - "$scratch" "$way" \
    env LC_ALL=C TMPDIR=/tmp SOURCE_DATE_EPOCH="$OCI_EPOCH" mmdebstrap --quiet --mode="$mode" --architectures="$arch" \
    --format=tar --skip=check/qemu,output/dev --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --aptopt='Acquire::Retries "3"' "$@" </dev/null >"$tar" 2>"$work/$arch.log" || rc=$?
  rm -f "$work/$arch.pid" # the number may be another's soon
  return "$rc"
}

debian_scratch() { # architecture
  local scratch=$work/scratch.$1
  mkdir -p "$scratch/dpkg.cfg.d"
  chmod 1777 "$scratch"
  printf '%s\n' "$scratch"
}

# Ends whatever debian_tar runs, at once.
debian_stop() {
  local pid
  for pid in "$work"/*.pid; do
    # By a shell, which has `kill` built in: not every machine has the program.
    [ ! -e "$pid" ] || farm_root sh -c 'kill -KILL "$1"' - "$(cat "$pid")" 2>/dev/null || true
  done
}

# Prints this machine's own sources of a Debian release and, if it has them, of its updates and security fixes; nothing
# where it is not a Debian or says it in some other way: mmdebstrap then takes its own defaults.
debian_sources() { # suite
  local part stanza
  [ "$FARM_OS" = debian ] || return 0
  for part in '' -updates -security; do
    # The sources of a part are found as those of the whole are: by the name that they have on this machine.
    if stanza=$(FARM_CODENAME=$FARM_CODENAME$part farm_source_for_suite "$1$part"); then
      # What this machine takes packages for is not what the image is for.
      printf '%s\n\n' "$stanza" | sed '/^Architectures:/d'
    elif [ -z "$part" ]; then
      return 0
    fi
  done
}

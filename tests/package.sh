#!/usr/bin/env bash
# Looks at what deploy/package.sh makes of the debug programs. Called by tests/run.sh:
#
#   tests/package.sh files DIR      makes them in DIR; what is in them, the units, what `quickstart.sh --from` refuses
#   tests/package.sh again DIR      what lintian says; are they the same, made once more?
#   tests/package.sh install DIR    a fresh root in DIR/root, into which apt installs the package; nothing may be started
#   tests/package.sh services DIR   (in the test bed) both services run there as their units say
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/lib/apt.sh

what=$1 dir=$2
fail() { printf 'package: %s\n' "$*" >&2; exit 1; }

package() { printf '%s\n' "$dir"/files/farm_*.deb; }
archive() { printf '%s\n' "$dir"/files/farm-*.tar.gz; }

# ---- files

files() {
  rm -rf "$dir"
  mkdir -p "$dir"
  deploy/package.sh --quick --bin-dir target/debug --out "$dir/files"
  dpkg-deb --extract "$(package)" "$dir/extracted"
  in_package
  in_archive
  units
  refusals
}

# Mode, owner and name of all but documentation, exactly.
in_package() {
  dpkg-deb --contents "$(package)" | awk '{ print $1, $2, $6 }' | grep -vE '/usr/share/(doc|man)/.|/$' >"$dir/contents"
  diff - "$dir/contents" <<'LIST' || fail "the package holds something else than it should (>)"
-rw-r----- root/root ./etc/farm/coordinator.env
-rw-r----- root/root ./etc/farm/worker.env
-rwxr-xr-x root/root ./usr/bin/farm
-rwxr-xr-x root/root ./usr/bin/farm-coordinator
-rwxr-xr-x root/root ./usr/bin/farm-local
-rwxr-xr-x root/root ./usr/bin/farm-worker
-rw-r--r-- root/root ./usr/lib/systemd/system/farm-coordinator.service
-rw-r--r-- root/root ./usr/lib/systemd/system/farm-worker.service
-rw-r--r-- root/root ./usr/lib/sysusers.d/farm.conf
-rw-r--r-- root/root ./usr/share/bash-completion/completions/farm
-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/farm.fish
-rw-r--r-- root/root ./usr/share/lintian/overrides/farm
-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_farm
LIST
  local page depends crate doc=$dir/extracted/usr/share
  for page in man1/farm.1 man1/farm-submit.1 man8/farm-coordinator.8 man8/farm-worker.8 man8/farm-local.8; do
    zcat "$doc/man/$page.gz" | grep -q '^\.SH' || fail "no $page"
  done
  depends=$(dpkg-deb --field "$(package)" Depends)
  [[ $depends =~ ^'libc6 (>= 2.'[0-9]+'), ' ]] || fail "the C library is missing in Depends: $depends"
  zcat "$doc/doc/farm/licences.txt.gz" >"$dir/licences"
  for crate in tokio@ sqlx-postgres@ tonic@; do grep -q "^$crate" "$dir/licences" || fail "no licence of $crate"; done
  ! grep -qE '^(proptest|jsonschema)@' "$dir/licences" || fail "crates of tests are among the licences"
}

in_archive() {
  mkdir "$dir/unpacked"
  tar -xzf "$(archive)" -C "$dir/unpacked" --strip-components=1
  (cd "$dir/unpacked" && sha256sum --quiet -c SHA256SUMS)
  (cd "$dir/files" && sha256sum --quiet -c SHA256SUMS)
  # All is in the sums but the sums.
  local listed there
  listed=$(wc -l <"$dir/unpacked/SHA256SUMS") there=$(find "$dir/unpacked" -type f | wc -l)
  [ "$there" = $((listed + 1)) ] || fail "$there files in the archive, $listed in its SHA256SUMS"
  "$dir/unpacked/bin/farm" --version >/dev/null
  [ -x "$dir/unpacked/deploy/quickstart.sh" ] || fail "no quickstart.sh in the archive"
}

# ---- units

units() {
  local unit
  if ! command -v systemd-analyze >/dev/null; then
    farm_say "systemd-analyze is not here: skipped (tests/run.sh package installs it)"
    return
  fi
  # It wants to find the programs; the pages are in no place where `man` looks.
  for unit in farm-coordinator farm-worker; do
    sed "s,^ExecStart=,&$(realpath "$dir/extracted"),; /^Documentation=/d" \
      "$dir/extracted/usr/lib/systemd/system/$unit.service" >"$dir/$unit.service"
    systemd-analyze verify "$dir/$unit.service" 2>"$dir/verify" || { cat "$dir/verify"; fail "$unit.service"; }
    ! grep -F "$unit.service" "$dir/verify" || fail "$unit.service: see above"
    systemd-analyze security --offline=yes --threshold=40 --no-pager "$dir/$unit.service" >"$dir/security" ||
      { cat "$dir/security"; fail "$unit.service leaves the service too much"; }
    tail -n 1 "$dir/security"
  done
}

# ---- what can't be used, and what is said about it

refused() { # what is to be said, file
  local said rc=0
  said=$(deploy/quickstart.sh --from "$2" 2>&1 </dev/null) || rc=$?
  [ "$rc" = 1 ] || fail "--from $2 ended with $rc: $said"
  [[ $said == *"$1"* ]] || fail "--from $2: '$1' was to be said, and this was: $said"
}

changed_archive() { # sed expression for REQUIRES
  rm -rf "$dir/changed"
  mkdir -p "$dir/changed/farm-x"
  tar -xzf "$(archive)" -C "$dir/changed/farm-x" --strip-components=1 --wildcards 'farm-*/REQUIRES'
  sed -i "$1" "$dir/changed/farm-x/REQUIRES"
  tar -C "$dir/changed" -czf "$dir/changed.tar.gz" farm-x
}

changed_package() { # sed expression for its control file
  rm -rf "$dir/changed"
  mkdir -p "$dir/changed/DEBIAN"
  dpkg-deb --field "$(package)" | sed "$1" >"$dir/changed/DEBIAN/control"
  dpkg-deb --build "$dir/changed" "$dir/changed.deb" >/dev/null
}

refusals() {
  local other=arm64 file
  [ "$(farm_host_arch)" != arm64 ] || other=amd64
  refused 'no such file' "$dir/nothing"
  : >"$dir/empty"
  refused 'the file is empty' "$dir/empty"
  refused "neither farm's archive" README.md
  refused 'no archive of farm' deploy
  for file in "$(package)" "$(archive)"; do
    head -c 200000 "$file" >"$dir/truncated"
    refused 'is damaged' "$dir/truncated"
  done
  tar -C examples -czf "$dir/another.tar.gz" multiarch
  refused "not made by farm's deploy/package.sh" "$dir/another.tar.gz"
  changed_archive "s/^architecture .*/architecture $other/"
  refused "is for $other, and this machine is" "$dir/changed.tar.gz"
  changed_archive 's/^glibc .*/glibc 99.1/'
  refused 'needs glibc 99.1 or newer' "$dir/changed.tar.gz"
  refused 'the system is too old for it' "$dir/changed.tar.gz"
  changed_package "s/^Architecture: .*/Architecture: $other/"
  refused "is for $other, and this machine is" "$dir/changed.deb"
  changed_package 's/libc6 (>= [^)]*)/libc6 (>= 99.1)/'
  refused 'the system is too old for it' "$dir/changed.deb"
  changed_package 's/^Package: .*/Package: another/'
  refused 'is the package another' "$dir/changed.deb"
}

# ---- made once more

again() {
  local name
  lintian --no-cfg --allow-root --fail-on error,warning "$(package)"
  # Other times, another place, another umask.
  cp target/debug/farm target/debug/farm-local target/debug/farm-coordinator target/debug/farm-worker "$dir/unpacked/"
  (umask 077; deploy/package.sh --quick --bin-dir "$dir/unpacked" --out "$dir/again")
  for name in "$dir"/files/*; do
    cmp "$name" "$dir/again/${name##*/}" || fail "made once more, ${name##*/} is another"
  done
}

# ---- installed

# Of this machine's own release and sources, as `systemctl` something that only writes down what it was asked for: there
# is a systemd, as far as the package's scripts can see.
install_in_root() {
  . deploy/lib/oci-layout.sh
  . deploy/lib/debian-root.sh
  farm_os
  work=$(realpath "$dir")/work
  farm_root rm -rf "$work" "$dir/root"
  mkdir -p "$work" "$dir/root"
  local arch source=() scratch
  arch=$(farm_host_arch)
  scratch=$(debian_scratch "$arch")
  debian_sources "$FARM_CODENAME" >"$scratch/machine.sources"
  [ ! -s "$scratch/machine.sources" ] || source=(/tmp/machine.sources)
  cp "$(package)" "$scratch/farm.deb"
  changed_package 's/libc6 (>= [^)]*)/libc6 (>= 99.1)/'
  cp "$dir/changed.deb" "$scratch/too-new.deb"
  cat >"$scratch/install" <<'HOOK'
set -eu
root=$1
cp /tmp/farm.deb /tmp/too-new.deb "$root/tmp/"
cat /etc/resolv.conf >"$root/etc/resolv.conf"
mkdir -p "$root/run/systemd/system"
for name in bin/systemctl bin/deb-systemd-invoke sbin/invoke-rc.d sbin/service; do
  rm -f "$root/usr/$name"
  printf '#!/bin/sh\necho "${0##*/} $*" >>/calls\n' >"$root/usr/$name"
  chmod 755 "$root/usr/$name"
done
: >"$root/calls"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt='chroot '$root' apt-get -y -q'
! $apt install /tmp/too-new.deb >"$root/too-new.log" 2>&1
chroot "$root" id farm-worker >/dev/null 2>&1 && exit 7
$apt install /tmp/farm.deb
cp "$root/calls" "$root/calls-of-install"
HOOK
  debian_tar chroot "$arch" "$dir/root.tar" --variant=apt --customize-hook='sh /tmp/install "$1"' \
    "$FARM_CODENAME" - "${source[@]}" || { tail -n 40 "$work/$arch.log" >&2; fail "the package could not be installed"; }
  farm_root tar -xf "$dir/root.tar" -C "$dir/root" --numeric-owner
  rm -rf "$dir/root.tar" "$work"
  installed
}

installed() {
  local root=$dir/root user
  grep -q 'libc6 (>= 99.1)' "$root/too-new.log" || { cat "$root/too-new.log"; fail "apt doesn't say what is too old"; }
  printf '%s\n' "apt of a package that is too new: $(grep -m 1 'libc6 (>= 99.1)' "$root/too-new.log" | xargs)"
  printf 'systemctl daemon-reload\n' | diff - "$root/calls-of-install" || fail "the package asked systemd for more (>)"
  [ -z "$(find "$root/etc/systemd/system" -name 'farm*')" ] || fail "a service was enabled"
  for user in farm-coordinator farm-worker; do
    grep -qE "^$user:[^:]*:[0-9]+:[0-9]+:[^:]*:/var/lib/$user:/usr/sbin/nologin$" "$root/etc/passwd" || fail "no user $user"
  done
  [ ! -e "$root/var/lib/farm-coordinator" ] || fail "the package made a state folder"
  printf 'installed by apt, both users there, nothing enabled or started\n'
}

# ---- the services, in the test bed

services() {
  local root=$dir/root socket folder name
  socket=${FARM_TEST_ENGINE#unix://}
  folder=$(sed -n 's/.*[?&]host=\([^&]*\).*/\1/p' <<<"$FARM_TEST_DATABASE_URL")
  folder=${folder//%2F//}
  # What the environment files say that is to be done, as far as it isn't farm-services'.
  mkdir -p "$root/run/postgresql" "$root/run/systemd/system" "$root/proc" "$root/dev"
  mount --bind "$folder" "$root/run/postgresql"
  : >"$root/run/docker.sock"
  mount --bind "$socket" "$root/run/docker.sock"
  mount -t proc proc "$root/proc"
  mount --bind /dev "$root/dev"
  psql -Xq -d "$FARM_TEST_DATABASE_URL" -c 'CREATE ROLE "farm-coordinator" LOGIN' -c 'CREATE DATABASE farm OWNER "farm-coordinator"'
  chroot "$root" groupadd docker
  chroot "$root" usermod -aG docker farm-worker
  chgrp "$(chroot "$root" getent group docker | cut -d: -f3)" "$socket"
  chmod 660 "$socket"
  target/debug/farm-services "$root"
  # Removed and purged, nothing of it is left.
  chroot "$root" dpkg --purge farm
  for name in /usr/bin/farm /etc/farm /var/lib/farm-coordinator /var/lib/farm-worker; do
    [ ! -e "$root$name" ] || fail "$name is left after a purge"
  done
  grep -qx 'deb-systemd-invoke stop farm-worker.service farm-coordinator.service' "$root/calls" ||
    fail "a removal doesn't stop the services"
}

case $what in
  files | again | services) "$what" ;;
  install) install_in_root ;;
  *) fail "unknown: $what" ;;
esac

# shellcheck shell=bash
# Sourced by base-images.sh. The recipe of a stand-in for python:3.11-slim: packages that are unpacked and not
# configured, since for running Python nothing else is needed. The tests use it, so it is made in seconds.

suite=bookworm # the Debian release whose python3 is 3.11
tag=3.11-slim

packages=base-files,base-passwd,libc-bin,dash,coreutils,sed,grep,findutils,debianutils,hostname,tar,gzip
packages+=,python3-minimal,libpython3-stdlib,python3
# Not needed to run programs. gconv is 8 MB of character sets that Python brings itself.
excluded=(/usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/bug
  /usr/share/pixmaps /usr/share/applications '/usr/lib/*/gconv' '/usr/lib/python3*/test' '/usr/lib/python3*/pydoc_data')

recipe_inputs() { :; } # besides this file

make_tar() { # architecture, tar
  local options=() path source=()
  for path in "${excluded[@]}"; do options+=(--dpkgopt="path-exclude=$path/*"); done
  debian_sources "$suite" >"$(debian_scratch "$1")/farm.sources"
  [ ! -s "$(debian_scratch "$1")/farm.sources" ] || source=(/tmp/farm.sources)
  # No maintainer script runs; the hook does the few things of theirs that matter.
  # shellcheck disable=SC2016 # $1 is the hook's own
  debian_tar chroot "$1" "$2" --variant=extract --include="$packages" "${options[@]}" \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --extract-hook='set -e; r=$1
      cp "$r/usr/share/base-passwd/passwd.master" "$r/etc/passwd"
      cp "$r/usr/share/base-passwd/group.master" "$r/etc/group"
      mkdir -p "$r/tmp" "$r/usr/local/bin"; chmod 1777 "$r/tmp"
      ln -sf mawk "$r/usr/bin/awk"; ln -sf /usr/bin/python3 "$r/usr/local/bin/python"
      rm -rf "$r/var/lib/apt" "$r/var/cache/apt" "$r/var/lib/dpkg"' \
    "$suite" - "${source[@]}"
}

# The program of the other architecture cannot be asked for its version, but bears it as text.
version_in() { # tar; prints 3.11.x
  local series=${tag%-slim} python version
  python=$(tar -tvf "$1" ./usr/bin/python3 | sed -n 's/.* -> //p')
  version=$(tar -xOf "$1" "./usr/bin/$python" 2>/dev/null | grep -aoE "${series//./\\.}\.[0-9]+" | sort -u |
    head -n 1 || true)
  if [ "$python" != "python$series" ] || [ -z "$version" ]; then
    farm_die "${python:-no python3} of Debian $suite is not $series: this machine's mirror holds something else there"
  fi
  printf '%s\n' "$version"
}

image_config() { # version
  cat <<JSON
{"Env":["PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin","LANG=C.UTF-8"],"Cmd":["python3"],"Labels":{
"org.opencontainers.image.title":"python $tag stand-in","org.opencontainers.image.vendor":"farm",
"org.opencontainers.image.version":"$1",
"org.opencontainers.image.description":"Made by farm from Debian $suite packages for tests; not the python image of \
Docker Hub. Lacks: pip, apt, a configured dpkg (packages are unpacked only), CA certificates."}}
JSON
}

# shellcheck shell=bash
# Sourced by quickstart.sh, after apt.sh. Takes farm's programs from what package.sh has made: the archive, the archive
# unpacked, or the Debian package (which is read, not installed).

# Ends with what is wrong and what to do, unless the file can be used on this machine. Sets from_version.
farm_from_check() { # file or folder
  local file=$1 kind
  if [ -d "$file" ]; then
    [ -r "$file/REQUIRES" ] || farm_die "$file: no archive of farm's was unpacked there"
    from_fits "$file" <"$file/REQUIRES"
    return
  fi
  kind=$(from_kind "$file") || exit 1
  if [ "$kind" = archive ]; then
    from_intact "$file" gzip -t "$file"
    from_fits "$file" < <(tar -xzOf "$file" --wildcards --no-anchored 'REQUIRES' 2>/dev/null)
  else
    from_intact "$file" dpkg-deb --field "$file" Package
    from_intact "$file" dpkg-deb --fsys-tarfile "$file"
    local package
    package=$(dpkg-deb --field "$file" Package)
    [ "$package" = farm ] || farm_die "$file is the package $package; farm's is wanted, farm_VERSION_ARCH.deb"
    from_fits "$file" < <(dpkg-deb --show --showformat='version ${Version}\narchitecture ${Architecture}\n' "$file"
      dpkg-deb --field "$file" Depends | sed -nE 's/.*\blibc6 \(>= ([0-9.]+)\).*/glibc \1/p')
  fi
}

# Leaves the programs in a folder's bin/.
farm_from_unpack() { # file or folder, folder
  local file=$1 to=$2
  mkdir -p "$to"
  if [ -d "$file" ]; then
    cp -r "$file/bin" "$file/REQUIRES" "$file/SHA256SUMS" "$to/"
  elif [ "$(from_kind "$file")" = archive ]; then
    from_intact "$file" tar -xzf "$file" -C "$to" --strip-components=1 --no-same-owner --wildcards \
      'farm-*/bin/*' 'farm-*/REQUIRES' 'farm-*/SHA256SUMS'
  else
    mkdir "$to/control"
    from_intact "$file" dpkg-deb --control "$file" "$to/control"
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$to" --no-same-owner ./usr/bin
    (cd "$to" && from_intact "$file" md5sum --quiet --ignore-missing -c control/md5sums)
    mv "$to/usr/bin" "$to/bin"
    return
  fi
  (cd "$to" && from_intact "$file" sha256sum --quiet --ignore-missing -c SHA256SUMS)
}

from_kind() { # file; prints archive or package
  [ -f "$1" ] || farm_die "--from $1: no such file"
  [ -r "$1" ] || farm_die "--from $1: not to be read by $(id -un)"
  [ -s "$1" ] || farm_die "--from $1: the file is empty; get it again"
  case "$(head -c 8 "$1" | od -An -tx1 | tr -d ' \n')" in
    1f8b*) echo archive ;;
    213c617263683e0a) echo package ;;
    *) farm_die "--from $1: neither farm's archive (farm-VERSION-linux-ARCH.tar.gz) nor its Debian package (farm_VERSION_ARCH.deb);" \
      "it begins with '$(head -c 200 "$1" | head -n 1 | tr -cd '[:print:]' | cut -c 1-40)'" ;;
  esac
}

from_intact() { # file, command...
  local file=$1 said
  shift
  said=$("$@" 2>&1 >/dev/null) ||
    farm_die "$file is damaged, or wasn't copied to its end: get it again and compare it with the SHA256SUMS beside it" \
      "($(tail -n 1 <<<"$said"))"
}

# Reads `version`, `architecture` and `glibc` with their values.
from_fits() { # file
  local key value arch='' glibc='' here pretty
  from_version=''
  while read -r key value; do
    case "$key" in version) from_version=$value ;; architecture) arch=$value ;; glibc) glibc=$value ;; esac
  done
  if [ -z "$from_version" ] || [ -z "$arch" ] || [ -z "$glibc" ]; then farm_die "$1: this was not made by farm's deploy/package.sh"; fi
  [ "$arch" = "$(farm_host_arch)" ] ||
    farm_die "$1 is for $arch, and this machine is $(farm_host_arch): take the one for $(farm_host_arch)"
  pretty=$(. /etc/os-release; echo "${PRETTY_NAME:-this system}")
  here=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')
  [ -n "$here" ] || farm_die "$1 needs glibc $glibc or newer, and $pretty has another C library"
  farm_at_least "$glibc" "$here" ||
    farm_die "$1 needs glibc $glibc or newer, and $pretty has $here: the system is too old for it." \
      "Debian 12, Ubuntu 24.04 or newer will do; or compile it here, in a clone: deploy/quickstart.sh without --from"
}

# shellcheck shell=bash disable=SC2154 # work is the caller's
# Sourced by base-images.sh. The recipe of a stand-in for debian:bookworm-slim: the minimal system, configured, with an
# apt that works. Its apt sources are this machine's own.

suite=bookworm
tag=bookworm-slim

excluded=(doc groff info linda lintian locale man)

recipe_inputs() { debian_sources "$suite"; } # the images hold them

# Adds what images have beyond their packages, takes away what they have not, and checks that this is what its name
# will say: the release, every package configured, all of one architecture. If not, the reason is in the log.
# shellcheck disable=SC2016 # $1 to $3 are the hook's own
hook_finish='set -eu; r=$1 arch=$2 suite=$3
  # The names are those of the official images, since there are Dockerfiles that remove one of these files.
  conf=$r/etc/apt/apt.conf.d
  rm -f "$conf/99mmdebstrap" "$r/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
  echo "Acquire::GzipIndexes \"true\";" >"$conf/docker-gzip-indexes"
  echo "Acquire::Languages \"none\";" >"$conf/docker-no-languages"
  echo "APT::AutoRemove::SuggestsImportant \"false\";" >"$conf/docker-autoremove-suggests"
  { echo "// A layer is no place for downloads and caches."
    echo "APT::Keep-Downloaded-Packages \"false\";"
    echo "Dir::Cache::pkgcache \"\"; Dir::Cache::srcpkgcache \"\";"; } >"$conf/docker-clean"
  cp /tmp/dpkg.cfg.d/docker "$r/etc/dpkg/dpkg.cfg.d/docker"
  echo force-unsafe-io >"$r/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
  printf "#!/bin/sh\n# No daemon is started in a build.\nexit 101\n" >"$r/usr/sbin/policy-rc.d"
  chmod 755 "$r/usr/sbin/policy-rc.d"
  sources=$r/etc/apt/sources.list.d
  if [ -e "$sources/0000farm.sources" ]; then
    mv "$sources/0000farm.sources" "$sources/debian.sources"
    # Whoever has the image would have the password of the mirror as well.
    sed -i -E "s,(://)[^/@ ]*@,\1," "$sources/debian.sources"
    # A key of the machine'\''s own is wanted inside too, under the name that the sources give it.
    sed -n "s/^Signed-By:[ \t]*\(\/.*\)/\1/p" "$sources/debian.sources" | sort -u | while read -r key; do
      [ -e "$r$key" ] || install -D -m 644 "$key" "$r$key"
    done
  fi
  # What belongs to this machine, or only to the way that led here.
  rm -f "$r/etc/hostname" "$r/etc/resolv.conf" "$r/etc/machine-id"
  rm -f "$r"/var/lib/dpkg/*-old "$r"/var/cache/debconf/*-old "$r"/var/log/dpkg.log "$r"/var/log/alternatives.log
  find "$r/var/log/apt" "$r/var/cache/apt" -type f -delete
  grep -qx "VERSION_CODENAME=$suite" "$r/etc/os-release" || { echo "farm: not $suite"; exit 1; }
  audit=$(dpkg --root="$r" --audit)
  [ -z "$audit" ] || { echo "farm: dpkg --audit: $audit"; exit 1; }
  wrong=$(dpkg-query --admindir="$r/var/lib/dpkg" -W -f "\${db:Status-Abbrev}\${Architecture} \${Package}\n" |
    grep -vE "^ii (all|$arch) " || true)
  [ -z "$wrong" ] || { echo "farm: not installed, or of another architecture: $wrong"; exit 1; }
  [ -s "$r/etc/ssl/certs/ca-certificates.crt" ] || { echo "farm: no CA certificates"; exit 1; }'

# ca-certificates does not know DPKG_ROOT, but needs only a few folders: these are put where it looks for them.
# ldconfig leaves out what is not of its own architecture. Without a cache the loader looks through its folders, and the
# first library that is installed makes one, so that where this machine cannot execute ldconfig, none is better.
# shellcheck disable=SC2016 # $1 is the hook's own
hook_chrootless='set -eu; r=$1
  export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
  apt-mark auto openssl >/dev/null
  apt-get -y --download-only install ca-certificates
  mkdir -p "$r/usr/share/ca-certificates"
  mount --bind "$r/usr/share/ca-certificates" /usr/share/ca-certificates
  mount --bind "$r/usr/local" /usr/local
  mount --bind "$r/etc" /etc
  rc=0
  dpkg --root="$r" --log="$r/var/log/dpkg.log" --force-not-root --force-script-chrootless \
    --install "$r"/var/cache/apt/archives/ca-certificates_*.deb || rc=$?
  umount /etc /usr/local /usr/share/ca-certificates
  [ "$rc" = 0 ] || exit "$rc"
  chroot "$r" /sbin/ldconfig 2>/dev/null || rm -f "$r/etc/ld.so.cache"'

make_tar() { # architecture, tar
  local native
  native=$(farm_host_arch)
  if [ "$1" = "$native" ]; then
    case "$(debian_sources "$suite")" in
      '' | *"$suite-security"*) ;;
      *) farm_say "this machine's apt sources have no $suite-security: debian:$tag will be without it too" ;;
    esac
    make_tar_by chroot "$@"
    return
  fi
  ! make_tar_by chrootless "$@" || return 0
  tail -n 8 "$work/$1.log" | cut -c1-400 >&2
  farm_binfmt_works "/proc/sys/fs/binfmt_misc/$(farm_foreign_qemu)" ||
    farm_die "debian:$tag-$1 could not be made with this machine's own programs (see above), and the other way is" \
      "to run $1 programs, which this kernel cannot: register QEMU (package qemu-user-static), then run this again"
  farm_say "debian:$tag-$1 could not be made with this machine's own programs; now by emulation, which takes minutes"
  make_tar_by chroot "$@"
}

make_tar_by() { # way, architecture, tar
  local scratch path source=() options=(--include=ca-certificates)
  scratch=$(debian_scratch "$2")
  for path in "${excluded[@]}"; do printf 'path-exclude=/usr/share/%s/*\n' "$path"; done >"$scratch/dpkg.cfg.d/docker"
  printf 'path-include=/usr/share/doc/*/copyright\n' >>"$scratch/dpkg.cfg.d/docker"
  debian_sources "$suite" >"$scratch/farm.sources"
  [ ! -s "$scratch/farm.sources" ] || source=(/tmp/farm.sources)
  printf '%s\n' "$hook_chrootless" >"$scratch/chrootless"
  printf '%s\n' "$hook_finish" >"$scratch/finish"
  # shellcheck disable=SC2016 # $1 is the root, which mmdebstrap gives
  [ "$1" = chroot ] || options=(--include=openssl --customize-hook='sh /tmp/chrootless "$1"')
  options+=(--customize-hook="sh /tmp/finish \"\$1\" $2 $suite")
  debian_tar "$1" "$2" "$3" --variant=minbase \
    --dpkgopt=/tmp/dpkg.cfg.d/docker --dpkgopt=force-unsafe-io "${options[@]}" \
    "$suite" - "${source[@]}"
}

version_in() { # tar; prints 12.x
  local version
  version=$(tar -xOf "$1" ./etc/debian_version)
  case "$version" in 12.*) printf '%s\n' "$version" ;; *) farm_die "this is Debian $version, not $suite" ;; esac
}

image_config() { # version
  cat <<JSON
{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["bash"],"Labels":{
"org.opencontainers.image.title":"debian $tag stand-in","org.opencontainers.image.vendor":"farm",
"org.opencontainers.image.version":"$1",
"org.opencontainers.image.description":"Made by farm from Debian $suite packages; not the debian image of Docker Hub. \
Its apt sources are those of the machine that made it; CA certificates are added. Lacks: package lists (apt-get \
update first), manual pages, translations, documentation but the licences."}}
JSON
}

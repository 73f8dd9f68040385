#!/usr/bin/env bash
# Makes what another machine takes, so that it needs no compiler: an archive and a Debian package of farm's programs,
# with systemd units, manual pages, completions and the licences of all that is compiled in.
#
#   deploy/package.sh [OPTIONS]
#
#   --bin-dir DIR   don't compile: take farm's programs from DIR (target/debug, say)
#   --out DIR       where to put the files (default: target/package)
#   --quick         hardly compress: for tests
#
# It leaves in DIR farm-VERSION-linux-ARCH.tar.gz, farm_VERSION_ARCH.deb and SHA256SUMS, for this machine's architecture.
# The same programs give the same files: names are sorted, and all times are the commit's. What they need of a system's C
# library is read from the programs: compile on the oldest system that is to take them.
# DEBFULLNAME and DEBEMAIL name the package's maintainer.
set -euo pipefail
umask 022
unset CDPATH
root=$(cd "$(dirname "${BASH_SOURCE[0]:-.}")/.." && pwd)
# shellcheck source=lib/apt.sh
. "$root/deploy/lib/apt.sh"
# shellcheck source=lib/compile.sh
. "$root/deploy/lib/compile.sh"
# What others are given is worth the whole optimization.
farm_profile=release farm_profile_folder=release
# shellcheck source=lib/licences.sh
. "$root/deploy/lib/licences.sh"

bin_dir='' out=$root/target/package quick=''
usage() { farm_say "error: $1 (see --help)"; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --quick) quick=1; shift; continue ;;
    --bin-dir | --out) [ -n "${2:-}" ] || usage "$1 needs a folder" ;;
    *) usage "unknown argument $1" ;;
  esac
  case "$1" in
    --bin-dir) bin_dir=$(cd "$2" 2>/dev/null && pwd) || usage "--bin-dir $2: no such folder" ;;
    --out) out=$(realpath -m "$2") ;;
  esac
  shift 2
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- what is packed

need() { # program, package that has it
  command -v "$1" >/dev/null || farm_die "$1 is missing: apt-get install $2"
}

# The commit's: 0.1.0 at the tag v0.1.0, 0.1.0+N.gHASH N commits after it, 0.1.0~N.gHASH where there is no tag yet.
version_of_source() {
  local cargo tag commit
  cargo=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
  commit=$(git -C "$root" rev-parse --short=9 HEAD 2>/dev/null) || { printf '%s\n' "$cargo"; return; }
  [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] || commit+=.changed
  tag=v$cargo
  if ! git -C "$root" rev-parse -q --verify "refs/tags/$tag" >/dev/null; then
    printf '%s~%d.g%s\n' "$cargo" "$(git -C "$root" rev-list --count HEAD)" "$commit"
  elif [ "$(git -C "$root" rev-list --count "$tag..HEAD")" != 0 ] || [[ $commit == *.changed ]]; then
    printf '%s+%d.g%s\n' "$cargo" "$(git -C "$root" rev-list --count "$tag..HEAD")" "$commit"
  else
    printf '%s\n' "$cargo"
  fi
}

arch_of() { # program
  case "$(readelf -h "$1" 2>/dev/null | sed -n 's/^ *Machine: *//p')" in
    *X86-64*) echo amd64 ;; AArch64) echo arm64 ;; *) echo unknown ;;
  esac
}

# The newest symbol version of the C library that one of the programs asks for.
glibc_of() { # programs
  readelf -VW "$@" | grep -oE 'GLIBC_[0-9.]+' | sed 's/GLIBC_//' | sort -uV | tail -n 1
}

# Only what dpkg-shlibdeps would find, too: libc with its parts, and the unwinder.
check_libraries() { # programs
  local library
  while read -r library; do
    case "$library" in
      libc.so.6 | libm.so.6 | libpthread.so.0 | libdl.so.2 | librt.so.1 | ld-linux*.so.* | libgcc_s.so.1) ;;
      *) farm_die "the programs need $library, and no dependency of the package is known that brings it; name its package in Depends and its library in check_libraries (deploy/package.sh)" ;;
    esac
  done < <(readelf -dW "$@" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p' | sort -u)
}

# farm's own pages come from its verbs; those of the servers are what their --help says.
manual_of() { # program, what it is
  printf '.TH %s 8 "" "farm %s"\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n' "${1^^}" "$version" "${1//-/\\-}" "$2"
  COLUMNS=78 "$work/bin/$1" --help | sed 's/\\/\\\\/g; s/-/\\-/g; s/^[.'\'']/\\\&&/'
  printf '.fi\n.SH SEE ALSO\n.BR farm (1)\n'
}

collect() { # fills $work/bin, man, completions, licences.txt
  local program
  mkdir -p "$work/bin" "$work/man/man1" "$work/man/man8" "$work/completions"
  for program in "${programs[@]}"; do
    # Names of functions are of use in a debugger only: panics tell file and line without them.
    strip --strip-all --remove-section=.comment -o "$work/bin/$program" "$bin_dir/$program"
    chmod 755 "$work/bin/$program"
  done
  HOME=$work "$work/bin/farm" man "$work/man/man1" >/dev/null
  manual_of farm-coordinator "farm's coordinator: takes builds, gives jobs to workers, publishes" >"$work/man/man8/farm-coordinator.8"
  manual_of farm-worker "farm's worker: builds on this machine's engine" >"$work/man/man8/farm-worker.8"
  manual_of farm-local "the supervisor of a farm on one machine, which farm up starts" >"$work/man/man8/farm-local.8"
  gzip -9n "$work"/man/man?/*
  HOME=$work "$work/bin/farm" completions bash >"$work/completions/farm.bash"
  HOME=$work "$work/bin/farm" completions zsh >"$work/completions/_farm"
  HOME=$work "$work/bin/farm" completions fish >"$work/completions/farm.fish"
  farm_licences "$root" >"$work/licences.txt"
}

put() { # mode, from, to
  install -D -m "$1" "$2" "$3"
}

# ---- the archive

# Enough to try farm from: what quickstart.sh reads of a clone lies in it as it does there.
make_archive() { # leaves $out/NAME.tar.gz
  local name=farm-$version-linux-$arch top program file
  top=$work/$name
  for program in "${programs[@]}"; do put 755 "$work/bin/$program" "$top/bin/$program"; done
  for file in "$root"/deploy/package/*.service; do
    # Who unpacks it puts programs where no package manager has its own.
    put 644 "$file" "$top/systemd/${file##*/}"
    sed -i 's,=/usr/bin/,=/usr/local/bin/,' "$top/systemd/${file##*/}"
  done
  put 644 "$root/deploy/package/sysusers.conf" "$top/systemd/sysusers.conf"
  put 644 "$root/deploy/package/coordinator.env" "$top/etc/coordinator.env"
  put 644 "$root/deploy/package/worker.env" "$top/etc/worker.env"
  mkdir -p "$top/share"
  cp -r "$work/man" "$work/completions" "$top/share/"
  put 644 "$root/LICENSE" "$top/LICENSE"
  put 644 "$work/licences.txt" "$top/LICENCES-OF-CRATES"
  put 644 "$root/CHANGELOG.md" "$top/CHANGELOG.md"
  put 644 "$root/docs/guide/install.md" "$top/INSTALL.md"
  put 755 "$root/deploy/quickstart.sh" "$top/deploy/quickstart.sh"
  put 755 "$root/deploy/base-images.sh" "$top/deploy/base-images.sh"
  mkdir -p "$top/examples"
  cp -r "$root/deploy/lib" "$top/deploy/"
  cp -r "$root/examples/multiarch" "$top/examples/"
  printf 'version %s\narchitecture %s\nglibc %s\n' "$version" "$arch" "$glibc" >"$top/REQUIRES"
  (cd "$top" && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum) >"$work/sums"
  put 644 "$work/sums" "$top/SHA256SUMS"
  tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w --mtime="@$SOURCE_DATE_EPOCH" --format=gnu \
    -cf - "$name" | gzip "$level" -n >"$work/$name.tar.gz"
  mv "$work/$name.tar.gz" "$out/"
}

# ---- the package

make_package() { # leaves $out/farm_VERSION_ARCH.deb
  local name=farm_${version}_$arch.deb top=$work/deb doc program file page
  doc=$top/usr/share/doc/farm
  for program in "${programs[@]}"; do put 755 "$work/bin/$program" "$top/usr/bin/$program"; done
  for file in "$root"/deploy/package/*.service; do put 644 "$file" "$top/usr/lib/systemd/system/${file##*/}"; done
  put 644 "$root/deploy/package/sysusers.conf" "$top/usr/lib/sysusers.d/farm.conf"
  # They may come to hold the database's password.
  put 640 "$root/deploy/package/coordinator.env" "$top/etc/farm/coordinator.env"
  put 640 "$root/deploy/package/worker.env" "$top/etc/farm/worker.env"
  for page in "$work"/man/man?/*; do put 644 "$page" "$top/usr/share/man/$(basename "$(dirname "$page")")/${page##*/}"; done
  put 644 "$work/completions/farm.bash" "$top/usr/share/bash-completion/completions/farm"
  put 644 "$work/completions/_farm" "$top/usr/share/zsh/vendor-completions/_farm"
  put 644 "$work/completions/farm.fish" "$top/usr/share/fish/vendor_completions.d/farm.fish"
  put 644 "$root/deploy/package/copyright" "$doc/copyright"
  put 644 "$work/licences.txt" "$doc/licences.txt"
  put 644 "$root/CHANGELOG.md" "$doc/NEWS.md"
  put 644 "$root/docs/guide/install.md" "$doc/README.md"
  debian_changelog >"$doc/changelog"
  gzip -9n "$doc/licences.txt" "$doc/NEWS.md" "$doc/README.md" "$doc/changelog"
  put 644 "$root/deploy/package/lintian-overrides" "$top/usr/share/lintian/overrides/farm"
  for file in postinst prerm postrm; do put 755 "$root/deploy/package/$file" "$top/DEBIAN/$file"; done
  printf '/etc/farm/%s\n' coordinator.env worker.env >"$top/DEBIAN/conffiles"
  (cd "$top" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$top/DEBIAN/md5sums"
  control "$(du -sk --apparent-size --exclude=DEBIAN "$top" | cut -f 1)" >"$top/DEBIAN/control"
  # dpkg clamps times to SOURCE_DATE_EPOCH, but leaves older ones as they are.
  find "$top" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  # With one thread, since what several make differs from it.
  dpkg-deb --root-owner-group -Zxz "-z${level#-}" --threads-max=1 --build "$top" "$work/$name" >/dev/null
  mv "$work/$name" "$out/"
}

maintainer="${DEBFULLNAME:-The farm maintainers} <${DEBEMAIL:-maintainers@farm.example}>"

# Nothing that is recommended starts anything: apt installs that, too. Engine and database are suggested, since they
# would be started, and may well be on other machines.
suggests='docker.io (>= 24) | docker-ce (>= 5:24) | buildkit, postgresql (>= 15), docker-registry'
suggests+=', qemu-user-static | qemu-user-binfmt, binfmt-support, slirp4netns, iptables, iproute2'

control() { # installed size
  cat <<CONTROL
Package: farm
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $1
Depends: libc6 (>= $glibc), libgcc-s1 (>= 4.2), systemd-standalone-sysusers | systemd
Recommends: ca-certificates, git (>= 1:2.37), openssh-client
Suggests: $suggests
Section: devel
Priority: optional
Description: build farm for container images of several architectures
 One command sends a folder with a Dockerfile; the farm builds each platform on
 a machine whose CPU runs it natively, or by emulation where that is allowed,
 and publishes one image for all of them.
 .
 The package has the command line (farm), the coordinator, which needs a
 PostgreSQL, the worker, which stands beside a Docker engine or a buildkitd, and
 what runs all of it on one machine (farm up). Both services come with systemd
 units, which are neither enabled nor started.
CONTROL
}

debian_changelog() {
  printf 'farm (%s) unstable; urgency=medium\n\n  * What changed: NEWS.md.gz.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S +0000')"
}

# ---- main

need readelf binutils
need strip binutils
need dpkg-deb dpkg
if [ -z "$bin_dir" ]; then
  farm_install_rust "$(farm_rust_needed "$root")"
  farm_say "compiling farm's programs as for a release: about 28 minutes of one CPU when nothing is compiled yet, so some $((28 / $(nproc) + 1)) minutes here; cargo says how far it is"
  farm_compile "$root"
  bin_dir=$(farm_compiled "$root")
else
  farm_find_rust "$(farm_rust_needed "$root")" || farm_die "cargo is needed to list the crates that are compiled in, also with --bin-dir; deploy/quickstart.sh installs it, or see https://rustup.rs"
fi
paths=()
for program in "${programs[@]}"; do
  [ -x "$bin_dir/$program" ] || farm_die "$bin_dir: there is no $program in it; --bin-dir takes the folder that cargo build --release fills, target/release"
  paths+=("$bin_dir/$program")
done
arch=$(arch_of "${paths[0]}")
[ "$arch" = "$(farm_host_arch)" ] ||
  farm_die "$bin_dir/farm is for $arch and this machine is $(farm_host_arch): its manual pages can't be had; package it on a machine of its own"
check_libraries "${paths[@]}"
glibc=$(glibc_of "${paths[@]}")
version=$(version_of_source)
SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/CHANGELOG.md")
export SOURCE_DATE_EPOCH
level=-9
[ -z "$quick" ] || level=-1

mkdir -p "$out"
collect
make_archive
make_package
(cd "$out" && sha256sum "farm-$version-linux-$arch.tar.gz" "farm_${version}_$arch.deb" >SHA256SUMS)
farm_say "for $arch with glibc $glibc or newer, in $out:"
(cd "$out" && du -h --apparent-size "farm-$version-linux-$arch.tar.gz" "farm_${version}_$arch.deb" | sed 's/^/      /') >&2

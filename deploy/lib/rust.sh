# shellcheck shell=bash
# Sourced by apt.sh, not run. Finds a Rust that is new enough, or gets the distribution's.
#
#   farm_check_rust 1.88       ends with an error that says what to do, unless `cargo` in the PATH is new enough
#   farm_install_rust 1.88     looks further, asks apt, and leaves the result in FARM_CARGO and RUSTC (exported)

# A command as the user who compiles. Who sources this may put another one in its place, as quickstart.sh does.
farm_as_builder() { "$@"; }

farm_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; } # needed, present

farm_rust_too_old() { farm_die "Rust $1 is too old, $2 is needed: rustup update stable"; }

# $1: the least version, as rust-version in Cargo.toml says it.
farm_check_rust() {
  local have need=${1:-1.85}
  have=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
  if [ -z "$have" ] || ! command -v cargo >/dev/null; then
    farm_die "Rust $need or newer is needed: install rustup" \
      "(https://rustup.rs, or the package rustup on Debian 13 and Ubuntu 24.04), then: rustup default stable"
  fi
  farm_at_least "$need" "$have" || farm_rust_too_old "$have" "$need"
}

# Sets FARM_CARGO, RUSTC and FARM_RUST (its version) when there is one that is new enough; else FARM_RUST_SEEN is the
# newest there is, and FARM_RUSTUP a rustup. `--version` is asked as the builder: what rustup's rustc is depends on who
# asks.
farm_find_rust() {
  local need=$1 cargo rustc have
  FARM_CARGO='' FARM_RUST='' FARM_RUST_SEEN='' FARM_RUSTUP=''
  while read -r cargo rustc; do
    have=$(farm_as_builder "$rustc" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
    [ -n "$have" ] && farm_as_builder "$cargo" --version >/dev/null 2>&1 || continue
    if farm_at_least "$need" "$have"; then
      # shellcheck disable=SC2034 # for the caller
      FARM_CARGO=$cargo FARM_RUST=$have
      export RUSTC=$rustc
      return 0
    fi
    if [ -z "$FARM_RUST_SEEN" ] || farm_at_least "$FARM_RUST_SEEN" "$have"; then FARM_RUST_SEEN=$have; fi
  done < <(farm_rust_places)
  # shellcheck disable=SC2016 # the builder's own
  FARM_RUSTUP=$(farm_as_builder sh -c 'PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin; command -v rustup' || true)
  return 1
}

# A line for each pair of cargo and rustc that may be there: in the PATH, rustup's when a login shell has not put it
# into the PATH yet, and Ubuntu's packages with a version in their names, the oldest first: any that is enough will do.
farm_rust_places() {
  # shellcheck disable=SC2016 # the builder's own
  farm_as_builder sh -c 'echo "$(command -v cargo) $(command -v rustc)"
    home=${CARGO_HOME:-$HOME/.cargo}/bin; echo "$home/cargo $home/rustc"' | while read -r cargo rustc; do
    if [ -n "$rustc" ]; then echo "$cargo $rustc"; fi
  done
  printf '%s\n' /usr/bin/cargo-1.* | sort -V | while read -r cargo; do
    if [ -x "$cargo" ]; then echo "$cargo ${cargo/cargo-/rustc-}"; fi
  done
}

farm_candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p'; }

# Prints the packages of the least sufficient Rust that apt has, and nothing when it has none.
farm_rust_packages() {
  local need=$1 candidate package
  candidate=$(farm_candidate rustc)
  if [ -n "$candidate" ] && farm_at_least "$need" "$candidate"; then echo rustc cargo; return 0; fi
  while read -r package; do
    if farm_at_least "$need" "${package#cargo-}" && apt-cache show "rustc-${package#cargo-}" >/dev/null 2>&1; then
      echo "rustc-${package#cargo-} $package"
      return 0
    fi
  done < <(apt-cache pkgnames cargo-1. 2>/dev/null | grep -E '^cargo-1\.[0-9]+$' | sort -V)
}

farm_install_rust() {
  local need=${1:-1.85} packages
  if farm_find_rust "$need"; then return 0; fi
  if [ -n "$FARM_RUSTUP" ]; then
    [ -z "$FARM_RUST_SEEN" ] || farm_rust_too_old "$FARM_RUST_SEEN" "$need"
    farm_die "rustup is here without a toolchain; Rust $need or newer is needed: rustup default stable"
  fi
  farm_os
  farm_apt_update 6 || farm_die "apt-get update failed, six times; is apt's mirror to be reached (its words are above), and no other apt at work? Then run this again"
  read -r -a packages <<<"$(farm_rust_packages "$need")"
  if [ "${#packages[@]}" -gt 0 ]; then
    farm_say "installing ${packages[*]}"
    farm_apt_install "${packages[@]}" || farm_die "apt-get install ${packages[*]} failed; apt's words are above. When it is mended, run this again"
    farm_find_rust "$need" || farm_die "${packages[*]} were installed, but do not run: ${packages[0]} --version"
    return 0
  fi
  local have how
  have=$(farm_candidate rustc)
  if [ -n "$(farm_candidate rustup)" ]; then
    how="As root: apt-get install rustup, then as the user who compiles: rustup default stable"
  else
    how="Install rustup as the user who compiles, as https://rustup.rs shows: it brings the newest Rust"
  fi
  farm_die "Rust $need or newer is needed (here: ${FARM_RUST_SEEN:-none}; this system's packages: ${have:-none})." \
    "$how. Then run this again"
}

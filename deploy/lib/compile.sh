# shellcheck shell=bash
# Sourced by quickstart.sh and package.sh, after apt.sh. Compiles farm's programs.

# shellcheck disable=SC2034 # for the caller
programs=(farm farm-local farm-coordinator farm-worker)
# The profile of cargo's that they are compiled with, and the folder below target/ that it puts them into: `quickstart`
# takes far less CPU time than `release`, of which packages are made.
farm_profile=quickstart farm_profile_folder=quickstart

farm_rust_needed() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$1/Cargo.toml"; } # root of the source

farm_compiled() { printf '%s\n' "$1/target/$farm_profile_folder"; } # root of the source

# With FARM_CARGO and RUSTC as farm_find_rust leaves them; as the builder.
farm_compile() { # root of the source, more for cargo's environment
  local root=$1
  shift
  farm_as_builder env -u DATABASE_URL SQLX_OFFLINE=true "RUSTC=$RUSTC" CARGO_TERM_COLOR=never "$@" \
    "$FARM_CARGO" build --profile "$farm_profile" --locked --workspace --exclude farm-tests "${programs[@]/#/--bin=}" \
    --manifest-path "$root/Cargo.toml" --target-dir "$root/target"
  [ -x "$(farm_compiled "$root")/farm" ] ||
    farm_die "cargo didn't put farm into $(farm_compiled "$root"): is build.target set in a configuration of cargo's?"
}

# How many minutes of one CPU it takes when nothing is compiled yet; measured.
farm_compile_cpu_minutes=9

# The same for people: how far it is, from the progress that cargo writes for terminals. `moving` is in steps.sh.
farm_compile_moving() { # root of the source
  farm_compile "$1" CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 2>&1 |
    stdbuf -oL tr '\r' '\n' | farm_compile_lines
}

# Lines of cargo's on their way into the log, without its progress.
farm_compile_lines() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line//$'\e[K'/}
    if [[ $line =~ Building\ .*\ ([0-9]+/[0-9]+)(:\ (.*))?$ ]]; then
      moving "${BASH_REMATCH[1]} crates  ${BASH_REMATCH[3]:0:48}"
    elif [[ $line =~ Downloading\ [0-9]+\ crates ]]; then
      moving 'downloading crates'
    elif [ -n "${line// /}" ]; then
      printf '%s\n' "$line"
    fi
  done
}

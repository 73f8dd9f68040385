# shellcheck shell=bash
# Sourced, not run. Lists the crates that are compiled into farm's programs, with the texts of their licences as the
# crates bring them, each text once.

# Prints name, version, licence, folder of each crate, with tabs between them; what only compiles (build scripts, macros)
# or only tests is not among them. `programs` are the packages.
farm_crates() { # root of the source
  local features=(--quiet --manifest-path "$1/Cargo.toml" --locked)
  # Crates that were compiled are here, and so no network is wanted; others are fetched.
  "$FARM_CARGO" metadata --format-version 1 --offline "${features[@]}" >/dev/null 2>&1 && features+=(--offline)
  LC_ALL=C join -t $'\t' \
    <("$FARM_CARGO" tree "${features[@]}" "${programs[@]/#/--package=}" --edges normal,no-proc-macro --prefix none --format '{p}|{l}' |
      sed -nE 's/^([^ ]+) v([^ |]+)( \(\*\))?\|(.*)$/\1@\2\t\4/p' | sed 's/ (\*)$//' | LC_ALL=C sort -u) \
    <("$FARM_CARGO" metadata --format-version 1 "${features[@]}" --filter-platform "$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')" |
      grep -oE '"id":"[^"]*"|"manifest_path":"[^"]*"' | awk -F'"' '
        $2 == "id" { id = $4; sub(/.*#/, "", id) }
        $2 == "manifest_path" { path = $4; sub(/\/Cargo.toml$/, "", path); print id "\t" path }' | LC_ALL=C sort -u)
}

farm_licences() { # root of the source
  local crate licence folder file sum text number=0
  declare -A place=() users=()
  local order=() list=''
  while IFS=$'\t' read -r crate licence folder; do
    text='  (the crate brings no text of it)'
    while read -r file; do
      text=''
      sum=$(sha256sum <"$file" | cut -c 1-64)
      if [ -z "${place[$sum]:-}" ]; then
        place[$sum]=$file
        order+=("$sum")
      fi
      users[$sum]+="${users[$sum]:+, }$crate"
    done < <(find "$folder" -maxdepth 1 -type f \
      -iregex '.*/\(licen[cs]e\|copying\|copyright\|notice\|unlicense\)[^/]*' ! -name '*.rs' | LC_ALL=C sort)
    list+="$crate  $licence$text"$'\n'
  done < <(farm_crates "$1")
  printf 'What is compiled into the programs of farm besides its own code, which is under the Apache License 2.0:\n'
  printf 'the standard library of Rust (MIT or Apache License 2.0), and these crates.\n\n%s' "$list"
  for sum in "${order[@]}"; do
    number=$((number + 1))
    printf '\n\n======== %d: %s\n\n' "$number" "${users[$sum]}"
    tr -d '\r' <"${place[$sum]}"
  done
}

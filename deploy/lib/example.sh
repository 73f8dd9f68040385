# shellcheck shell=bash disable=SC2154 # what was asked for is quickstart.sh's
# Sourced by quickstart.sh, after steps.sh. The steps in which the example is built, looked at and run.

# As whoever called, who is to go on with it.
farm_as_caller() {
  as_user "$caller" env -u FARM_TOKEN -u FARM_CONTEXT -u FARM_PROJECT -u FARM_PROGRESS "FARM_URL=http://127.0.0.1:$port" "FARM_TOKEN_FILE=$state/token" \
    "$prefix/bin/farm" "$@"
}

submit() {
  local example=$root/examples/multiarch
  if [ "$registry_port" != 5002 ]; then
    # The example names its bases with the usual port.
    chmod 755 "$work"
    cp -r "$example" "$work/multiarch"
    example=$work/multiarch
    sed -i "s/localhost:5002/$registry/" "$example/Dockerfile"
  fi
  # The single steps of the build are for the log; what was decided and what came of it is shown.
  (cd "$root" && farm_as_caller submit "${example#"$root"/}" -t "$image" --platform linux/amd64,linux/arm64) 2>&1 |
    show '^linux/[^ ]+ +([[|]|fetching |exporting )'
}

# A line for each element of the index's list: platform, digest. There may be neither jq nor Python.
index_lines() {
  tr -d ' \t\n' | awk '
    function value(text, key) {
      if (!match(text, "\"" key "\":\"[^\"]*\"")) return ""
      text = substr(text, RSTART, RLENGTH - 1); sub(/.*"/, "", text); return text
    }
    { start = index($0, "\"manifests\":["); if (!start) exit
      depth = 0; item = ""
      for (i = start + 13; i <= length($0); i++) {
        c = substr($0, i, 1)
        if (c == "{") depth++
        if (c == "]" && depth == 0) break
        if (depth) item = item c
        if (c == "}" && --depth == 0) {
          variant = value(item, "variant")
          if (variant != "") variant = "/" variant
          print value(item, "os") "/" value(item, "architecture") variant, value(item, "digest")
          item = ""
        }
      } }'
}

look_at_index() {
  local platform digest bytes found=''
  skopeo inspect --raw --tls-verify=false "docker://$image" >"$work/index"
  say "$image  sha256:$(sha256sum "$work/index" | cut -d ' ' -f 1)"
  while read -r platform digest; do
    bytes=$(skopeo inspect --raw --tls-verify=false "docker://${image%:latest}@$digest" |
      grep -oE '"size": *[0-9]+' | awk -F: '{ n += $2 } END { printf "%.1f", n / 1e6 }')
    say "$(printf '%-13s %s  %5s MB' "$platform" "$digest" "$bytes")"
    found+=" $platform"
  done < <(index_lines <"$work/index")
  for platform in "${platforms[@]}"; do
    [[ "$found " == *" $platform "* ]] || farm_die "$platform isn't in the index of $image"
  done
}

run_variants() {
  local platform
  # An engine of one's own has no socket here; docker knows it by itself.
  [ ! -S "$state/run/docker.sock" ] || export DOCKER_HOST=unix://$state/run/docker.sock
  for platform in "${platforms[@]}"; do
    say "docker run --rm --platform $platform $image"
    docker run --rm --pull always --quiet --platform "$platform" "$image" | sed 's/^/  /' | show
  done
}

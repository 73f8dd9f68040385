# shellcheck shell=bash disable=SC2154 # log, steps and work, a folder, are the caller's
# Sourced by quickstart.sh, after apt.sh. Runs steps one after the other: each says what it is and how long it took; what
# it writes goes into the log, `say` is for people. Whatever ends the script ends the step that runs, with all its
# processes.

number=0 apt_step=0 job='' ticks='' in_step='' apt_ms=0
exec 3>&1 # what a step says to people; its own output goes into the log
bold='' plain='' fresh='' # fresh: what begins a line anew
if [ -t 1 ]; then
  fresh=$'\r\e[K'
  [ -n "${NO_COLOR:-}" ] || bold=$'\e[1m' plain=$'\e[0m'
fi

say() { printf '%s      %s\n' "$fresh" "$*" >&3; }
farm_say() {
  printf 'farm: %s\n' "$*" >&2
  case "${in_step:+x}$*" in xerror:*) ;; x*) say "$*" ;; esac # errors are shown with the end of the log
}
show() { # pattern of lines that are for the log only
  local line
  while IFS= read -r line; do
    printf '%s\n' "$line"
    [[ -n ${1:-} && $line =~ $1 ]] || say "$line"
  done
}

# What moves while a step takes long: on a terminal a line that is written over each second, elsewhere one every half
# minute. A step that knows how far it is tells it by `moving`.
moving() { printf '%s' "$*" >"$work/moving"; }
tick() {
  local begun=$SECONDS every=1 far
  [ -n "$fresh" ] || every=30
  # No `sleep`: as a child it would outlive this, with the script's output in its hands.
  while ! read -r -t "$every" <>"$work/never"; do
    far=$(cat "$work/moving" 2>/dev/null || true)
    printf '%s      %d s%s' "$fresh" $((SECONDS - begun)) "${far:+  $far}" >&3
    [ -n "$fresh" ] || printf '\n' >&3
  done
}
begin_ticks() {
  rm -f "$work/moving"
  [ -p "$work/never" ] || mkfifo -m 600 "$work/never"
  tick &
  ticks=$!
}
end_ticks() {
  [ -n "$ticks" ] || return 0
  { kill -KILL "$ticks" && wait "$ticks"; } 2>/dev/null || true
  ticks=''
  printf '%s' "$fresh" >&3
}

seconds_of() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); } # milliseconds

step() { # title, command...; in a process group of its own, so that all of it can be ended
  local step_begin=${EPOCHREALTIME/[.,]/} log_from rc=0
  number=$((number + 1))
  printf '%s[%d/%d] %s%s\n' "$bold" "$number" "$steps" "$1" "$plain"
  printf '\n=== %s\n' "$1" >>"$log"
  log_from=$(stat -c %s "$log")
  shift
  set -m
  (set -e; in_step=1; trap 'exit 143' TERM; "$@") >>"$log" 2>&1 </dev/null &
  job=$!
  set +m
  begin_ticks
  wait "$job" || rc=$?
  end_ticks
  job=''
  local ms=$(((${EPOCHREALTIME/[.,]/} - step_begin) / 1000))
  if [ "$rc" != 0 ]; then
    printf '      failed after %s (exit %d); the end of what it said:\n\n' "$(seconds_of "$ms")" "$rc"
    tail -c "+$((log_from + 1))" "$log" | tail -n 20
    printf '\nAll of it: %s\n%s\nWhen the cause is mended, run this again: it goes on from there.\n' "$log" "$(cure "$1")"
    exit 1
  fi
  [ "$number" != "$apt_step" ] || apt_ms=$((apt_ms + ms))
  printf '      %s\n' "$(seconds_of "$ms")"
}

end_group() { # process group; half a minute for its own cleaning up
  local tries=150
  kill -TERM -- "-$1" 2>/dev/null || return 0
  while group_lives "$1"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { kill -KILL -- "-$1" 2>/dev/null || true; return 0; }
    sleep 0.2
  done
}

# Those that have ended and that nobody has waited for don't count.
group_lives() { # process group
  if command -v ps >/dev/null; then
    ps -eo pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^[ZX]/ { lives = 1 } END { exit !lives }'
  else
    kill -0 -- "-$1" 2>/dev/null
  fi
}

end_step() { # what runs, if something does
  end_ticks
  if [ -n "$job" ] && [ "$number" = "$apt_step" ]; then
    # The shell takes notice of it when apt has ended: an installation that is cut short is a mess.
    printf 'waiting for apt to end\n'
    kill -TERM "$job" 2>/dev/null || true
    wait "$job" || true
  elif [ -n "$job" ]; then
    end_group "$job"
  fi
}

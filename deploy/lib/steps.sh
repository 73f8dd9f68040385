# shellcheck shell=bash disable=SC2154 # log and steps are the caller's
# Sourced by quickstart.sh, after apt.sh. Runs steps one after the other: each says what it is and how long it took; what
# it writes goes into the log, `say` is for people. Whatever ends the script ends the step that runs, with all its
# processes.

number=0 apt_step=0 job='' in_step='' apt_ms=0
exec 3>&1 # what a step says to people; its own output goes into the log
bold='' plain='' terminal=''
if [ -t 1 ]; then
  terminal=1
  [ -n "${NO_COLOR:-}" ] || bold=$'\e[1m' plain=$'\e[0m'
fi

say() { printf '      %s\n' "$*" >&3; }
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

# What moves while a step takes long: on a terminal a line that is written over, elsewhere one every half minute.
now_showing='' last_shown=$SECONDS
moving() { # words
  if [ -n "$terminal" ]; then
    printf '\r      %s\e[K' "$*" >&3
    now_showing=1
  elif [ $((SECONDS - last_shown)) -ge 30 ]; then
    say "$*"
    last_shown=$SECONDS
  fi
}
moved() {
  [ -z "$now_showing" ] || printf '\r\e[K' >&3
  now_showing='' last_shown=$SECONDS
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
  wait "$job" || rc=$?
  job=''
  local ms=$(((${EPOCHREALTIME/[.,]/} - step_begin) / 1000))
  if [ "$rc" != 0 ]; then
    [ -z "$terminal" ] || printf '\r\e[K'
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
  if [ -n "$job" ] && [ "$number" = "$apt_step" ]; then
    # The shell takes notice of it when apt has ended: an installation that is cut short is a mess.
    printf 'waiting for apt to end\n'
    kill -TERM "$job" 2>/dev/null || true
    wait "$job" || true
  elif [ -n "$job" ]; then
    end_group "$job"
  fi
}

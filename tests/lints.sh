#!/bin/sh
# The compiler of farm's own packages in a run of tests (RUSTC_WORKSPACE_WRAPPER): lints what it compiles. A library is
# compiled twice, once more with its tests in it; it is linted that time only, as that takes in all of it.
case " $* " in
  *' --test '*) exec clippy-driver "$@" ;;
  *' --crate-type lib '*) exec "$@" --deny warnings ;;
  *) exec clippy-driver "$@" ;;
esac

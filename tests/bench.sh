#!/usr/bin/env bash
# Measures farm beside its peers: release builds, side by side in one run, in the test bed.
#
#   tests/bench.sh submit [--pairs N]     `farm submit` and `docker buildx build --push`, two platforms: on one engine,
#                                         and (measure=two-…) on two, which buildx has as two nodes; 9 pairs unless said;
#                                         measure=tls-…: all connections with TLS, beside a farm without
#   tests/bench.sh output [--pairs N]     `farm submit --output …` and `--load`, and buildx's, of an image of 70 MB that is
#                                         built already; measure=load-remote: against a buildx builder outside of the engine
#   tests/bench.sh scale [--workers N] [--jobs N]
#                                         what a job costs the database: simulated workers that answer at once and a full
#                                         queue, on a Postgres of its own that flushes to the disk; 100 and 1000 unless said
#   tests/bench.sh connections [--workers N]
#                                         what a coordinator needs for the connections of workers that have nothing to do (two
#                                         each; 500 workers unless said): with TLS beside without
#   tests/bench.sh hooks [--pairs N]      deliveries by webhook: 200 a second for 20 seconds, while what they push is fetched and built
#                                         (by simulated workers), from the first byte to the answer (measure=answered_…); from the
#                                         last answer until none waits any more (processed_…); 50 one after the other, from the first
#                                         byte to a worker's first job (assigned_…). And a repository of
#                                         20,000 files of which one was changed, fetched by a worker that has fetched it before,
#                                         against `git clone --depth 1` (measure=refetch); 9 pairs unless said.
#                                         `refetch` is that part alone
#   tests/bench.sh publish [--pairs N]    the last mile: merge and tag of 2 and 8 platforms that are built (merge-2, merge-8) against
#                                         `docker buildx imagetools create`; an image of two platforms with ten layers of 20 MB
#                                         each to an empty registry (promote-between; CPU seconds of all processes beside) and within one
#                                         (promote-within) against `skopeo copy --all`; a mirror of what is there against
#                                         `skopeo sync`; a build with 1 GB of new layers (verify-new), and one whose layers were looked
#                                         at (verify-judged), with --verify elf against the same without; 5 pairs unless said
#
# Each measure of `submit` and `output` ends in a line `bench NAME measure=… ratio=… farm=… peer=…`: medians in seconds, the
# ratio (farm to peer) that of the pairs; those of `connections` in the same, with what each measure's name says. Those of `scale` are lines `bench scale measure=… value=…`: statements, commits and
# bytes of WAL for one job, which say something of farm alone, then what depends on the machine.
# Machines are noisy: quote ratios and counts, and have nothing else running.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  submit | output | scale | connections | hooks | refetch | publish) ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
export SQLX_OFFLINE=true
unset DATABASE_URL
cargo build --release --workspace --bins
FARM_SKIP_LINT=1 exec tests/run.sh bed target/release/farm-measure "$@"

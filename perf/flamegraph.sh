#!/usr/bin/env bash
# Draws where the server's CPU time goes under load: starts RingQ, loads it, records it with perf, folds and draws.
#
#   perf/flamegraph.sh                    perf/flame-<NAME>.svg; its folded stacks go to target/flame/folded
#   perf/flamegraph.sh diff OLD NEW       perf/flame-diff-<OLD>-<NEW>.svg from the folded stacks of two runs
#
# Environment:
#   NAME      what to call the result        [the workload, and "-N" if ARGS has it]
#   WORKLOAD  arguments of ringq-bench       [mixed -c 64 -P 16]
#   ARGS      further arguments of the server, e.g. -N
#   RECORD_S  seconds of recording           [5]
#   SERVER_CPU, LOAD_CPU                     [0, 1]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly tools=target/tools/bin
# A directory of its own: frame pointers change every crate, and the ordinary build should stay as it is.
readonly build=${CARGO_TARGET_DIR:-target}/flame
readonly folded=$build/folded
readonly frequency_hz=997
readonly warmup_s=1

server=
load=
scratch=

die() {
    echo "flamegraph: $*" >&2
    exit 1
}

# Ends what was started here, by its process id, however the script ends.
finish() {
    for pid in $load $server; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [ -z "$scratch" ] || rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

need_inferno() {
    [ -x "$tools/inferno-flamegraph" ] && return
    echo "flamegraph: installing inferno into target/tools, once" >&2
    cargo install --locked inferno --root target/tools
}

need_perf() {
    command -v perf >/dev/null || die "perf is not installed (Debian: linux-perf, Ubuntu: linux-tools-generic)"
    perf record -q -o /dev/null -- true 2>/dev/null ||
        die "perf may not record here; as root: sysctl kernel.perf_event_paranoid=1"
}

# Frame pointers, because unwinding by debug information drops stacks at high rates and takes minutes to fold.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} -C force-frame-pointers=yes" \
        cargo build --locked --release --bins --target-dir "$build"
}

# For use in the background: becomes the command, so that `$!` is its process and not a shell around it.
become_pinned() {
    if [ "$(nproc)" -gt 1 ]; then exec taskset -c "$@"; else exec "${@:2}"; fi
}

start_server() {
    scratch=$(mktemp -d "${TMPDIR:-${CARGO_TARGET_DIR:-target}}/flame-data.XXXXXX")
    # shellcheck disable=SC2086  # ARGS are several words.
    become_pinned "${SERVER_CPU:-0}" "$build/release/ringq" -p "$port" -l 127.0.0.1 -t 1 --pin off -H "$scratch/data" ${ARGS:-} \
        >"$scratch/server.log" 2>&1 &
    server=$!
    local tries=0
    # The kernel connects as soon as somebody listens; an answer says that the start is over.
    until (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'version\r\n' >&3 && read -r -t 5 <&3) 2>/dev/null; do
        kill -0 "$server" 2>/dev/null || die "the server ended: $(cat "$scratch/server.log")"
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "the server does not answer: $(cat "$scratch/server.log")"
        sleep 0.05
    done
}

record() {
    local seconds=${RECORD_S:-5}
    # shellcheck disable=SC2086  # WORKLOAD is several words.
    "$build/release/ringq-bench" $workload -t "127.0.0.1:$port" -w "$warmup_s" -d "$((seconds + 1))" \
        --pin "$([ "$(nproc)" -gt 1 ] && echo "${LOAD_CPU:-1}" || echo 0)" --server-pid "$server" >"$scratch/load.txt" 2>&1 &
    load=$!
    sleep "$warmup_s"
    # All threads of the server: the shard, the store, the main thread.
    perf record -q -g -F "$frequency_hz" -p "$server" -o "$scratch/perf.data" -- sleep "$seconds"
    wait "$load" || die "the load failed: $(cat "$scratch/load.txt")"
    load=
    cat "$scratch/load.txt"
}

draw() {
    mkdir -p "$folded"
    perf script -i "$scratch/perf.data" 2>/dev/null | "$tools/inferno-collapse-perf" -q >"$scratch/folded"
    [ -s "$scratch/folded" ] || die "perf recorded nothing: was the server idle?"
    mv "$scratch/folded" "$folded/$name"
    "$tools/inferno-flamegraph" --title "RingQ: $workload ${ARGS:-}" --subtitle "CPU time of all server threads" \
        "$folded/$name" >"perf/flame-$name.svg"
    echo "written: perf/flame-$name.svg"
}

diff_runs() {
    local out=perf/flame-diff-$1-$2.svg
    for run in "$1" "$2"; do
        [ -s "$folded/$run" ] || die "there is no run called $run: make flamegraph NAME=$run"
    done
    need_inferno
    scratch=$(mktemp -d)
    # Normalised: the runs rarely have the same number of samples.
    "$tools/inferno-diff-folded" --normalize "$folded/$1" "$folded/$2" >"$scratch/diff"
    "$tools/inferno-flamegraph" --title "RingQ: from $1 to $2" --subtitle "red: more of the samples than before, blue: less" \
        "$scratch/diff" >"$out"
    echo "written: $out"
}

if [ "${1:-}" = diff ]; then
    [ $# -eq 3 ] || die "usage: $0 diff OLD NEW"
    diff_runs "$2" "$3"
    exit
fi
[ $# -eq 0 ] || die "usage: $0 [diff OLD NEW]"

workload=${WORKLOAD:-mixed -c 64 -P 16}
name=${NAME:-${workload// /}}
[[ -n "${NAME:-}" || " ${ARGS:-} " != *" -N "* ]] || name+=-N
port=${PORT:-22299}
need_perf
need_inferno
build
start_server
record
draw

#!/bin/bash
# Fuzzing with cargo-fuzz (libFuzzer, AddressSanitizer). The targets are in tests/fuzz; what it finds goes below target/fuzz, so that
# the source stays as it is.
#
#   tests/fuzz.sh list                    names the targets
#   tests/fuzz.sh run TARGET [SECONDS]    looks for inputs that break a promise, for 60 seconds unless said otherwise; 0: for ever
#   tests/fuzz.sh try TARGET FILE...      runs single inputs
#   tests/fuzz.sh seeds TARGET [SIZE_MAX] makes the seeds anew out of seeds and what was found: as few as reach the same code, none longer than that
#
# It needs a compiler with unstable features: a nightly toolchain if rustup has one, or else the stable one told to have them. Without a
# C++ compiler, which libFuzzer is built with, it says so and does nothing.

set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_FUZZ=target/tools/bin/cargo-fuzz
OUT=target/fuzz

main() {
    local what=${1:-list}
    shift || true
    case $what in
        list) for target in tests/fuzz/targets/*.rs; do basename "$target" .rs; done ;;
        run | try | seeds) "$what" "$@" ;;
        *) echo "usage: tests/fuzz.sh list | run TARGET [SECONDS] | try TARGET FILE... | seeds TARGET [SIZE_MAX]" >&2; exit 2 ;;
    esac
}

run() {
    local target=$1 seconds=${2:-60}
    build "$target"
    local found=$OUT/corpus/$target artifacts=$OUT/artifacts/$target dictionary=tests/fuzz/dictionaries/$target.txt
    mkdir -p "$found" "$artifacts" "tests/fuzz/seeds/$target"
    local options=(-artifact_prefix="$artifacts/" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1)
    # A life of a few choices shows little.
    [ "$target" != operations ] || options+=(-len_control=0 -max_len=1500)
    [ ! -e "$dictionary" ] || options+=(-dict="$dictionary")
    # Some targets make files, and some files are synced.
    [ ! -w /dev/shm ] || export TMPDIR=/dev/shm
    exec "$(program "$target")" "${options[@]}" "$found" "tests/fuzz/seeds/$target"
}

try() {
    build "$1"
    exec "$(program "$1")" "${@:2}"
}

seeds() {
    local target=$1 size_max=${2:-256} merged=$OUT/merged/$1 seed
    build "$target"
    rm -rf "$merged"
    mkdir -p "$merged" "$OUT/corpus/$target"
    # Reaching a line more often does not make an input worth keeping.
    "$(program "$target")" -set_cover_merge=1 -use_counters=0 -max_len="$size_max" "$merged" "tests/fuzz/seeds/$target" "$OUT/corpus/$target"
    rm -f "tests/fuzz/seeds/$target"/*
    for seed in "$merged"/*; do
        cp "$seed" "tests/fuzz/seeds/$target/$(basename "$seed" | cut -c 1-12)"
    done
    du -sh --apparent-size "tests/fuzz/seeds/$target"
}

build() {
    if [ ! -e "tests/fuzz/targets/$1.rs" ]; then
        echo "there is no target $1; these are: $(main list | xargs)" >&2
        exit 2
    fi
    if ! command -v c++ >/dev/null; then
        echo "skipped: make fuzz (no C++ compiler: install g++)"
        exit 0
    fi
    if [[ ${RUSTUP_TOOLCHAIN:-} != nightly* ]]; then
        if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
            export RUSTUP_TOOLCHAIN=nightly
        else
            export RUSTC_BOOTSTRAP=1
        fi
    fi
    "$CARGO_FUZZ" fuzz build --fuzz-dir tests/fuzz --target-dir "$OUT" --release --debug-assertions "$1"
}

program() {
    echo "$OUT/$(rustc -vV | sed -n 's/^host: //p')/release/$1"
}

main "$@"

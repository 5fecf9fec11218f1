#!/bin/bash
# Unit tests of the files with `unsafe` in them, and of what stands directly above, under a sanitizer.
#
#   tests/sanitize.sh [address|thread] [FILTER...]    tests whose names have one of these in them; without any, those of the list below
#
# AddressSanitizer sees memory that is used outside of its bounds or after its end; with the kernel as the other party it sees what we do, not
# what the kernel does. LMDB, which is C, is built with it, too. It needs a compiler with unstable features: a nightly toolchain if rustup has one,
# or else the stable one told to have them; the standard library is the one that comes with it.

set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MODULES=(ring:: store:: listen:: daemon:: host:: mailbox:: page_buffer:: journal:: kept:: durability:: shard:: queue::memory)

main() {
    local sanitizer=${1:-address}
    shift || true
    local filters=("$@")
    [ $# -gt 0 ] || filters=("${MODULES[@]}")
    if [[ ${RUSTUP_TOOLCHAIN:-} != nightly* ]]; then
        if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
            export RUSTUP_TOOLCHAIN=nightly
        else
            export RUSTC_BOOTSTRAP=1
        fi
    fi
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    # What is written in C is built by the C compiler, for which the same sanitizer goes by the same name.
    export RUSTFLAGS="-Zsanitizer=$sanitizer" CFLAGS="-fsanitize=$sanitizer -fno-omit-frame-pointer"
    # Without a target, build scripts would be built with it, too.
    exec cargo test --locked --lib --target "$host" --target-dir target/sanitize -- "${filters[@]}"
}

main "$@"

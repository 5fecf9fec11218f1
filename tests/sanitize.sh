#!/bin/bash
# Unit tests of the files with `unsafe` in them, and of what stands directly above, under AddressSanitizer.
#
#   tests/sanitize.sh [FILTER...]    tests whose names have one of these in them; without any, those of the list below
#
# It sees memory that is used outside of its bounds or after its end: by us, and by LMDB, which is C and built with it, too. What the kernel
# writes on its own it does not see. It needs a compiler with unstable features: a nightly toolchain if rustup has one, or else the stable
# one told to have them.
#
# There is no run under ThreadSanitizer: with a standard library that was built without it, as every toolchain brings it, it takes each
# `Mutex` and channel for a race.

set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MODULES=(ring:: store:: listen:: daemon:: host:: mailbox:: page_buffer:: journal:: kept:: durability:: shard:: queue::memory)

main() {
    local filters=("$@") host
    [ $# -gt 0 ] || filters=("${MODULES[@]}")
    if [[ ${RUSTUP_TOOLCHAIN:-} != nightly* ]]; then
        if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
            export RUSTUP_TOOLCHAIN=nightly
        else
            export RUSTC_BOOTSTRAP=1
        fi
    fi
    host=$(rustc -vV | sed -n 's/^host: //p')
    # The C compiler has the same sanitizer under the same name.
    export RUSTFLAGS=-Zsanitizer=address CFLAGS='-fsanitize=address -fno-omit-frame-pointer'
    # Without a target, build scripts would be built with it, too.
    # One test limits the address space, of which the sanitizer reserves terabytes.
    exec cargo test --locked --lib --target "$host" --target-dir target/sanitize -- "${filters[@]}" --skip a_limit_on_address_space
}

main "$@"

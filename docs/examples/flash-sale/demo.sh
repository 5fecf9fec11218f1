#!/bin/bash
# The sale on this machine: RingQ in a temporary directory, the worker, the pages; each on a free port, and started again when it ends.
# Ctrl-C ends what it started and removes the directory.
# Usage: docs/examples/flash-sale/demo.sh [PATH_OF_RINGQ]; with --check it only says what is missing.
# SALE_TICKETS and SALE_GATE change the numbers of the sale, SALE_PORT the port of the pages.

set -u
# A process group for each program and the loop around it, so that both are ended together. Ctrl-C comes here alone.
set -m
RINGQ=${1:-ringq}
CHECK_ONLY=
[ "$RINGQ" = --check ] && CHECK_ONLY=yes
[[ $RINGQ == */* ]] && RINGQ=$(realpath "$RINGQ")
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

GROUPS_STARTED=()

main() {
    check
    [ "$CHECK_ONLY" ] && exit 0
    DIRECTORY=$(mktemp -d "${TMPDIR:-/tmp}/ringq-sale-XXXXXX") || exit 1
    trap stop EXIT
    trap 'exit 0' INT TERM
    local port pages
    port=$(free_port) && pages=${SALE_PORT:-$(free_port)} || exit 1
    export SALE_RINGQ=127.0.0.1:$port SALE_DATA=$DIRECTORY/sale

    keep_running RingQ "$RINGQ" -l 127.0.0.1 -p "$port" --admin off -E 4096 -H "$DIRECTORY/ringq"
    wait_for RingQ 'ready on'
    php setup.php || exit 1
    keep_running worker php worker.php
    # The built-in server takes one request at a time unless it is told otherwise.
    PHP_CLI_SERVER_WORKERS=8 keep_running pages php -S "127.0.0.1:$pages" -t web
    wait_for pages started

    local address=http://127.0.0.1:$pages
    cat <<END
The sale is open: $address/
  a crowd          php docs/examples/flash-sale/visitors.php $address 5000
  what was sold    grep -c ticket- $SALE_DATA/ledger
  the line         printf 'stats queue tickets\r\n' | nc -N 127.0.0.1 $port
  an accident      kill -9 \$(cat $DIRECTORY/RingQ.pid), or worker.pid: they are started again
Ctrl-C ends it.
END
    # A trap comes between two waits.
    while :; do wait; done
}

# Says what is missing.
check() {
    local missing=()
    if ! php -r 'exit((int) (PHP_VERSION_ID < 80100));' 2>/dev/null; then
        missing+=("PHP 8.1 or later (Debian: php-cli)")
    elif ! php -r 'exit((int) !extension_loaded("memcached"));'; then
        missing+=("PHP's extension memcached (Debian: php-memcached)")
    fi
    [ "$CHECK_ONLY" ] || command -v "$RINGQ" >/dev/null || missing+=("ringq (make build, and its path as the argument)")
    [ ${#missing[@]} -eq 0 ] && return
    printf 'missing: %s\n' "${missing[@]}" >&2
    exit 1
}

free_port() {
    php -r '$s = stream_socket_server("tcp://127.0.0.1:0") or exit(1); echo substr(strrchr(stream_socket_get_name($s, false), ":"), 1);'
}

# Runs a program in the background, again and again. Its output is in NAME.log, its process id in NAME.pid.
keep_running() { # name, command…
    local name=$1 process
    shift
    while :; do
        "$@" </dev/null >>"$DIRECTORY/$name.log" 2>&1 &
        process=$!
        # The loop ends when the program has, whose files are then no longer in use.
        trap 'wait "$process"; exit' TERM
        echo "$process" >"$DIRECTORY/$name.pid"
        wait "$process" 2>/dev/null
        echo "$name ended with $?, and is started again" | tee -a "$DIRECTORY/$name.log" >&2
        sleep 0.5
    done &
    GROUPS_STARTED+=($!)
}

# Waits until a program has said so.
wait_for() { # name, text
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        grep -qs "$2" "$DIRECTORY/$1.log" && return
        grep -qs ' ended with ' "$DIRECTORY/$1.log" && break
        sleep 0.1
    done
    echo "$1 does not start:" >&2
    cat "$DIRECTORY/$1.log" >&2
    exit 1
}

stop() {
    local group
    for group in "${GROUPS_STARTED[@]}"; do
        kill -TERM -- "-$group" 2>/dev/null
    done
    wait 2>/dev/null
    rm -rf "$DIRECTORY"
}

main

#!/bin/sh
# The command line tools of libmemcached against a queue: memccp puts files, memccat takes them, memcstat, memcping, memcrm
# and memcflush administer. memcexist is only tried for harm: it asks by sending `add` with an empty body, which a queue
# refuses, so its answer means nothing here. memcdump, memctouch, memccapable, memcslap and memcaslap ask for what only a
# cache can have.
# Usage: libmemcached_tools.sh HOST PORT
. "$(dirname "$0")/common/checks.sh"

for tool in memccp memccat memcrm memcstat memcping memcflush memcexist; do
    command -v "$tool" >/dev/null || skip "$tool is not installed (libmemcached-tools)"
done

SERVERS="--servers=$HOST:$PORT"

# memccp names the queue after the file.
queue="$RUN-files"
mkdir "$SCRATCH/first" "$SCRATCH/second"
head -c 700000 /dev/urandom >"$SCRATCH/first/$queue"
awk 'BEGIN { for (i = 0; i < 256; i++) printf "%c", i; printf "END\r\n" }' >"$SCRATCH/second/$queue"

check_status "memcping" succeeds memcping "$SERVERS"
check_status "memccp 700 kB" succeeds memccp "$SERVERS" "$SCRATCH/first/$queue"
check_status "memccp every byte value" succeeds memccp "$SERVERS" "$SCRATCH/second/$queue"
check_status "memccat" succeeds memccat "$SERVERS" --file="$SCRATCH/got" "$queue"
check_file "memccat brings the first file byte for byte" "$SCRATCH/first/$queue" "$SCRATCH/got"
check_status "memccat the second" succeeds memccat "$SERVERS" --file="$SCRATCH/got" "$queue"
check_file "memccat brings the second file byte for byte" "$SCRATCH/second/$queue" "$SCRATCH/got"

mkdir "$SCRATCH/text"
printf 'a line' >"$SCRATCH/text/$queue"
check_status "memccp text with flags" succeeds memccp "$SERVERS" --flag=77 "$SCRATCH/text/$queue"
memccat "$SERVERS" --flags "$queue" >"$SCRATCH/flags" 2>&1
check_bytes "memccat --flags shows the flags and the text" '77\na line\n' "$SCRATCH/flags"

memcstat "$SERVERS" >"$SCRATCH/stats" 2>&1
check_status "memcstat names the server" succeeds grep -q "^Server: $HOST ($PORT)" "$SCRATCH/stats"
check_status "memcstat shows the process id" succeeds grep -Eq '^[[:space:]]*pid: [0-9]+$' "$SCRATCH/stats"
check_status "memcstat shows a version of major 1" succeeds grep -Eq '^[[:space:]]*version: 1\.[0-9]+\.[0-9]+' "$SCRATCH/stats"

check_status "memccp for refusals" succeeds memccp "$SERVERS" "$SCRATCH/second/$queue"
check_status "memcflush is refused" fails memcflush "$SERVERS"
memcexist "$SERVERS" "$queue" >/dev/null 2>&1
check_status "memccat after memcflush and memcexist" succeeds memccat "$SERVERS" --file="$SCRATCH/got" "$queue"
check_file "memcflush and memcexist changed nothing" "$SCRATCH/second/$queue" "$SCRATCH/got"
check_status "they stored nothing either" fails memccat "$SERVERS" "$queue"

check_status "memccp for memcrm" succeeds memccp "$SERVERS" "$SCRATCH/second/$queue"
check_status "memcrm" succeeds memcrm "$SERVERS" "$queue"
check_status "memccat of the removed queue" fails memccat "$SERVERS" "$queue"
check_status "memcrm of an unknown queue" fails memcrm "$SERVERS" "$queue"

finish

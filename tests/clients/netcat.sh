#!/bin/sh
# The README's session with netcat: requests are piped in, the sending side is closed, every complete request is answered.
# Usage: netcat.sh HOST PORT
. "$(dirname "$0")/common/checks.sh"

command -v nc >/dev/null || skip "nc is not installed"
nc -h 2>&1 | grep -q -- '-N' || skip "this nc cannot close its sending side (no option -N; netcat-openbsd can)"

PIPELINED=2000
REPLY="$SCRATCH/reply"

# Standard input to the server, its whole answer to $REPLY. -w bounds a server that does not close.
talk() {
    nc -N -w 10 "$HOST" "$PORT" >"$REPLY"
}

queue="$RUN-jobs"
printf "set $queue 0 0 5\r\nhello\r\n" | talk
check_bytes "put" 'STORED\r\n' "$REPLY"
printf "set $queue 7 0 5\r\nworld\r\nstats queue\r\n" | talk
check_status "stats queue lists it" succeeds grep -q "^STAT $queue 2/0" "$REPLY"
printf "get $queue\r\n" | talk
check_bytes "get" "VALUE $queue 0 5\r\nhello\r\nEND\r\n" "$REPLY"
printf "get $queue\r\nget $queue\r\n" | talk
check_bytes "two gets in one go" "VALUE $queue 7 5\r\nworld\r\nEND\r\nEND\r\n" "$REPLY"

printf "set $queue 0 0 2\nab\r\nget $queue\n" | talk
check_bytes "bare line feeds after commands" "STORED\r\nVALUE $queue 0 2\r\nab\r\nEND\r\n" "$REPLY"
printf "set $queue 0 0 4\r\na\\000\r\n\r\nget $queue\r\nquit\r\nget $queue\r\n" | talk
check_bytes "binary body, and nothing after quit" "STORED\r\nVALUE $queue 0 4\r\na\\000\r\n\r\nEND\r\n" "$REPLY"

# Half close: the end of input comes long before the last answer.
batch="$RUN-batch"
awk -v q="$batch" -v n="$PIPELINED" 'BEGIN {
    for (i = 1; i <= n; i++) printf "set %s 0 0 6\r\n%06d\r\n", q, i
    for (i = 1; i <= n; i++) printf "get %s\r\n", q
}' >"$SCRATCH/requests"
awk -v q="$batch" -v n="$PIPELINED" 'BEGIN {
    for (i = 1; i <= n; i++) printf "STORED\r\n"
    for (i = 1; i <= n; i++) printf "VALUE %s 0 6\r\n%06d\r\nEND\r\n", q, i
}' >"$SCRATCH/replies"
talk <"$SCRATCH/requests"
check_file "everything before a half close is answered" "$SCRATCH/replies" "$REPLY"

cut="$RUN-cut"
printf "set $cut 0 0 10\r\nabc" | talk
check_bytes "input that ends inside a body has no answer" '' "$REPLY"
printf "set $cut 0 0 2\r\nab\r\nget $cu" | talk
check_bytes "a last line without its end has no answer" 'STORED\r\n' "$REPLY"
printf "get $cut\r\nget $cut\r\n" | talk
check_bytes "only the complete put was stored" "VALUE $cut 0 2\r\nab\r\nEND\r\nEND\r\n" "$REPLY"

finish

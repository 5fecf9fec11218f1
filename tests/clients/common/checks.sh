# Reporting shared by the shell client checks, to be sourced: HOST and PORT from the arguments, queue names that no other
# run uses, a scratch directory, one line per check, the exit status (0 all well, 1 a check failed, 77 the client is not
# installed). Bytes are compared as files, because the shell cannot hold a NUL or a trailing line end.

if [ $# -ne 2 ]; then
    echo "usage: $0 HOST PORT" >&2
    exit 2
fi
# Bytes are bytes for awk and grep, whatever the locale.
export LC_ALL=C
HOST=$1
PORT=$2
RUN="$(basename "$0" .sh)-$$-$(date +%s%N)"
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
PASSES=0
FAILURES=0

skip() { # reason
    echo "$1"
    exit 77
}

pass() { # name
    PASSES=$((PASSES + 1))
    printf 'ok %s\n' "$1"
}

fail() { # name, expected, got
    FAILURES=$((FAILURES + 1))
    # Not echo: where it interprets backslashes, the escapes of `shown` would break the line.
    printf 'FAIL %s: expected %s, got %s\n' "$1" "$2" "$3"
}

# The bytes of a file on one line.
shown() { # file
    if [ "$(wc -c <"$1")" -gt 300 ]; then
        echo "$(wc -c <"$1") bytes with checksum $(cksum <"$1" | cut -d' ' -f1)"
    else
        printf '"%s"\n' "$(od -An -v -c "$1" | tr -s ' \n' '  ')"
    fi
}

# The file must hold exactly the bytes of the other.
check_file() { # name, file with what is expected, file with what was got
    if cmp -s "$2" "$3"; then
        pass "$1"
    else
        fail "$1" "$(shown "$2")" "$(shown "$3")"
    fi
}

# The file must hold exactly these bytes, given as a format for printf.
check_bytes() { # name, expected, file
    printf "$2" >"$SCRATCH/expected"
    check_file "$1" "$SCRATCH/expected" "$3"
}

# The command must succeed, or fail, as said.
check_status() { # name, "succeeds" or "fails", command…
    name=$1 wanted=$2
    shift 2
    if "$@" >"$SCRATCH/output" 2>&1; then got=succeeds; else got=fails; fi
    if [ "$wanted" = "$got" ]; then
        pass "$name"
    else
        fail "$name" "$wanted" "$got with $(shown "$SCRATCH/output")"
    fi
}

# Ends the run; one without checks has failed.
finish() {
    [ "$FAILURES" -eq 0 ] && [ "$PASSES" -gt 0 ]
    exit
}

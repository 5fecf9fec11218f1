"""Reporting shared by the Python client checks: the arguments HOST PORT, queue names that no other run uses, one line per
check, the exit status (0 all well, 1 a check failed, 77 the client is not installed). An exception that a script does not
expect is a failed check. It knows nothing of any client library."""

import os
import sys
import time
import traceback

EXIT_SKIPPED = 77

_passes = 0
_failures = 0
_run = f"{os.getpid()}-{time.monotonic_ns()}"


def server_arguments():
    """HOST and PORT from the command line."""
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        sys.exit(f"usage: {sys.argv[0]} HOST PORT")
    return sys.argv[1], int(sys.argv[2])


def skip(reason):
    """Ends the run as skipped."""
    print(reason)
    sys.exit(EXIT_SKIPPED)


def queue_name(suffix):
    """A queue name that belongs to this script and this run."""
    script = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return f"{script}-{_run}-{suffix}"


def check(name, expected, got):
    """One check: the values must be equal and of one type, so that 1 does not pass for True."""
    global _passes
    if type(expected) is type(got) and expected == got:
        _passes += 1
        print(f"ok {name}")
    else:
        fail(name, _shown(expected), _shown(got))


def check_raises(name, exception, call):
    """One check: the call must raise the exception."""
    try:
        result = call()
    except exception:
        check(name, True, True)
    except Exception as other:  # any other exception is what was got instead
        fail(name, exception.__name__, _shown(other))
    else:
        fail(name, exception.__name__, _shown(result))


def fail(name, expected, got):
    """A failed check."""
    global _failures
    _failures += 1
    print(f"FAIL {name}: expected {expected}, got {got}")


def run(*sections):
    """Runs the sections in order and ends with the status their checks earned; a run without checks has failed."""
    for section in sections:
        try:
            section()
        except Exception as error:
            traceback.print_exc()
            fail(section.__name__, "no exception", _shown(error))
    sys.exit(0 if _failures == 0 and _passes > 0 else 1)


def _shown(value):
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:200]}… ({len(text)} characters)"

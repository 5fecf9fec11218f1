#!/bin/bash
# Installs what the tests and the benchmarks need beyond Rust: memcache clients, a browser for the dashboard, tools of file systems and clocks from
# Debian's packages, Python clients in a virtual environment, the servers that benchmarks compare with. Installs only what is missing, starts
# no service, and never fails for want of it: a test without its client reports itself as skipped. `--require` is for whoever
# wants no test skipped. One program, promtool, is taken out of its package into target/tools, because the package brings a service along.
#
#   tests/deps.sh            install what is missing (as root; otherwise say what to install)
#   tests/deps.sh --check    only report, one line an item
#   --require                with either: exit 1 if something that the tests need is missing afterwards
#   --package                with either: also what the test of the Debian package needs
#
# The virtual environment is target/clients-venv unless RINGQ_CLIENTS_VENV names another directory.

set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

VENV=${RINGQ_CLIENTS_VENV:-target/clients-venv}
PYTHON_CLIENTS=('pymemcache>=4,<5' 'pylibmc>=1.6,<2' 'prometheus_client>=0.20,<1')
# Debian's package names, each with a probe below. The first list is what tests run (of systemd, which does not become init by it,
# the checks of units), the second what `make test-package` runs, the third what pylibmc is built with where pip has no wheel,
# the fourth what only benchmarks run.
TEST_PACKAGES=(php-cli php-memcache php-memcached libmemcached-tools netcat-openbsd python3-venv systemd chromium e2fsprogs xfsprogs faketime)
PACKAGE_PACKAGES=(debootstrap systemd-container lintian)
BUILD_PACKAGES=(libmemcached-dev zlib1g-dev)
BENCH_PACKAGES=(memcached redis-server beanstalkd)
# Checks the alert rules. Debian has it in the package of the Prometheus server, which nobody wants for that.
PROMTOOL=target/tools/promtool
POLICY=/usr/sbin/policy-rc.d

main() {
    local check_only=no require=no argument
    for argument in "$@"; do
        case $argument in
            --check) check_only=yes ;;
            --require) require=yes ;;
            --package) TEST_PACKAGES+=("${PACKAGE_PACKAGES[@]}") ;;
            *) echo "usage: tests/deps.sh [--check] [--require] [--package]" >&2; exit 2 ;;
        esac
    done

    probe
    if [ "$check_only" = yes ]; then
        report
    else
        install_missing
    fi
    if [ "$require" = yes ] && [ ${#MISSING_FOR_TESTS[@]} -gt 0 ]; then
        echo "missing for the tests: ${MISSING_FOR_TESTS[*]}" >&2
        exit 1
    fi
    exit 0
}

# Fills MISSING_PACKAGES, MISSING_CLIENTS and MISSING_FOR_TESTS.
probe() {
    # php -m is asked once: it is by far the slowest of the probes.
    PHP_MODULES=$(php -m 2>/dev/null | tr '[:upper:]' '[:lower:]')
    MISSING_PACKAGES=() MISSING_CLIENTS=() MISSING_FOR_TESTS=()
    local item
    for item in "${TEST_PACKAGES[@]}"; do
        has_package "$item" || MISSING_PACKAGES+=("$item") MISSING_FOR_TESTS+=("$item")
    done
    probe_clients
    has_promtool || MISSING_FOR_TESTS+=(promtool)
    for item in "${BENCH_PACKAGES[@]}"; do
        has_package "$item" || MISSING_PACKAGES+=("$item")
    done
    # A pylibmc that works needs nothing to be built with.
    if missing_client pylibmc; then
        for item in "${BUILD_PACKAGES[@]}"; do
            has_package "$item" || MISSING_PACKAGES+=("$item")
        done
    fi
}

# Whether what the package brings is there, wherever it came from.
has_package() {
    case $1 in
        php-cli) command -v php ;;
        php-memcache | php-memcached) grep -qx "${1#php-}" <<<"$PHP_MODULES" ;;
        libmemcached-tools) command -v memccp && command -v memccat && command -v memcstat ;;
        netcat-openbsd) command -v nc && nc -h 2>&1 | grep -q -- '-N' ;;
        python3-venv) [ -x "$VENV/bin/python" ] || python_with_venv ;;
        systemd) command -v systemd-analyze ;;
        systemd-container) command -v systemd-nspawn ;;
        lintian) command -v lintian ;;
        faketime) [ -e /usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1 ] ;;
        e2fsprogs) PATH=$PATH:/usr/sbin:/usr/local/sbin command -v mkfs.ext4 ;;
        xfsprogs) PATH=$PATH:/usr/sbin:/usr/local/sbin command -v mkfs.xfs ;;
        debootstrap) PATH=$PATH:/usr/sbin:/usr/local/sbin command -v debootstrap ;;
        # The names under which tests/admin/chromium.py looks for one.
        chromium) command -v "${RINGQ_CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome ;;
        libmemcached-dev) [ -e /usr/include/libmemcached/memcached.h ] ;;
        zlib1g-dev) [ -e /usr/include/zlib.h ] ;;
        memcached | redis-server | beanstalkd) PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1" ;;
        *) echo "deps.sh: no probe for $1" >&2; exit 1 ;;
    esac >/dev/null 2>&1
}

probe_clients() {
    local requirement name
    for requirement in "${PYTHON_CLIENTS[@]}"; do
        name=${requirement%%[<>=]*}
        "$VENV/bin/python" -c "import $name" 2>/dev/null || {
            MISSING_CLIENTS+=("$requirement")
            MISSING_FOR_TESTS+=("$name")
        }
    done
}

has_promtool() {
    [ -x "$PROMTOOL" ] || command -v promtool >/dev/null 2>&1
}

missing_client() {
    [[ " ${MISSING_FOR_TESTS[*]} " == *" $1 "* ]]
}

# The first Python that can make a virtual environment: the one on the path may lack what the system's has, or the reverse.
python_with_venv() {
    local python
    for python in python3 /usr/bin/python3 /usr/local/bin/python3; do
        if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

report() {
    local item name
    for item in "${TEST_PACKAGES[@]}" "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"; do
        if has_package "$item"; then
            echo "present $item"
        else
            echo "missing $item (apt-get install $item)"
        fi
    done
    for item in "${PYTHON_CLIENTS[@]}"; do
        name=${item%%[<>=]*}
        if missing_client "$name"; then
            echo "missing $name (tests/deps.sh, or $VENV/bin/pip install '$item')"
        else
            echo "present $name"
        fi
    done
    if has_promtool; then
        echo "present promtool"
    else
        echo "missing promtool (tests/deps.sh as root, or anywhere on the path)"
    fi
}

install_missing() {
    if [ ${#MISSING_PACKAGES[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        install_packages
    fi
    if [ ${#MISSING_CLIENTS[@]} -gt 0 ]; then
        install_clients
    fi
    if ! has_promtool && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        fetch_promtool
    fi
    probe
    if [ ${#MISSING_PACKAGES[@]} -gt 0 ]; then
        echo "missing: ${MISSING_PACKAGES[*]}"
        echo "to install: sudo apt-get install -y ${MISSING_PACKAGES[*]}"
    fi
    if [ ${#MISSING_CLIENTS[@]} -gt 0 ]; then
        echo "missing from $VENV: ${MISSING_CLIENTS[*]}"
        echo "to install: tests/deps.sh, where pip can reach a package index"
    fi
    has_promtool || echo "missing: promtool; to have it: tests/deps.sh as root on Debian, or put one on the path"
}

# One package that cannot be had must not keep the others away, so they are tried one by one when the whole fails.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    local package
    forbid_services
    apt-get update -qq
    if ! apt-get install -y -qq --no-install-recommends "${MISSING_PACKAGES[@]}"; then
        for package in "${MISSING_PACKAGES[@]}"; do
            apt-get install -y -qq --no-install-recommends "$package"
        done
    fi
    allow_services
}

# Only downloaded and unpacked: nothing is installed, no user is made, no service starts.
fetch_promtool() {
    local scratch
    scratch=$(mktemp -d)
    # So that apt's own user may write into it.
    chown _apt "$scratch" 2>/dev/null
    (cd "$scratch" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; }) \
        && dpkg -x "$scratch"/prometheus_*.deb "$scratch/unpacked" \
        && install -D -m 755 "$scratch/unpacked/usr/bin/promtool" "$PROMTOOL" \
        || echo "promtool could not be taken out of Debian's package prometheus"
    rm -rf "$scratch"
}

# Debian starts the server a package brings unless this policy, which invoke-rc.d asks first, forbids it.
forbid_services() {
    [ -e "$POLICY" ] && return
    trap allow_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\n# ringq tests/deps.sh: no services while it installs\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
}

# Removes only the policy of this script.
allow_services() {
    if grep -qs 'ringq tests/deps.sh' "$POLICY"; then
        rm -f "$POLICY"
    fi
}

install_clients() {
    local python requirement
    # An environment whose Python has gone or cannot run pip is made anew.
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(python_with_venv) || {
            echo "no python3 that can make a virtual environment (apt-get install python3-venv)"
            return
        }
        "$python" -m venv --clear "$VENV" || return
    fi
    for requirement in "${MISSING_CLIENTS[@]}"; do
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$requirement" \
            || echo "pip could not install $requirement"
    done
}

main "$@"

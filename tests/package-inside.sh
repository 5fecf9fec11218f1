#!/bin/bash
# What tests/package.sh does inside of the clean system: `without-init` or `under-systemd`. Ends with 0 only if all of it was so.

set -Eeuo pipefail
# shellcheck disable=SC2154
trap 'echo "FAIL line $LINENO: $BASH_COMMAND" >&2' ERR
cd /package-test

CONFIG=/etc/ringq/ringq.toml
DATA=/var/lib/ringq
UNIT=/usr/lib/systemd/system/ringq.service
export DEBIAN_FRONTEND=noninteractive

without_init() {
    files >before.txt
    dpkg -i ringq.deb
    check_files
    start
    exchange first
    ringqctl put kept message
    stop

    echo 'max-queues = 1234' >>"$CONFIG"
    cp "$CONFIG" config.txt
    chmod 700 "$DATA"
    dpkg -i ringq-newer.deb
    cmp "$CONFIG" config.txt
    owned 'ringq:ringq 700' "$DATA"
    start
    [ "$(ringqctl settings | grep -c .)" -gt 0 ]
    stop

    dpkg -r ringq
    [ ! -e /usr/bin/ringq ]
    cmp "$CONFIG" config.txt
    getent passwd ringq
    dpkg -i ringq.deb
    start
    [ "$(ringqctl get kept)" = message ]
    stop
    dpkg -r ringq
    purge
}

under_systemd() {
    # systemd makes some files of its own a while after the boot.
    systemctl is-system-running --wait >/dev/null 2>&1 &
    files >before.txt
    dpkg -i ringq.deb
    check_files
    systemctl is-active ringq.service
    not systemctl is-active ringq.socket
    await_server
    exchange first
    check_confinement
    ringqctl put kept message

    local pid
    pid=$(main_pid)
    systemctl reload ringq.service
    exchange reloaded
    [ "$(main_pid)" = "$pid" ]

    check_rotation

    kill -KILL "$(main_pid)"
    await_new_pid "$pid"
    await_server

    pid=$(main_pid)
    dpkg -i ringq-newer.deb
    systemctl is-active ringq.service
    [ "$(main_pid)" != "$pid" ]
    await_server
    [ "$(ringqctl get kept)" = message ]

    check_activation

    dpkg -r ringq
    not systemctl is-active ringq.service
    purge
}

check_files() {
    local user
    user=$(getent passwd ringq)
    [[ $user == ringq:*:*:*:*:/var/lib/ringq:/usr/sbin/nologin ]]
    [ "$(id -u ringq)" -lt 1000 ]
    [ "$(id -gn ringq)" = ringq ]
    owned 'ringq:ringq 750' "$DATA" /var/log/ringq
    owned 'root:root 644' "$CONFIG" "$UNIT" /etc/logrotate.d/ringq /usr/share/man/man1/ringq.1.gz
    owned 'root:root 755' /usr/bin/ringq /usr/bin/ringqctl /usr/share/doc/ringq/docs/examples/flash-sale/demo.sh
    [ "$(dpkg-query -W -f '${Conffiles}' ringq | grep -c .)" = 2 ]
    [ -L /etc/systemd/system/multi-user.target.wants/ringq.service ]
    [ ! -e /etc/systemd/system/sockets.target.wants/ringq.socket ]
    ringq --config "$CONFIG" --check-config
}

owned() {
    local expected=$1 file
    shift
    for file in "$@"; do
        [ "$(stat -c '%U:%G %a' "$file")" = "$expected" ]
    done
}

# As the unit would: its command, its user.
start() {
    local command
    command=$(sed -n 's/^ExecStart=//p' "$UNIT")
    # nspawn has one of its own for its init.
    unset NOTIFY_SOCKET
    # shellcheck disable=SC2086
    setpriv --reuid ringq --regid ringq --init-groups --no-new-privs --bounding-set=-all $command &
    SERVER=$!
    await_server
}

stop() {
    kill -TERM "$SERVER"
    wait "$SERVER"
}

exchange() {
    ringqctl put mail "$1"
    [ "$(ringqctl get mail)" = "$1" ]
}

# `set -e` does not look at a command behind `!`.
not() {
    if "$@"; then
        echo "it should have failed: $*" >&2
        return 1
    fi
}

await_server() {
    await ringqctl --timeout 1 ping
}

await_new_pid() {
    is_new() { [ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ]; }
    await is_new "$1"
}

await() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if "$@" >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.1
    done
    echo "waited in vain for: $*" >&2
    return 1
}

main_pid() {
    systemctl show --property MainPID --value ringq.service
}

# What the unit promises, as the kernel sees the process.
check_confinement() {
    local status
    status=/proc/$(main_pid)/status
    [ "$(stat -c %U "$status")" = ringq ]
    grep -qx 'Seccomp:[[:space:]]*2' "$status"
    grep -qx 'NoNewPrivs:[[:space:]]*1' "$status"
    [ "$(grep -c '^Cap[A-Z][a-z]*:[[:space:]]*0*$' "$status")" = 5 ]
    owned 'ringq:ringq 750' "$DATA"
}

# A log that is rotated goes on in a new file, and the old one is kept.
check_rotation() {
    local log=/var/log/ringq/ringq.log
    printf 'log-file = "%s"\nverbose = 1\n' "$log" >>"$CONFIG"
    systemctl restart ringq.service
    await_server
    [ -s "$log" ]
    logrotate --force /etc/logrotate.d/ringq
    owned 'ringq:ringq 640' "$log"
    [ -s "$log.1" ]
    exchange rotated
    systemctl stop ringq.service
    # It says that it stops.
    [ -s "$log" ]
    systemctl start ringq.service
    await_server
}

# The first client starts the server, and the next one does not notice that it was restarted.
check_activation() {
    systemctl stop ringq.service
    systemctl enable --now ringq.socket
    not systemctl is-active ringq.service
    exchange activated
    systemctl is-active ringq.service
    systemctl restart ringq.service
    exchange restarted
}

purge() {
    dpkg -P ringq
    not getent passwd ringq
    not getent group ringq
    files >after.txt
    diff before.txt after.txt
}

# What a package could leave behind; not what dpkg, logrotate and systemd keep for themselves.
files() {
    find / -xdev \( -path /package-test -o -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
        -o -path /var/tmp -o -path /var/lib/dpkg -o -path /var/lib/logrotate -o -path /var/log/journal \) -prune -o -print | sort
}

case $1 in
    without-init) without_init ;;
    under-systemd) under_systemd ;;
    *) echo "usage: inside.sh without-init|under-systemd" >&2; exit 2 ;;
esac
touch passed
echo "the package, $1: passed"

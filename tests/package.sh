#!/bin/bash
# Installs the Debian package on a clean Debian 12 and does what administrators do: start, upgrade, remove, purge. Once without an init, as in
# a container image, and once booted, so that systemd runs the unit with everything it forbids. Nothing of it touches this machine: a
# systemd-nspawn container has its own mounts, processes and network.
#
#   tests/package.sh         as root, after `make deb`
#
# The system is made by debootstrap from the mirror that apt uses here, and kept in target/package-test for the next run. What cannot run is
# named as skipped; with RINGQ_REQUIRE_CLIENTS=1 it fails instead, for root.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITE=bookworm
WORK=$PWD/target/package-test
TREE=$WORK/tree
# What an installed Debian has and debootstrap's smallest variant has not.
INCLUDE=adduser,logrotate,systemd,systemd-sysv
CLEAN=$WORK/$SUITE.tar
MACHINE=ringq-package-test
# For a boot and all that is done after it.
TIMEOUT_S=300

main() {
    local tool package
    # Whatever is required: nobody can install root.
    [ "$(id -u)" -eq 0 ] || { echo "skipped: package: only root can make and boot a system"; exit 0; }
    for tool in dpkg-deb debootstrap systemd-nspawn; do
        command -v "$tool" >/dev/null || skip "package: $tool is not installed (tests/deps.sh --package)"
    done
    package=$(echo target/debian/ringq_*.deb)
    [ -f "$package" ] || fail "there is no package: make deb"

    check_package "$package"
    check_make_install "$package"
    trap remove_tree EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    make_clean_system

    lay_out "$package"
    run_in_tree --pipe /package-test/inside.sh without-init || fail "without an init"

    lay_out "$package"
    run_in_tree --boot >"$WORK/console.txt" 2>&1 || true
    cat "$TREE/package-test/output.txt" 2>/dev/null || {
        tail -5 "$WORK/console.txt" >&2
        skip "package_under_systemd: a container with systemd does not boot here"
    }
    [ -e "$TREE/package-test/passed" ] || fail "under systemd; the console is in $WORK/console.txt"
    echo "the package: passed"
}

# Policy, as far as Debian's own checker knows it. The package is not for Debian's archive, so it closes no bug there.
check_package() {
    if command -v lintian >/dev/null; then
        lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs "$1" || fail "lintian"
    else
        skip_one "package_lintian: lintian is not installed (tests/deps.sh --package)"
    fi
    mkdir -p "$WORK"
    dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/bin/ringq >"$WORK/ringq"
    [[ $(readelf --sections --wide "$WORK/ringq") != *.debug_info* ]] || fail "ringq is not stripped"
    rm "$WORK/ringq"
}

# `make install` and the package are two lists of the same files.
check_make_install() {
    local installed=$WORK/installed
    rm -rf "$installed"
    make --no-print-directory install DESTDIR="$installed" PREFIX=/usr >/dev/null
    diff <(cd "$installed" && find . -type f | as_in_package | sort) \
        <(dpkg-deb --fsys-tarfile "$1" | tar -t | grep -v '/$' | sed 's/\.gz$//' | grep -v 'changelog.Debian' | sort) \
        || fail "what make install installs (<) is not what the package holds (>)"
    make --no-print-directory uninstall DESTDIR="$installed" PREFIX=/usr >/dev/null
    diff <(cd "$installed" && find . -type f | sort) <(printf '%s\n' ./etc/logrotate.d/ringq ./etc/ringq/ringq.toml) \
        || fail "make uninstall leaves or takes too much"
    rm -rf "$installed"
}

# Names and places that are Debian's own.
as_in_package() {
    sed -e 's|zsh/site-functions|zsh/vendor-completions|' -e 's|doc/ringq/LICENSE|doc/ringq/copyright|' \
        -e 's|doc/ringq/CHANGELOG.md|doc/ringq/changelog|' -e '/sysusers.d/d'
}

make_clean_system() {
    [ -f "$CLEAN" ] && return
    local mirror
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $SUITE" 'Component: main' 2>/dev/null | head -1)
    remove_tree
    # What it mounts goes with it, however it ends.
    if ! unshare --mount debootstrap --variant=minbase --include="$INCLUDE" "$SUITE" "$TREE" ${mirror:+"$mirror"} >"$WORK/debootstrap.txt" 2>&1; then
        tail -5 "$WORK/debootstrap.txt" >&2
        skip "package: debootstrap cannot make a $SUITE system, see $WORK/debootstrap.txt"
    fi
    rm -rf "$TREE"/var/cache/apt/archives/*.deb "$TREE"/var/lib/apt/lists/*
    tar -C "$TREE" -cf "$CLEAN.new" .
    mv "$CLEAN.new" "$CLEAN"
}

# A clean system with the package, a newer one, and what is to be done to them.
lay_out() {
    remove_tree
    mkdir -p "$TREE"
    tar -C "$TREE" -xf "$CLEAN"
    mkdir "$TREE/package-test"
    cp "$1" "$TREE/package-test/ringq.deb"
    cp tests/package-inside.sh "$TREE/package-test/inside.sh"
    dpkg-deb -R "$1" "$WORK/newer"
    sed -i 's/^Version: .*/&.1/' "$WORK/newer/DEBIAN/control"
    dpkg-deb --root-owner-group -Znone -b "$WORK/newer" "$TREE/package-test/ringq-newer.deb" >/dev/null
    rm -rf "$WORK/newer"
    # Started by the boot, it ends the container when it is done.
    cat >"$TREE/etc/systemd/system/package-test.service" <<'UNIT'
[Unit]
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/package-test/inside.sh under-systemd
StandardOutput=file:/package-test/output.txt
StandardError=inherit
UNIT
    mkdir -p "$TREE/etc/systemd/system/multi-user.target.wants"
    ln -s ../package-test.service "$TREE/etc/systemd/system/multi-user.target.wants/"
}

# The cgroup is the caller's, and no machine manager is asked: there may be no systemd outside.
run_in_tree() {
    timeout --kill-after=10 "$TIMEOUT_S" systemd-nspawn --quiet --directory="$TREE" --machine="$MACHINE" --register=no --keep-unit \
        --private-network "$@" </dev/null
}

# The container had its own mounts; only what nspawn keeps for it in /run may be left.
remove_tree() {
    rm -rf --one-file-system "$TREE" "/run/systemd/nspawn/propagate/$MACHINE" "/run/systemd/nspawn/unix-export/$MACHINE"
}

skip() {
    skip_one "$1"
    exit 0
}

skip_one() {
    [ "${RINGQ_REQUIRE_CLIENTS:-}" != 1 ] || fail "required: $1"
    echo "skipped: $1"
}

fail() {
    echo "FAIL $1" >&2
    exit 1
}

main "$@"

# Sourced by the scripts beside it: where things are, and what a machine must have.
# shellcheck shell=bash

set -euo pipefail
export LC_ALL=C

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that a test needs and that is not in the tree is kept here.
CACHE=${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}
mkdir -p "$CACHE"

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Names what this machine cannot run. With LEASEHOLD_REQUIRE=all that is a failure.
skip() {
    printf 'SKIP: %s\n' "$*"
    if [ "${LEASEHOLD_REQUIRE:-}" = all ]; then
        die "LEASEHOLD_REQUIRE=all: a skip is a failure"
    fi
}

# Runs a command that no two runs on this machine may run at once.
# The descriptor is closed for the command, so that a process it leaves behind does not keep the lock.
locked() {
    local lock status=0
    exec {lock}>"$CACHE/lock"
    flock "$lock"
    "$@" {lock}>&- || status=$?
    exec {lock}>&-
    return "$status"
}

# apt_install PACKAGE…: this machine's own packages, where they may be installed (root) and can be (apt-get and a mirror).
# Fails where one cannot be had, and says which. What else installs at the same time is waited for.
apt_install() {
    local -x DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300) status=1
    {
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing $*"
            # The lists of packages are old on some machines, and not there on a new one.
            if "${apt[@]}" install -y --no-install-recommends "$@" ||
                { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; }; then
                status=0
            fi
        fi
        [ "$status" = 0 ] || say "could not install $*: root, apt-get and a mirror are needed"
    } >&2
    return "$status"
}

# need COMMAND=PACKAGE…: installs the packages of those commands that are not on PATH, each by itself, so that one which cannot be
# had stops no other. Fails where one is missing in the end.
need() {
    local pair status=0
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || apt_install "${pair#*=}" || status=1
    done
    return "$status"
}

# A Python with what scripts/requirements.txt names; prints the interpreter's path.
python_venv() {
    need python3=python3 || return 1
    local digest dir
    digest=$({ python3 --version; cat "$ROOT/scripts/requirements.txt"; } | sha256sum | cut -c1-12)
    dir=$CACHE/python-$digest
    if [ ! -e "$dir/.complete" ]; then
        say "building $dir (about a minute, once)"
        rm -rf "$dir"
        # Debian's python3 makes no such environment by itself.
        python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv || return 1
        {
            python3 -m venv "$dir" &&
                "$dir/bin/python" -m pip install --quiet --disable-pip-version-check -r "$ROOT/scripts/requirements.txt"
        } >&2 || return 1
        touch "$dir/.complete"
    fi
    printf '%s\n' "$dir/bin/python"
}

# promtool: the one on PATH, else Debian's, unpacked into the cache (nothing is installed, no service is started); prints its path.
promtool_path() {
    command -v promtool && return
    local dir=$CACHE/prometheus
    if [ ! -x "$dir/usr/bin/promtool" ]; then
        command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
        say "unpacking promtool into $dir (once)"
        local scratch
        scratch=$(mktemp -d "$CACHE/prometheus.XXXXXX") || return 1
        # apt's sandbox user must be able to write there.
        chmod 0755 "$scratch"
        (
            cd "$scratch" || exit
            apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }
            dpkg-deb -x prometheus_*.deb unpacked
        ) >&2 || { rm -rf "$scratch"; return 1; }
        rm -rf "$dir"
        mv "$scratch/unpacked" "$dir"
        rm -rf "$scratch"
    fi
    printf '%s\n' "$dir/usr/bin/promtool"
}

# Where cargo puts what it builds.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# A TCP port on loopback that nobody listens on now.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s\n' "$port"; return; }
    done
}

#!/bin/sh
# Installs the real servers that tests use: Debian packages (as root), npm and PyPI packages. May be run again at any time.
#
# A test that needs a server skips itself with the reason "server missing: NAME" where it is not there; `make test` counts those
# skips by name, and counts them as failures under CI=true. To add a server, add its package to a list below.
set -eu
cd "$(dirname "$0")/.."

# MongoDB's mongod comes with the package's `test` extra.
APT_PACKAGES="curl etcd-server faketime iproute2 nginx-light postfix postgresql prometheus redis-server zookeeper"
NPM_PACKAGES="smpp@0.5.1 web-push-testing@1.2.2"
PIP_PACKAGES=""

missing_apt() {
    for package in $APT_PACKAGES; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || printf '%s ' "$package"
    done
}

missing_npm() {
    for package in $NPM_PACKAGES; do
        [ -d "var/servers/node_modules/${package%@*}" ] || printf '%s ' "$package"
    done
}

missing_pip() {
    for package in $PIP_PACKAGES; do
        .venv/bin/python -m pip show --quiet "${package%%[=<>]*}" >/dev/null 2>&1 || printf '%s ' "$package"
    done
}

# Tests start servers by themselves: installing them leaves none running. A rule of the machine's own stays as it is.
forbid_starting() {
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || return 0
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

install_apt() {
    wanted=$(missing_apt)
    [ -n "$wanted" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "servers: not installed, because this needs root: apt-get install $wanted"
        return 0
    fi
    echo "servers: apt-get install $wanted"
    forbid_starting
    DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted
}

install_npm() {
    wanted=$(missing_npm)
    [ -n "$wanted" ] || return 0
    if ! command -v npm >/dev/null; then
        echo "servers: not installed, because npm is missing: $wanted"
        return 0
    fi
    echo "servers: npm install $wanted"
    # shellcheck disable=SC2086 # a list of words
    npm install --silent --no-fund --no-audit --prefix var/servers $wanted
}

install_pip() {
    [ -n "$PIP_PACKAGES" ] || return 0
    make --no-print-directory venv
    wanted=$(missing_pip)
    [ -n "$wanted" ] || return 0
    echo "servers: pip install $wanted"
    # shellcheck disable=SC2086 # a list of words
    .venv/bin/python -m pip install --quiet --disable-pip-version-check $wanted
}

if [ -z "$APT_PACKAGES$NPM_PACKAGES$PIP_PACKAGES" ]; then
    echo "servers: none is needed; every test runs without one"
    exit 0
fi
install_apt
install_npm
install_pip
echo "servers: done ($APT_PACKAGES $NPM_PACKAGES $PIP_PACKAGES)"

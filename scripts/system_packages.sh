# Sourced by the other scripts: install a Debian package where that is allowed, else say what to type.

# apt_get ARGUMENTS...: as root, without a question. Fails where neither root nor a password-free sudo is at hand.
apt_get() {
    if [ "$(id -u)" -eq 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" </dev/null
    else
        sudo -n DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" </dev/null
    fi
}

# install_system_package NAME REASON
install_system_package() {
    local install=(install --yes --no-install-recommends "$1")
    echo "$2: trying to install $1"
    # A fresh container has no package lists: then the first try fails, and the second comes after an update.
    if command -v apt-get >/dev/null && { apt_get "${install[@]}" || { apt_get update && apt_get "${install[@]}"; }; } \
        >/dev/null 2>&1; then
        return
    fi
    echo "error: $2, and it could not be installed from here. Type:" >&2
    echo "    sudo apt-get update && sudo apt-get install --no-install-recommends $1" >&2
    return 1
}

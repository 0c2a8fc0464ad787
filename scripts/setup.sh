#!/usr/bin/env bash
# Make the virtual environment: scripts/setup.sh [folder]. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
. scripts/system_packages.sh

is_supported() {
    "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12}; do
        if is_supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "error: PYTHON=$PYTHON is not Python 3.11 or 3.12" >&2
    else
        echo "error: Python 3.11 or 3.12 is needed, python3 here is $(python3 -V 2>&1 || echo missing); install it with:" >&2
        echo "    sudo apt-get install python3.11 python3.11-venv" >&2
        echo "or, where the distribution has neither, from https://www.python.org/downloads/; then: make setup PYTHON=/path/to/python3.11" >&2
    fi
    return 1
}

# The lock files hold every package that is needed, so pip looks for no others, and refuses what has another hash.
install_locked() {
    "${pip[@]}" --require-hashes --no-deps --requirement "$1"
}

install_torch() {
    local wanted
    wanted=$(grep '^torch==' constraints.txt)
    if "$venv/bin/python" -c "import torch; raise SystemExit(torch.__version__.split('+')[0] != '${wanted#*==}')" \
        2>/dev/null; then
        return
    fi
    # On Linux, PyPI's torch brings gigabytes of CUDA libraries along: without a GPU the CPU build is wanted. It is not on
    # PyPI, and which hash it has depends on where it comes from; only its version is checked.
    if [ "$(uname -s)" = Linux ] && [ ! -e /dev/nvidia0 ] && [ ! -e /dev/dxg ]; then
        echo "looking for the CPU build of $wanted"
        "${pip[@]}" --no-deps "$wanted+cpu" 2>/dev/null ||
            "${pip[@]}" --no-deps --retries 1 --timeout 20 "$wanted+cpu" \
                --index-url https://download.pytorch.org/whl/cpu 2>/dev/null && return
        echo "no CPU build within reach: taking torch from PyPI"
    fi
    install_locked requirements-torch.lock
}

python=$(find_python)
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    install_system_package "python$version-venv" "Python's venv module is missing"
fi
if ! is_supported "$venv/bin/python"; then
    echo "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
fi
# Python compiles what it imports. Compiling all that is installed would take a third of the time of pip.
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --no-input --no-compile)
if [ ! -t 1 ]; then
    pip+=(--quiet)
fi
install_torch
echo "installing the pinned dependencies (a few minutes the first time)"
install_locked requirements.lock
# With the setuptools of the lock file; in isolation, pip would fetch one of its own choice.
"${pip[@]}" --no-deps --no-build-isolation --editable .

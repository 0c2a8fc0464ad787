#!/usr/bin/env bash
# Make sure that MuJoCo can render without a display: scripts/check_graphics.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/system_packages.sh

has_library() {
    "$1" -c 'import ctypes.util as u; raise SystemExit(not (u.find_library("OSMesa") or u.find_library("EGL")))'
}

# Elsewhere the operating system brings one; and who sets MUJOCO_GL knows better.
if [ "$(uname -s)" != Linux ] || [ -n "${MUJOCO_GL:-}" ] || has_library "$1"; then
    exit 0
fi
install_system_package libosmesa6 "MuJoCo needs an OpenGL library to render with (OSMesa or EGL)"
has_library "$1"

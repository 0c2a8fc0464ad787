#!/usr/bin/env bash
# Write the lock files anew from pyproject.toml and constraints.txt: every package with the hashes of all its files.
# Needs uv (`pip install uv`): UV=/path/to/uv scripts/lock.sh
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# compile FILE PYTHON EXTRA...: setuptools builds this package, so it is named beside what pyproject.toml needs.
compile() {
    local file=$1 python=$2
    shift 2
    echo setuptools | "$uv" pip compile - pyproject.toml --quiet "${@/#/--extra=}" --constraint constraints.txt \
        --generate-hashes --universal --python-version "$python" --default-index https://pypi.org/simple --no-config \
        --no-annotate --no-header --output-file "$work/$file" >/dev/null
}

# names FILE: of the packages in it.
names() {
    sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' "$work/$1"
}

# unconditional FILE: of those that every system needs.
unconditional() {
    sed -n '/;/!s/^\([A-Za-z0-9._-]*\)==.*/\1/p' "$work/$1"
}

# select FILE NAMES: those of its packages whose names stand in NAMES, one on a line, with their hashes.
select_packages() {
    awk 'NR == FNR { wanted[$1]; next } /^[A-Za-z0-9]/ { split($0, name, "=="); chosen = name[1] in wanted } chosen' \
        "$2" "$work/$1"
}

compile base 3.11 dev formats remote s3 view onnx
compile all 3.11.5 dev formats remote s3 view onnx docs # what formats the documentation wants 3.11.5
# PyPI's torch, and what it brings along on Linux, are apart: without a GPU the CPU build takes their place.
names base | grep -E '^(torch|triton|cuda-.*|nvidia-.*)$' >"$work/torch.names"
names base | grep -vxF -f "$work/torch.names" >"$work/base.names"
# What the others need on some systems only (colorama, on Windows), the documentation may need on all.
names all | grep -vxF -f <(unconditional base) | grep -vxF -f "$work/torch.names" >"$work/docs.names"
head="# Made by scripts/lock.sh; pip install --require-hashes --no-deps --requirement this file."
{ echo "$head" && echo "# All but torch." && select_packages base "$work/base.names"; } >requirements.lock
{ echo "$head" && echo "# torch as PyPI has it, on Linux with the CUDA libraries that it needs there." &&
    select_packages base "$work/torch.names"; } >requirements-torch.lock
{ echo "$head" && echo "# What the documentation needs beside the others." && select_packages all "$work/docs.names"; } \
    >requirements-docs.lock

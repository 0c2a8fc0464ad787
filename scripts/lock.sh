#!/usr/bin/env bash
# Write requirements.lock and requirements-torch.lock anew from pyproject.toml and constraints.txt: every package with the
# hashes of all its files. Needs uv (`pip install uv`): UV=/path/to/uv scripts/lock.sh
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
whole=$(mktemp)
trap 'rm -f "$whole"' EXIT

# setuptools builds this package; it is a requirement of the build, so it is named here.
echo setuptools | "$uv" pip compile - pyproject.toml --quiet --extra dev --extra formats --extra remote --extra s3 \
    --extra view --constraint constraints.txt --generate-hashes --universal --python-version 3.11 \
    --default-index https://pypi.org/simple --no-config --no-annotate --no-header --output-file "$whole" >/dev/null

# PyPI's torch, and what it brings along on Linux, are apart: without a GPU the CPU build takes their place.
select_torch() {
    awk -v wanted="$1" '/^[a-zA-Z0-9]/ { chosen = ($0 ~ /^(torch|triton|cuda-|nvidia-)/) == wanted } chosen' "$whole"
}
{
    echo "# Made by scripts/lock.sh. Everything but torch: pip install --require-hashes --no-deps -r requirements.lock"
    select_torch 0
} >requirements.lock
{
    echo "# Made by scripts/lock.sh. torch as PyPI has it, on Linux with the CUDA libraries that it needs there."
    select_torch 1
} >requirements-torch.lock

#!/usr/bin/env bash
# A virtual environment in .venv with the package in it; done again only when its inputs changed.
# Usage: scripts/setup.sh [extra]
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"
wanted="$extra $(cat pyproject.toml constraints.txt | sha256sum)"
[ -x .venv/bin/python ] || python3 -m venv .venv
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
  .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
  printf '%s' "$wanted" > .venv/installed
fi

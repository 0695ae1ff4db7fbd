#!/usr/bin/env bash
# Set up a virtual environment (once) and run every check: lint, types, tests.
# Usage: scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev
# Before OMP_NUM_THREADS is set: nproc counts by it.
workers=$(env -u OMP_NUM_THREADS nproc)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest "${@:--n$(( workers > 2 ? 2 : workers ))}"

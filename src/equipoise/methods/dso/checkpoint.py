"""Keep and restore the state of a fit: safetensors and JSON, written atomically, never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from equipoise.decisions.encode import Encoded
from equipoise.errors import EquipoiseError
from equipoise.files import write_atomically
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.sparsity import parts
from equipoise.methods.method import FitRequest
from equipoise.models.fingerprint import fingerprint
from equipoise.tasks.item import digest_texts

if TYPE_CHECKING:
    from equipoise.methods.dso.train import State

_FILE = "fit.safetensors"


def digest(request: FitRequest, config: DSOConfig, pools: Sequence[Sequence[Encoded]]) -> str:
    """What a checkpoint must match to be resumed: model, data, settings and seed.

    The pools are what the model reads: rows change with the tokenizer and its chat template too.
    """
    said = {
        "model": fingerprint(request.model),
        "dtype": str(request.model.hf.dtype),
        "task": request.task.digest,
        "pools": [digest_texts(map(repr, rows)) for rows in pools],
        "config": config.model_dump(),
        "seed": request.seed,
        "normalise": request.normalise,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def keep(folder: Path, state: State, run: str) -> None:
    """Write the state; an interrupted write leaves the one before.

    Raises:
        EquipoiseError: The folder cannot be written.
    """
    tensors: dict[str, Tensor] = {
        "multipliers": state.multipliers,
        "deviation": state.majority.deviation,
    }
    for key, name, value in parts(state.steering):
        tensors[f"{key}/{name}"] = value.detach()
        for slot, moment in state.optimizer.state[value].items():
            tensors[f"{key}/{name}/{slot}"] = moment
    header = {
        "run": run,
        "step": str(state.step),
        "calm": str(state.calm),
        "history": json.dumps(state.history),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EquipoiseError(f"cannot make the folder {folder}: {error.strerror}") from error
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    write_atomically(folder / _FILE, save(contiguous, metadata=header))


def restore(folder: Path, state: State, run: str) -> bool:
    """Take up the state of the same run, if there is one; says whether it did.

    Raises:
        EquipoiseError: The file is cut off, or no checkpoint.
    """
    path = folder / _FILE
    if not path.is_file():
        return False
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        tensors = load(data)
    except (ValueError, AttributeError, SafetensorError) as error:
        raise EquipoiseError(
            f"{path}: not a complete checkpoint of a fit; delete it to start afresh"
        ) from error
    if header.get("run") != run:
        return False
    state.step, state.calm = int(header["step"]), int(header["calm"])
    state.history = json.loads(header["history"])
    state.multipliers = tensors["multipliers"]
    state.majority.deviation = tensors["deviation"]
    for key, name, value in parts(state.steering):
        with torch.no_grad():
            value.copy_(tensors[f"{key}/{name}"])
        prefix = f"{key}/{name}/"
        state.optimizer.state[value] = {  # the step too: Adam is fused
            slot.removeprefix(prefix): tensor.to(value.device)
            for slot, tensor in tensors.items()
            if slot.startswith(prefix)
        }
    return True

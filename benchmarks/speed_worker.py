"""One library under one workload, in a process (and an environment) of its own.

    python benchmarks/speed_worker.py JOB.json RESULT.json

Started by ``speed.py``. Every process measures its own unsteered model in the same rounds, so that
ratios can be compared across environments.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import speed_measure as measure
import torch
from torch import Tensor

Variants = dict[str, Callable[..., Any]]


def equipoise(model: Any, vectors: list[Tensor], rows: int) -> Variants:
    """Affine at every norm: one strength, one per row, folded; and additive at every block."""
    from equipoise.models.backbone import residual_sites
    from equipoise.steering import Additive, Steering

    affine = Steering.identity(model)
    slopes = Steering.identity(model, "slope")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (*affine.parameters(), *slopes.parameters()):
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    sites = residual_sites(model)
    additive = Steering({s.key: Additive(v) for s, v in zip(sites, vectors, strict=True)})
    # A Llama takes a shift into biases of its linears, which it then has to add.
    found: Variants = {
        "folded": affine.fold(model, 0.5).generate,
        "folded, slopes only": slopes.fold(model, 0.5).generate,
    }
    steerings = [("affine at every norm", affine, 0.5), ("additive at every block", additive, 1.0)]
    if rows > 1:
        steerings += [("affine, one strength per row", affine, torch.linspace(0, 1, rows))]
    for name, steering, strength in steerings:
        steered = measure.twin(model)
        steering.attach(steered, strength)
        found[name] = steered.generate
    return found


def steering_vectors(model: Any, vectors: list[Tensor], rows: int) -> Variants:
    """Its decoder-block hooks."""
    from steering_vectors import SteeringVector

    steered = measure.twin(model)
    placed = {i: v.to(model.device, model.dtype) for i, v in enumerate(vectors)}
    SteeringVector(placed, "decoder_block").patch_activations(steered)
    return {"additive at every block": steered.generate}


def repeng(model: Any, vectors: list[Tensor], rows: int) -> Variants:
    """Its ControlModel around every block."""
    from repeng import ControlModel, ControlVector

    steered = ControlModel(measure.twin(model), range(len(vectors)))
    named = {i: v.numpy() for i, v in enumerate(vectors)}
    steered.set_control(ControlVector(model.config.model_type, named), 1.0)
    return {"additive at every block": steered.generate}


def pyvene(model: Any, vectors: list[Tensor], rows: int) -> Variants:
    """Its AdditionIntervention on every block's output, prompt and generated tokens alike."""
    from pyvene import AdditionIntervention, IntervenableConfig, IntervenableModel

    steered = IntervenableModel(
        IntervenableConfig(
            representations=[
                {
                    "layer": i,
                    "component": "block_output",
                    "source_representation": v.to(model.device, model.dtype),
                }
                for i, v in enumerate(vectors)
            ],
            intervention_types=AdditionIntervention,
        ),
        measure.twin(model),
    )

    def generate(ids: Tensor, **settings: Any) -> Any:
        # Without locations and "on the prompt" its hooks act on every token of every pass.
        base = {"input_ids": ids, "attention_mask": settings.pop("attention_mask")}
        return steered.generate(base, intervene_on_prompt=True, **settings)[1]

    return {"additive at every block": generate}


LIBRARIES: dict[str, Callable[[Any, list[Tensor], int], Variants]] = {
    "equipoise": equipoise,
    "steering-vectors": steering_vectors,
    "repeng": repeng,
    "pyvene": pyvene,
}
"""Each makes, from a model it must not change, the ``generate`` of its steered variants."""

SAME = {
    "additive at every block": measure.BARE,
    "affine at every norm": "folded",
}
"""Variants that compute the same thing: their logits are compared."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Measure."""
    torch.set_num_threads(job["threads"])
    model = measure.build(measure.SHAPES[job["shape"]])
    work = measure.WORKLOADS[job["workload"]]
    vectors = measure.directions(model)
    variants: Variants = {
        measure.UNSTEERED: model.generate,
        measure.AGAIN: measure.twin(model).generate,
        measure.BARE: measure.bare_hooks(model, vectors).generate,
        **LIBRARIES[job["library"]](model, vectors, work.rows),
    }
    calls = {name: measure.caller(g, model, work) for name, g in variants.items()}
    first = {name: call().float() for name, call in calls.items()}
    # Processor time leaves out what other programs do to a shared machine; a GPU has none.
    clock = time.perf_counter if model.device.type == "cuda" else time.process_time
    base, spread = first[measure.UNSTEERED], first[measure.UNSTEERED].std()
    return {
        "job": job,
        "versions": {n: version(n) for n in (job["library"], "torch", "transformers")},
        "clock": clock.__name__,
        "device": torch.cuda.get_device_name(0) if model.device.type == "cuda" else "cpu",
        "parameters": sum(p.numel() for p in model.parameters()),
        "activation_bytes": work.tokens * model.config.hidden_size * model.dtype.itemsize,
        "passes": work.new,
        "sites": {n: _sites(n, len(vectors)) for n in calls},
        "memory": {n: measure.memory(call, model.device) for n, call in calls.items()},
        # In units of the logits' spread.
        "moved": {n: float((x - base).abs().max() / spread) for n, x in first.items()},
        "differs": {
            n: float((first[n] - first[o]).abs().max() / spread)
            for n, o in SAME.items()
            if n in first
        },
        "seconds": measure.interleaved(calls, job["seconds"], job["rounds"], clock),
    }


def _sites(variant: str, blocks: int) -> int:
    return 2 * blocks + 1 if "affine" in variant else blocks


def main() -> None:
    """Read the job, write the result."""
    job, result = map(Path, sys.argv[1:3])
    found = run(json.loads(job.read_text(encoding="utf-8")))
    result.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

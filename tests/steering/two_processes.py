"""One of the processes of ``test_steering_accelerate.py``; its rank is in the environment.

Each takes its share of the rows; process 0 writes what all of them found.
"""

from __future__ import annotations

import os
import sys

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from steering_zoo import build, random_steering
from torch.nn.parallel import DistributedDataParallel

ROWS, TOKENS, NEW = 4, 7, 5
STRENGTHS = torch.tensor([0.0, 0.3, 0.6, 1.0])


def inputs():
    """Token ids, int64 [ROWS, TOKENS]."""
    return torch.randint(3, 61, (ROWS, TOKENS), generator=torch.Generator().manual_seed(4))


def measure(rank=0, world=1, prepare=lambda model: model, reduce=lambda tensor: tensor):
    """Logits, continuations and gradients, of the rows of one process.

    Args:
        rank: Which process.
        world: How many there are.
        prepare: What makes a model ready for them.
        reduce: Means a gradient over them.
    """
    rows = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    ids, strengths = inputs()[rows], STRENGTHS[rows]
    found = {}
    frozen = prepare(build("llama"))
    steering = random_steering(frozen, scale=0.3)
    with torch.no_grad(), steering.applied(frozen, strengths):
        found["logits"] = frozen(ids).logits
        found["continuations"] = frozen.generate(ids, max_new_tokens=NEW, do_sample=False)
    found["base"] = frozen(ids).logits

    # A model that is trained under the steering: DistributedDataParallel reduces its gradients,
    # and those of the strength and of the steering are for the user to reduce.
    model = build("llama").requires_grad_(True)
    strength = torch.tensor(0.5, requires_grad=True)
    with steering.applied(model, strength):
        wrapped = prepare(model)
        wrapped(ids).logits.square().mean().backward()
    assert isinstance(wrapped, DistributedDataParallel) == (world > 1)
    for name, parameter in model.named_parameters():
        found[f"model.{name}"] = parameter.grad
    found["strength"] = reduce(strength.grad)
    for name, parameter in steering.named_parameters():
        found[f"steering.{name}"] = reduce(parameter.grad)

    # Attached to what is wrapped already.
    with torch.no_grad(), steering.applied(wrapped, strengths):
        found["wrapped"] = wrapped(ids).logits
    return found


PER_ROW = ("logits", "continuations", "base", "wrapped")


def main(result):
    """What all processes found, written by the first."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2

    def prepare(model):
        # There is nothing to keep in step in a frozen model: accelerate would refuse it.
        frozen = not any(p.requires_grad for p in model.parameters())
        return accelerator.prepare_model(model, evaluation_mode=frozen)

    found = measure(
        accelerator.process_index,
        accelerator.num_processes,
        prepare,
        lambda tensor: accelerator.reduce(tensor, reduction="mean"),
    )
    for name in PER_ROW:
        found[name] = accelerator.gather(found[name].contiguous())
    if accelerator.is_main_process:
        save_file({k: v.detach().contiguous() for k, v in found.items()}, result)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
    # Not through the interpreter's own end: threads of gloo may still hold a tensor of the last
    # message there, and torch then aborts the process (seen once in CI, after all was written).
    os._exit(0)

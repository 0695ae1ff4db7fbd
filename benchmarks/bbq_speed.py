"""Items per second on BBQ against slow readings: one row at a time, all of it, every time.

    python benchmarks/bbq_speed.py MODEL [--items 200] [--threads 1]     (needs EQUIPOISE_DATA)

Two passes over the items: *decide* (an audit) and *read* (FairSteer's first step: label and last
prompt token of every block). Slow readings of them: *options*, the scoring contract read off the
page, a pass for each option, as a harness without a cache does; and *steps*, as the tests read the
first step (``tests/fairsteer/slow_fairsteer.py``), one pass per item for logits and activations,
which knows that options differ in their last token only. Both must agree with the fast ones to
1e-5 (activations: of a vector's largest). Times are the less of two: of the processor with one
thread, so that other work on the machine counts less; by the clock with several.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from equipoise import load
from equipoise.decisions.activations import decide_and_read
from equipoise.decisions.decide import decide
from equipoise.models import Model
from equipoise.models.backbone import decoder_blocks
from equipoise.tasks import load_task
from equipoise.tasks.item import Item

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fairsteer"))
from slow_fairsteer import watched

CATEGORY = "Age"
Found = TypeVar("Found")


def by_options(model: Model, item: Item) -> list[float]:
    alone = model.tokenizer.encode(item.prompt)
    start = len(alone)
    found = []
    for option in item.options:
        ids = alone + model.tokenizer.encode(f"{item.prompt} {option}")[start:]
        logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0]
        steps = logits.float().log_softmax(-1)
        found.append(sum(steps[k - 1, ids[k]].item() for k in range(start, len(ids))))
    return found


def by_steps(model: Model, item: Item) -> tuple[list[float], np.ndarray]:
    alone = model.tokenizer.encode(item.prompt)
    start = len(alone)
    wholes = [
        alone + model.tokenizer.encode(f"{item.prompt} {letter}")[start:] for letter in item.options
    ]
    seen: list[np.ndarray] = []

    def see(layer: int, h: Tensor) -> Tensor:
        seen.append(h[0, start - 1].numpy())
        return h

    with watched(model, see):
        logits = model.hf(torch.tensor([wholes[0][:-1]]), use_cache=False).logits[0]
    steps = logits.log_softmax(-1)  # letters may share a token: a space of its own
    shared = sum(steps[k - 1, wholes[0][k]].item() for k in range(start, len(wholes[0]) - 1))
    return [shared + steps[-1, whole[-1]].item() for whole in wholes], np.stack(seen)


def quicker(function: Callable[[], Found]) -> tuple[Found, float]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(2):
        started = clock()
        found = function()
        seconds.append(clock() - started)
    return found, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load(given.model)
    sites = [path for path, _ in decoder_blocks(model)]
    total = dict.fromkeys(("options", "steps", "decide", "read"), 0.0)
    for shots in (0, 8):
        items = load_task("bbq", shots=shots, categories=CATEGORY).items[: given.items]
        decide(model, items[:4])
        took: dict[str, float] = {}
        with torch.inference_mode():
            options, took["options"] = quicker(lambda: [by_options(model, i) for i in items])  # noqa: B023
            steps, took["steps"] = quicker(lambda: [by_steps(model, i) for i in items])  # noqa: B023
        scores, took["decide"] = quicker(lambda: decide(model, items)[0].scores)  # noqa: B023
        read, took["read"] = quicker(lambda: decide_and_read(model, items, sites))  # noqa: B023
        slow_h, h = np.array([h for _, h in steps]), read[1].numpy()
        apart = max(
            np.abs(np.array(options) - scores).max(),
            np.abs(np.array([letters for letters, _ in steps]) - read[0].scores).max(),
            (np.abs(slow_h - h).max(-1) / np.abs(slow_h).max(-1)).max(),
        )
        tell(f"{shots} shots", took, len(items))
        print(f"    largest difference {apart:.1e}")
        if apart > 1e-5:
            raise SystemExit("the readings differ")
        total = {what: total[what] + seconds for what, seconds in took.items()}
    tell("both", total, 2 * len(items))


def tell(what: str, took: dict[str, float], items: int) -> None:
    ms = {name: f"{1e3 * seconds / items:.1f}" for name, seconds in took.items()}
    print(
        f"{what}, {items} items: decide {ms['decide']} ms an item, "
        f"{took['options'] / took['decide']:.1f} times as fast as by options ({ms['options']}), "
        f"{took['steps'] / took['decide']:.1f} as by steps ({ms['steps']}); "
        f"read {ms['read']}, {took['steps'] / took['read']:.1f} times as fast as by steps"
    )


if __name__ == "__main__":
    main()

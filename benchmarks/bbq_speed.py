"""Items per second on BBQ against slow readings: one row at a time, all of it, every time.

    python benchmarks/bbq_speed.py MODEL [ITEMS]     (needs EQUIPOISE_DATA)

Two slow readings: *options*, the scoring contract read off the page (a pass for each option, as a
harness without a cache does), and *letters*, one pass per item that knows all options to be single
tokens. Both must agree with ``decide`` to 1e-5. Times are of the processor (threads: 1), so that
other work on the machine does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equipoise import load
from equipoise.decisions.decide import decide
from equipoise.models import Model
from equipoise.tasks import load_task
from equipoise.tasks.item import Item

CATEGORY = "Age"


def log_probs(model: Model, ids: list[int]) -> Tensor:
    logits = model.hf(torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def by_options(model: Model, item: Item) -> list[float]:
    start = len(model.tokenizer.encode(item.prompt))
    found = []
    for option in item.options:
        ids = model.tokenizer.encode(f"{item.prompt} {option}")
        steps = log_probs(model, ids)
        found.append(sum(steps[k - 1, ids[k]].item() for k in range(start, len(ids))))
    return found


def by_letters(model: Model, item: Item) -> list[float]:
    wholes = [model.tokenizer.encode(f"{item.prompt} {letter}") for letter in item.options]
    steps = log_probs(model, wholes[0][:-1])
    start = len(model.tokenizer.encode(item.prompt))
    shared = sum(steps[k - 1, wholes[0][k]].item() for k in range(start, len(wholes[0]) - 1))
    return [shared + steps[-1, whole[-1]].item() for whole in wholes]


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    started = time.process_time()
    return function(), time.process_time() - started


def main(name: str, count: int) -> None:
    torch.set_num_threads(1)
    model = load(name)
    for shots in (0, 8):
        items = load_task("bbq", shots=shots, categories=CATEGORY).items[:count]
        decide(model, items[:4])
        with torch.inference_mode():
            slow, options = timed(lambda: np.array([by_options(model, i) for i in items]))  # noqa: B023
            single, letters = timed(lambda: np.array([by_letters(model, i) for i in items]))  # noqa: B023
        fast, ours = timed(lambda: decide(model, items)[0].scores)  # noqa: B023
        apart = max(np.abs(fast - slow).max(), np.abs(fast - single).max())
        print(
            f"{shots} shots, {len(items)} items: {1e3 * ours / len(items):.1f} ms an item; "
            f"{options / ours:.1f} times as fast as by options, {letters / ours:.1f} as by "
            f"letters; largest difference {apart:.1e}"
        )
        if apart > 1e-5:
            raise SystemExit("the readings differ")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200)

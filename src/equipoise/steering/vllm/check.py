"""Does vLLM compute what the steered model computes, attached and folded?"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.steering.check import Check
from equipoise.steering.fold.model import fold
from equipoise.steering.vllm.probe import Output, Request, Result

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from equipoise.steering.verify import Bench

LIVE, FOLDED = "attached in vLLM = attached", "folded in vLLM = attached"
_NEW = 4
_DTYPES = ("float32", "float16", "bfloat16")
# Of the effect, what must arrive; lost without a trace, it is 0.
_ARRIVES = 0.5
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def vllm_checks(bench: Bench, *, ungated: bool, wanted: bool | None) -> tuple[Check, ...]:
    """Compare log-probabilities and greedy tokens with those of vLLM, where it is installed.

    Args:
        bench: The model, the steering and the prompts.
        ungated: Whether the steering has no gate.
        wanted: False: leave it out; True: it must be there.

    Raises:
        SteeringError: vLLM is wanted, and not installed.
    """
    if wanted is False:
        return (_skipped("left out"),)
    if not _installed():
        if wanted:
            raise SteeringError("vllm is not installed here: install it, or leave --vllm out")
        return (_skipped("vllm is not installed"),)
    if not ungated or not bench.steering.scope.everywhere:
        return (_skipped("a gate or a token scope cannot be attached to vLLM, nor folded"),)
    if _dtype(bench) not in _DTYPES:
        return (_skipped(f"vLLM has no {_dtype(bench)}"),)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _measured(bench, Path(scratch))
    except (OSError, SafetensorError) as error:
        return (_skipped(f"cannot write the checkpoint for vLLM: {error}"),)


def _measured(bench: Bench, scratch: Path) -> tuple[Check, ...]:
    artifact = bench.steering.save_pretrained(scratch / "steering")
    live = _probe(bench, cast("PreTrainedModel", bench.root), scratch, artifact)
    base = live.base
    if base is None:
        return (_skipped(f"vLLM {live.version} does not run this model here: {live.error}"),)
    if live.steered is None:
        attached = Check(LIVE, None, note=f"not attached: {live.error}")
    else:
        attached = compare(bench, LIVE, base, live.steered)
    try:
        folded = fold(bench.root, bench.steering, bench.strength)
    except SteeringError as error:
        return attached, Check(FOLDED, None, note=f"does not fold: {error}")
    baked = _probe(bench, folded, scratch)
    if baked.base is None:
        return attached, Check(FOLDED, False, note=f"vLLM does not run it: {baked.error}")
    return attached, compare(bench, FOLDED, base, baked.base)


def compare(bench: Bench, name: str, base: Output, steered: Output) -> Check:
    """Set what vLLM computes against the steered model.

    The log-probability of every token must be the model's, and every greedy token one that the
    model finds as probable as its own best.

    Args:
        bench: The model, the steering and the prompts.
        name: Of the check.
        base: vLLM's output without the steering: what differs there already is not its fault.
        steered: vLLM's output with it.
    """
    base_found, base_wanted, _ = _sides(bench, base, 0.0)
    found, wanted, same = _sides(bench, steered, bench.strength)
    check = bench.compare(name, found, wanted, bench.difference(base_found, base_wanted))
    # Only prompts have the same tokens with and without steering.
    known = slice(0, bench.ids.numel() - len(bench.ids))
    effect = (wanted - base_wanted)[known]
    rounding = (base_found - base_wanted)[known].norm().item()
    size = effect.norm().item()
    # Twice the standard error of the share below, if both passes round as the base does.
    uncertain = 2 * math.sqrt(2) * rounding / len(effect) ** 0.5
    if uncertain > _ARRIVES * size or not size:
        ok, share = False, "undecided: too small an effect to be told from rounding"
    else:
        arrives = ((found - base_found)[known] @ effect).item() / size**2
        ok, share = bool(check.ok) and arrives > _ARRIVES, f"{arrives:.0%} of the effect arrives"
    notes = (check.note, f"{same:.0%} of greedy tokens the same", share)
    return Check(name, ok, check.measured, check.tolerance, "; ".join(filter(None, notes)))


def _sides(bench: Bench, output: Output, strength: float) -> tuple[Tensor, Tensor, float]:
    """What vLLM says and what the model says, float32, prompts first; share of equal tokens.

    Both hold the log-probability of each token of the prompts and then of the continuations; and
    for each continued token, what the model gives to vLLM's choice (on vLLM's side) and to its own.
    """
    tokens = torch.tensor(output.tokens, device=bench.ids.device)
    with bench.steering.applied(bench.root, strength):
        logprobs = bench.logits(tokens).float().log_softmax(-1)[:, :-1]
    wanted = logprobs.gather(-1, tokens[:, 1:, None])[..., 0]
    found = torch.tensor(output.logprobs, device=bench.ids.device)
    prompt = bench.ids.shape[1] - 1
    best, choice = logprobs.max(-1)
    same = (choice == tokens[:, 1:])[:, prompt:].float().mean().item()
    one = (found[:, :prompt], found[:, prompt:], wanted[:, prompt:])
    other = (wanted[:, :prompt], wanted[:, prompt:], best[:, prompt:])
    return torch.cat([x.flatten() for x in one]), torch.cat([x.flatten() for x in other]), same


def _probe(
    bench: Bench, model: PreTrainedModel, scratch: Path, artifact: Path | None = None
) -> Result:
    """Run a model in vLLM, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        model.save_pretrained(folder)
        request = Request(
            checkpoint=folder,
            dtype=_dtype(bench),
            prompts=bench.ids.tolist(),
            new=_NEW,
            artifact=None if artifact is None else str(artifact),
            strength=bench.strength,
        )
        asked, answer = scratch / "request.json", scratch / "result.json"
        asked.write_text(json.dumps(asdict(request)), encoding="utf-8")
        answer.unlink(missing_ok=True)
        command = [sys.executable, "-m", "equipoise.steering.vllm.probe", str(asked), str(answer)]
        done = subprocess.run(
            command, env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True
        )
    if not answer.exists():
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Result("", error=said[-1])
    return Result.read(answer)


def _installed() -> bool:
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None  # else it is a folder of that name


def _dtype(bench: Bench) -> str:
    return str(bench.base.dtype).removeprefix("torch.")


def _skipped(why: str) -> Check:
    return Check("vllm", None, note=f"skipped: {why}")

"""How the speed benchmark measures: model, workloads, interleaved rounds, memory.

Needs torch and transformers only, of whatever version: every library is measured by this code in
an environment of its own.
"""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler announces every start otherwise

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

Clock = Callable[[], float]
UNSTEERED, AGAIN, BARE = "unsteered", "unsteered, a second copy", "a bare forward hook"


@dataclass(frozen=True)
class Shape:
    """A random-weight Llama: its sizes, dtype and device."""

    sizes: Mapping[str, int | bool]
    dtype: torch.dtype
    device: str


@dataclass(frozen=True)
class Workload:
    """One ``generate`` call: so many rows of prompt, so many new tokens."""

    rows: int
    prompt: int
    new: int

    @property
    def tokens(self) -> int:
        """Tokens in the largest of the call's forward passes."""
        return self.rows * self.prompt


def _sizes(vocabulary: int, width: int, inner: int, layers: int, heads: int, kv: int) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": width < 4096,
        "max_position_embeddings": 2048,
    }


SHAPES = {
    "quick": Shape(_sizes(500, 64, 128, 2, 4, 4), torch.float32, "cpu"),
    "100m": Shape(_sizes(32000, 768, 2048, 12, 12, 12), torch.float32, "cpu"),
    "8b": Shape(_sizes(128256, 4096, 14336, 32, 32, 8), torch.bfloat16, "cuda"),
}
WORKLOADS = {
    "decode-1": Workload(1, 1, 3),
    "decode-32": Workload(32, 1, 2),
    "prefill-4x512": Workload(4, 512, 1),
}


def build(shape: Shape) -> LlamaForCausalLM:
    """The same weights under every version of the libraries."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)
    try:
        with torch.device(shape.device):
            tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
            model = LlamaForCausalLM(LlamaConfig(**shape.sizes, **tokens))
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(shape.device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "norm" in name:
                parameter.fill_(1)
            else:
                parameter.normal_(0, 0.02, generator=generator)
    return model.eval().requires_grad_(False)


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Another model over the same weights, to be steered without touching the first."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def directions(model: LlamaForCausalLM) -> list[Tensor]:
    """One steering vector per block, float32 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    return [0.1 * torch.randn(width, generator=generator) for _ in range(layers)]


def bare_hooks(model: LlamaForCausalLM, vectors: list[Tensor]) -> LlamaForCausalLM:
    """What any steering by hooks costs at least: one line of Python and one addition a block."""

    def adder(vector: Tensor) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + vector, *output[1:])
            return output + vector

        return hook

    model = twin(model)
    for block, vector in zip(model.model.layers, vectors, strict=True):
        block.register_forward_hook(adder(vector.to(model.device, model.dtype)))
    return model


def caller(generate: Callable[..., Any], model: LlamaForCausalLM, work: Workload) -> Callable:
    """The measured call; returns its first logits, [rows, vocabulary]."""
    generator = torch.Generator().manual_seed(2)
    size = (work.rows, work.prompt)
    ids = torch.randint(3, model.config.vocab_size, size, generator=generator).to(model.device)
    settings = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": work.new,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }

    def call() -> Tensor:
        with torch.no_grad():
            return generate(ids, **settings).logits[0]

    return call


def interleaved(
    calls: Mapping[str, Callable[[], Any]], seconds: float, at_least: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of each call in every round; a round times each of them once, in random order.

    Args:
        calls: By name.
        seconds: No new round is begun after this time.
        at_least: Number of rounds to do in any case.
        clock: What is read before and after a call.
    """
    order = random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < at_least or time.perf_counter() < end:
        for name in order.sample(list(calls), len(calls)):
            _wait()
            start = clock()
            calls[name]()
            _wait()
            found[name].append(clock() - start)
        rounds += 1
    return found


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory(call: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """Bytes live at the peak of a call beyond those live before it, and bytes allocated in all."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()
        call()
        after = torch.cuda.memory_stats()
        peak = after["allocated_bytes.all.peak"] - before["allocated_bytes.all.current"]
        key = "allocated_bytes.all.allocated"
        return peak, after[key] - before[key]
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = total = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
        total += max(event.nbytes(), 0)
    return peak, total


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Median of the rounds' ratios and its 95 % interval (order statistics, no distribution)."""
    values = sorted(a / b for a, b in zip(above, below, strict=True))
    n = len(values)
    # The median lies between the k-th lowest and the k-th highest, k = n/2 - 0.98 sqrt(n).
    k = max(int(n / 2 - 0.98 * n**0.5), 0)
    middle = (values[(n - 1) // 2] + values[n // 2]) / 2
    return middle, values[k], values[n - 1 - k]

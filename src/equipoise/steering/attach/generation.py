"""A steered model's ``generate``: which of its tokens are the prompt, and what gates say of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.attach.cache import CACHES, cache_of, stamp_of, tokens_in
from equipoise.steering.attach.forward import Generation
from equipoise.steering.attach.guidance import guided, is_guided

if TYPE_CHECKING:
    from equipoise.steering.attach.runtime import Runtime

# Settings under which generate puts the whole prompt through the model at once.
_FIRST_PASS: Mapping[str, Any] = {
    "use_cache": False,
    "cache_implementation": None,
    "prefill_chunk_size": None,
    "custom_generate": None,
    "assistant_model": None,
    "assistant_early_exit": None,
    "prompt_lookup_num_tokens": None,
    "streamer": None,
}


class Settings:
    """Generation settings: keyword arguments, then the generation config, then the model's own."""

    def __init__(self, root: nn.Module, kwargs: Mapping[str, Any]) -> None:
        self._kwargs = kwargs
        self._configs = kwargs.get("generation_config"), getattr(root, "generation_config", None)

    def get(self, name: str, default: Any) -> Any:
        """A setting, or the default where it is not set."""
        if name in self._kwargs:
            found = [self._kwargs[name]]
        else:
            found = [getattr(config, name, None) for config in self._configs]
        return next((value for value in found if value is not None), default)

    @property
    def goes_on(self) -> bool:
        """Whether ``generate`` is given a cache that holds something."""
        return tokens_in(cache_of(self._kwargs)) != 0

    @property
    def parted(self) -> bool:
        """Whether the model is given the prompts in parts; some of them may be cached already."""
        return self.get("prefill_chunk_size", None) is not None or self.goes_on


class SteeredGenerate:
    """Stands in for the ``generate`` of one model; an object, so that the model can be copied."""

    def __init__(self, runtime: Runtime, root: nn.Module) -> None:
        self.runtime, self.root = runtime, root

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``generate``, with its prompt remembered for the time of the call."""
        settings = Settings(self.root, kwargs)
        drafting = self.runtime.generation is not None and settings.get("is_assistant", False)
        if drafting or self.runtime.passes.muted:
            return self._run(args, kwargs)  # the model drafts for itself, within generate
        inputs = args[0] if args else None
        for name in ("inputs", "input_ids", "inputs_embeds"):
            inputs = kwargs.get(name) if inputs is None else inputs
        draft = _drafted(kwargs, settings)
        generation = draft or _started(inputs, kwargs, settings)
        alone = {name: value for name, value in kwargs.items() if name not in CACHES}
        for attachment in self.runtime.attachments:
            attachment.begin_generation(generation, settings)
            gate = attachment.row_gate
            if draft is None and gate is not None and gate.reads_ahead(settings):
                _check_whole(inputs, generation)
                generation.decisions[attachment.uid] = gate.read_ahead(
                    lambda: self._run(args, {**alone, **_FIRST_PASS}), generation
                )
        runtime = self.runtime
        with contextlib.ExitStack() as stack:
            stack.enter_context(runtime.generating(generation))
            if not all(attachment.static for attachment in runtime.attachments):
                # On an accelerator, generate compiles the model for a static cache by itself.
                kwargs = {**kwargs, "disable_compile": True}
                if is_guided(settings):
                    parts = runtime, self.root, kwargs, settings, generation
                    kwargs = stack.enter_context(guided(*parts))
            return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return type(self.root).generate(self.root, *args, **kwargs)  # type: ignore[attr-defined]


def _drafted(kwargs: Mapping[str, Any], settings: Settings) -> Generation | None:
    """The generation that a call goes on with, if the model drafts for another one.

    It is called again and again with what was accepted so far, which is no longer the prompt.
    """
    stamp = stamp_of(cache_of(kwargs)) if settings.get("is_assistant", False) else None
    return stamp.generation if stamp is not None and settings.goes_on else None


def _started(inputs: Any, kwargs: Mapping[str, Any], settings: Settings) -> Generation:
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return Generation(mask.bool(), parted=settings.parted)
    if not isinstance(inputs, Tensor):
        return Generation(torch.ones(1, 1, dtype=torch.bool))
    ones = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    pad = settings.get("pad_token_id", None)
    padded = inputs.ndim == 2 and isinstance(pad, int) and bool((inputs == pad).any())
    if settings.get("is_assistant", False):
        padded = False  # transformers hands a draft model the mask, or drops one without padding
    # Without a mask, transformers takes the inputs for the whole prompt, cached tokens included.
    cached = tokens_in(cache_of(kwargs))
    known = not padded and cached is not None and cached < inputs.shape[1]
    return Generation(ones, known, settings.parted)


def _check_whole(inputs: Any, generation: Generation) -> None:
    if not isinstance(inputs, Tensor) or inputs.shape[1] != generation.mask.shape[1]:
        raise SteeringError(
            "a gate that comes after steered sites must read the whole prompt: pass all its tokens "
            "to generate, not only those after a cached prefix"
        )

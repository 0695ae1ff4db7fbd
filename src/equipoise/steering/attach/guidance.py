"""Classifier-free guidance: ``generate`` also runs the model on an unconditional prompt.

That prompt is the negative prompt, or the last token of the prompt; what is generated follows it. A
token scope is told by it, and a row keeps the gate's decision on its own prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.attach.forward import Generation

if TYPE_CHECKING:
    from equipoise.steering.attach.generation import Settings
    from equipoise.steering.attach.runtime import Runtime


def is_guided(settings: Settings) -> bool:
    """Whether ``generate`` runs with classifier-free guidance."""
    return settings.get("guidance_scale", 1) != 1


@contextmanager
def guided(
    runtime: Runtime,
    root: nn.Module,
    kwargs: Mapping[str, Any],
    settings: Settings,
    generation: Generation,
) -> Iterator[dict[str, Any]]:
    """The arguments of ``generate``, with guidance whose passes are known for what they are.

    Args:
        runtime: Of the model.
        root: The model.
        kwargs: The arguments.
        settings: The same, and the generation config.
        generation: What is generated.

    Raises:
        SteeringError: Guidance is there already, as a logits processor.
    """
    from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance

    processors = kwargs.get("logits_processor") or []
    if any(type(processor) is Guidance for processor in processors):
        raise SteeringError("give generate a guidance_scale, not guidance as a logits processor")
    ids, mask = kwargs.get("negative_prompt_ids"), kwargs.get("negative_prompt_attention_mask")
    if mask is None:
        mask = torch.ones_like(generation.mask[:, :1] if ids is None else ids, dtype=torch.long)
    processor = Guidance(
        settings.get("guidance_scale", 1),
        _Unconditional(runtime, root, Generation(mask.bool())),
        unconditional_ids=ids,
        unconditional_attention_mask=None if ids is None else mask,
        use_cache=settings.get("use_cache", True),
    )
    # generate takes a processor for the one of that type it would make, and warns that it does.
    logger = logging.getLogger("transformers.generation.utils")
    logger.addFilter(_expected)
    try:
        yield {**kwargs, "logits_processor": [*processors, processor]}
    finally:
        logger.removeFilter(_expected)


def _expected(record: logging.LogRecord) -> bool:
    return "A custom logits processor" not in record.getMessage()


class _Unconditional:
    """Stands in for the model in guidance: its passes are a generation of their own."""

    def __init__(self, runtime: Runtime, root: nn.Module, generation: Generation) -> None:
        self.runtime, self.root, self.generation = runtime, root, generation

    def __call__(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """The model's output for tokens after the unconditional prompt."""
        guided = self.runtime.forward
        if guided is not None:
            each = guided.rows // self.generation.prompts
            self.generation.decisions = {u: d[::each] for u, d in guided.decisions.items()}
        with self.runtime.generating(self.generation):
            return self.root(input_ids, **kwargs)

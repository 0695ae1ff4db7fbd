"""A loaded language model with what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import device as Device
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Model:
    """A transformers model, its tokenizer and processor, and where they came from.

    Attributes:
        hf: The transformers model, in eval mode, its parameters frozen.
        tokenizer: Its tokenizer.
        processor: Its image-and-text processor; None for text models.
        name: What the user called it (hub id, folder, ``builtin:NAME``).
        revision: The hub revision asked for.
        chat: Whether prompts go through the tokenizer's chat template.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    processor: Any = None
    name: str = ""
    revision: str | None = None
    chat: bool = False

    @property
    def device(self) -> Device:
        """Where inputs go."""
        return input_device(self.hf)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """``hf.generate``."""
        return self.hf.generate(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``hf(...)``."""
        return self.hf(*args, **kwargs)


def unwrap(model: Model | nn.Module) -> nn.Module:
    """The torch module that a :class:`Model`, torch.compile or DistributedDataParallel wraps."""
    root: Any = model.hf if isinstance(model, Model) else model
    while True:
        if isinstance(root, nn.parallel.DistributedDataParallel):
            root = root.module
        elif hasattr(root, "_orig_mod"):
            root = root._orig_mod
        else:
            return root


def input_device(model: nn.Module) -> Device:
    """Where a model's inputs go: where its first weights are, or are brought if offloaded."""
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return Device(next((device for device in devices if device is not None), "meta"))

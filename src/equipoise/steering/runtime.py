"""What all attachments on one model share: the current forward pass and ``generate`` call."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import language_backbone
from equipoise.steering.context import (
    Forward,
    Generation,
    Stamp,
    cache_of,
    can_be_marked,
    put_stamp,
    stamp_of,
    tokens_in,
)
from equipoise.steering.generation import SteeredGenerate
from equipoise.steering.paged import check_paged, drop_manager
from equipoise.steering.recomputation import Watch

if TYPE_CHECKING:
    from equipoise.steering.attachment import Attachment

_SLOT = "_equipoise_runtime"
# Where a batch has as many rows as tokens, shapes do not tell.
_TOKENS_FIRST = ("xlnet",)


class _PerThread(threading.local):
    """What a thread's own pass through the model is about."""

    forward: Forward | None = None
    generation: Generation | None = None
    root_mask: Tensor | None = None
    unpadded: bool = False
    in_root: bool = False


class Runtime:
    """Lives on the language backbone from the first attachment to the last.

    Attributes:
        attachments: In the order in which they were attached, which is the order they act in.
        prompt_lengths: int64 [rows] set by the caller, or None.
        tokens_first: Whether activations are [tokens, rows, d].
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.attachments: list[Attachment] = []
        self.prompt_lengths: Tensor | None = None
        config = getattr(backbone, "config", None)
        self.tokens_first = getattr(config, "model_type", "") in _TOKENS_FIRST
        self._thread = threading.get_ident()
        self._local = _PerThread()
        self._muted: list[int] = []  # threads that read the unsteered model just now
        self._names = list(inspect.signature(backbone.forward).parameters)
        self._proxied: list[nn.Module] = []
        self._handles = [
            backbone.register_forward_pre_hook(_Before(self), with_kwargs=True),
            backbone.register_forward_hook(_After(self)),
        ]
        setattr(backbone, _SLOT, self)

    @classmethod
    def of(cls, root: nn.Module) -> Runtime | None:
        """The runtime of a model, if it is steered."""
        return getattr(language_backbone(root)[1], _SLOT, None)

    def join(self, attachment: Attachment, root: nn.Module) -> None:
        """Take in an attachment.

        Raises:
            SteeringError: Another thread steers this model.
        """
        if threading.get_ident() != self._thread:
            raise SteeringError(
                "another thread is steering this model; share its attachment, or copy the model"
            )
        if all(other.static for other in self.attachments) and not attachment.static:
            # Also after an exception, or the next pass of the backbone would take over its mask.
            after = root.register_forward_hook(_RootAfter(self), always_call=True)
            self._handles.append(after)
        self.attachments.append(attachment)
        if root not in self._proxied:
            self._handles.append(root.register_forward_pre_hook(_Root(self), with_kwargs=True))
            if hasattr(root, "generate") and "generate" not in vars(root):
                root.generate = SteeredGenerate(self, root)  # type: ignore[assignment]
            self._proxied.append(root)

    def leave(self, attachment: Attachment) -> None:
        """Let an attachment go; the last one takes every trace with it."""
        self.attachments.remove(attachment)
        if self.attachments:
            return
        for handle in self._handles:
            handle.remove()
        for root in self._proxied:
            drop_manager(root)
            if isinstance(vars(root).get("generate"), SteeredGenerate):
                del root.generate
        delattr(self.backbone, _SLOT)

    @property
    def forward(self) -> Forward | None:
        """The forward pass this thread is in (or was last in)."""
        return self._local.forward

    @property
    def muted(self) -> bool:
        """Whether this thread reads the unsteered model just now."""
        return bool(self._muted) and threading.get_ident() in self._muted

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Run the model unsteered in this thread."""
        before = self.forward
        self._muted.append(threading.get_ident())
        try:
            yield
        finally:
            self._muted.remove(threading.get_ident())
            self._local.forward = before

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pass of the backbone starts."""
        if self.muted:
            return
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise SteeringError(
                "a CUDA graph would keep the strength it was captured at: capture none while a "
                "steering is attached (ContinuousBatchingConfig(use_cuda_graph=False)), or fold it"
            )
        for attachment in self.attachments:
            attachment.open_pass()
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if can_be_marked(given.get("cache")):
            check_paged(given["cache"], self.attachments)
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given.get("inputs_embeds")
        if tokens is None:
            self._local.forward = None
            return
        cache = cache_of(given)
        generation = self.generation
        stamp = stamp_of(cache)
        mask = given.get("attention_mask")
        flat = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        if flat is None and generation is None:
            flat = self._local.root_mask
        past = tokens_in(cache)
        # A cache of a name we do not know: generate feeds less than the prompt, and without one.
        lost = generation is not None and tokens.shape[1] < generation.mask.shape[1]
        forward = Forward(
            rows=tokens.shape[0],
            tokens=tokens.shape[1],
            device=tokens.device,
            past=past or 0,
            attention=flat,
            masked=mask is not None and flat is None and not self._local.unpadded,
            uncounted=past is None or (cache is None and flat is None and lost),
            unmarked=past is None and can_be_marked(cache),
            generation=generation,
            given_lengths=self.prompt_lengths if generation is None else None,
        )
        forward.stamp = stamp if forward.past else None
        if forward.stamp is not None:
            forward.decisions.update(forward.stamp.decisions)
        self._local.forward = forward
        self._check_no_stranger(forward)
        for attachment in self.attachments:
            attachment.begin(forward, given)

    def _check_no_stranger(self, forward: Forward) -> None:
        if forward.stamp is None:
            return
        here = {attachment.uid for attachment in self.attachments}
        for uid, values in forward.stamp.strengths.items():
            if uid not in here and any(values):
                raise SteeringError(
                    "the cache was filled under a steering that is no longer attached, or that "
                    "was changed since: start from an empty cache"
                )

    def end(self, output: Any) -> None:
        """A forward pass of the backbone is over: note in its cache what filled it."""
        forward = self.forward
        if forward is None or self.muted:
            return
        self._local.root_mask, self._local.unpadded = None, False
        forward.over = not self._local.in_root
        for attachment in self.attachments:
            attachment.close_pass()
        if torch.is_grad_enabled():
            Watch(self, output)
        cache = cache_of(output)
        if cache is None:
            return
        stamp = Stamp(
            forward.past + forward.tokens,
            decisions=dict(forward.decisions),
            generation=forward.generation,
        )
        if not all(attachment.static for attachment in self.attachments):
            stamp.prompt = forward.lengths_to_keep()
        for attachment in self.attachments:
            if attachment.touches(forward):
                stamp.strengths[attachment.uid] = attachment.values
        put_stamp(cache, stamp)

    @property
    def generation(self) -> Generation | None:
        """The ``generate`` call this thread is in."""
        return self._local.generation

    @contextmanager
    def generating(self, generation: Generation) -> Iterator[None]:
        """A ``generate`` call in this thread."""
        before, self._local.generation = self._local.generation, generation
        try:
            yield
        finally:
            self._local.generation = before

    def open_root(self, mask: Any) -> None:
        """A pass of the whole model starts; a VLM's backbone may not see its 2-D attention mask."""
        self._local.in_root, self._local.unpadded = True, mask is None
        self._local.root_mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def close_root(self) -> None:
        """It is over: compiled code, which opens no pass, must not go by this one."""
        self._local.in_root, self._local.unpadded, self._local.root_mask = False, False, None
        if self.forward is not None:
            self.forward.over = True

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        del state["_local"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._local = _PerThread()
        self._muted = []
        self._thread = threading.get_ident()


class _Before:
    """Hook on the backbone; an object, so that a steered model can be copied and pickled."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        self.runtime.begin(args, kwargs)


class _After(_Before):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self.runtime.end(output)


class _Root(_Before):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.runtime.open_root(mask)


class _RootAfter(_Before):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.runtime.close_root()

"""What all attachments on one model share: the current forward pass and ``generate`` call."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import language_backbone
from equipoise.steering.attach.cache import (
    Stamp,
    cache_of,
    can_be_marked,
    grew,
    put_stamp,
    stamp_of,
    tokens_in,
)
from equipoise.steering.attach.forward import Forward, Generation
from equipoise.steering.attach.generation import SteeredGenerate
from equipoise.steering.attach.paged import check_paged, drop_manager
from equipoise.steering.attach.passes import LOCK, Passes
from equipoise.steering.attach.recomputation import Watch

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment
    from equipoise.steering.strength import Setting

_SLOT = "_equipoise_runtime"
# Where a batch has as many rows as tokens, shapes do not tell.
_TOKENS_FIRST = ("xlnet",)


class _PerThread(threading.local):
    """What a thread's own pass through the model is about."""

    forward: Forward | None = None
    cache: Any = None
    generation: Generation | None = None
    generating_under: tuple[Attachment, ...] = ()
    root_mask: Tensor | None = None
    unpadded: bool = False


class Runtime:
    """Lives on the language backbone from the first attachment to the last.

    Attributes:
        passes: What each thread's pass goes by.
        prompt_lengths: int64 [rows] set by the caller, or None.
        tokens_first: Whether activations are [tokens, rows, d].
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.passes = Passes(backbone)
        self.prompt_lengths: Tensor | None = None
        config = getattr(backbone, "config", None)
        self.tokens_first = getattr(config, "model_type", "") in _TOKENS_FIRST
        self._local = _PerThread()
        self._generating = 0
        self._names = list(inspect.signature(backbone.forward).parameters)
        self._proxied: list[nn.Module] = []
        self._handles = [
            backbone.register_forward_pre_hook(_Before(self), with_kwargs=True),
            backbone.register_forward_hook(_After(self), always_call=True),
        ]
        setattr(backbone, _SLOT, self)

    @classmethod
    def of(cls, root: nn.Module) -> Runtime | None:
        """The runtime of a model, if it is steered."""
        return getattr(language_backbone(root)[1], _SLOT, None)

    @property
    def attachments(self) -> list[Attachment]:
        """In the order in which they were attached, which is the order they act in."""
        return self.passes.attachments

    def join(self, attachment: Attachment, root: nn.Module) -> None:
        """Take in an attachment.

        Raises:
            SteeringError: Another thread steers this model.
        """
        self.passes.join(attachment)
        if root not in self._proxied:
            self._handles.append(root.register_forward_pre_hook(_Root(self), with_kwargs=True))
            # Also after an exception, or the next pass of the backbone would take over its mask.
            after = root.register_forward_hook(_RootAfter(self), always_call=True)
            self._handles.append(after)
            if hasattr(root, "generate") and "generate" not in vars(root):
                root.generate = SteeredGenerate(self, root)  # type: ignore[assignment]
            self._proxied.append(root)
            self.passes.watch(root)

    def leave(self, attachment: Attachment) -> None:
        """Let an attachment go; the last one takes every trace with it."""
        with LOCK:
            if attachment not in self.attachments:
                return
            self.passes.leave(attachment)
            last = not self.attachments
        if last:
            for root in self._proxied:
                drop_manager(root)  # waits for a thread that may be in a pass
        self._clean()

    def _clean(self) -> None:
        """Take the hooks off that no pass goes by any more."""
        with LOCK:
            if not self.passes.unhook() or self._generating:
                return
            for handle in self._handles:
                handle.remove()
            for root in self._proxied:
                own = vars(root).get("generate")
                if isinstance(own, SteeredGenerate) and own.runtime is self:
                    del root.generate
            if vars(self.backbone).get(_SLOT) is self:
                delattr(self.backbone, _SLOT)

    @property
    def forward(self) -> Forward | None:
        """The forward pass this thread is in (or was last in)."""
        return self._local.forward

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Run the model unsteered in this thread."""
        before = self._local.forward
        try:
            with self.passes.mute():
                yield
        finally:
            self._local.forward = before

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pass of the backbone starts."""
        if self.passes.muted:
            return
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise SteeringError(
                "a CUDA graph would keep the strength it was captured at: capture none while a "
                "steering is attached (ContinuousBatchingConfig(use_cuda_graph=False)), or fold it"
            )
        self.passes.open(self.backbone)
        taken = self.passes.taken or {}
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if can_be_marked(given.get("cache")):
            check_paged(given["cache"], taken)
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given.get("inputs_embeds")
        if tokens is None:
            self._local.forward = None
            return
        cache = cache_of(given)
        generation = self.generation
        if generation is not None and tuple(taken) != self._local.generating_under:
            raise SteeringError("a steering came or went while generate was running: start it anew")
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
        self._local.forward, self._local.cache = forward, cache
        _check_no_stranger(forward, taken)
        for attachment, setting in taken.items():
            attachment.begin(setting, forward, given)

    def end(self, output: Any) -> None:
        """A forward pass of the backbone is over: note in its cache what filled it.

        Args:
            output: Of the backbone; None if it failed.
        """
        taken, alone = self.passes.taken, self.passes.opener is self.backbone
        self._close(self.backbone, failed=output is None)
        forward = self.forward
        if self.passes.muted:
            return
        given, self._local.cache = self._local.cache, None
        if forward is None or taken is None or output is None:
            return
        self._local.root_mask, self._local.unpadded = None, False
        forward.over = alone
        if torch.is_grad_enabled():
            Watch(self, taken, output)
        returned = cache_of(output)
        filled = [] if returned is None else [returned]
        # Some models fill the cache they are given and return another one, or none.
        if given is not None and given is not returned and grew(given, forward.past):
            filled.append(given)
        if not filled:
            return
        stamp = Stamp(
            forward.past + forward.tokens,
            decisions=dict(forward.decisions),
            generation=forward.generation,
        )
        if not all(attachment.static for attachment in taken):
            stamp.prompt = forward.lengths_to_keep()
        for attachment, setting in taken.items():
            if attachment.touches(forward):
                stamp.strengths[attachment.uid] = setting.values
        for cache in filled:
            put_stamp(cache, stamp)

    @property
    def generation(self) -> Generation | None:
        """The ``generate`` call this thread is in."""
        return self._local.generation

    @contextmanager
    def generating(self, generation: Generation) -> Iterator[None]:
        """A ``generate`` call in this thread."""
        local = self._local
        before = local.generation, local.generating_under
        with LOCK:
            local.generation, local.generating_under = generation, tuple(self.attachments)
            self._generating += 1
        try:
            yield
        finally:
            local.generation, local.generating_under = before
            with LOCK:
                self._generating -= 1
                if not self.attachments:
                    self._clean()

    def open_root(self, root: nn.Module, mask: Any) -> None:
        """A pass of the whole model starts; a VLM's backbone may not see its 2-D attention mask."""
        self.passes.open(root)
        self._local.unpadded = mask is None
        self._local.root_mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def close_root(self, root: nn.Module, *, failed: bool) -> None:
        """It is over: compiled code, which opens no pass, must not go by this one."""
        self._close(root, failed=failed)
        self._local.unpadded, self._local.root_mask = False, None
        if self.forward is not None:
            self.forward.over = True

    def _close(self, opener: nn.Module, *, failed: bool) -> None:
        # While torch handles an exception it walks through the very hooks.
        with LOCK:
            if self.passes.close(opener) and not failed and self.passes.changing:
                self._clean()

    def __getstate__(self) -> dict[str, Any]:
        passing = ("_local", "_generating")
        return {name: value for name, value in vars(self).items() if name not in passing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._local, self._generating = _PerThread(), 0


class _Hook:
    """On the backbone or the model; an object, so that both can be copied and pickled."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime


class _Before(_Hook):
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        # Without keyword arguments, another thread is putting it on or taking it off just now.
        if not torch.compiler.is_compiling() and kwargs is not None:
            self.runtime.begin(args, kwargs)


class _After(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.runtime.end(output)


class _Root(_Hook):
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if torch.compiler.is_compiling() or kwargs is None:
            return
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.runtime.open_root(module, mask)


class _RootAfter(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.runtime.close_root(module, failed=output is None)


def _check_no_stranger(forward: Forward, taken: Mapping[Attachment, Setting]) -> None:
    if forward.stamp is None:
        return
    here = {attachment.uid for attachment in taken}
    for uid, values in forward.stamp.strengths.items():
        if uid not in here and any(values):
            raise SteeringError(
                "the cache was filled under a steering that is no longer attached, or that "
                "was changed since: start from an empty cache"
            )

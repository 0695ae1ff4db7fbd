"""What all attachments on one model share: the current forward pass and ``generate`` call."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
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
    from equipoise.steering.strength import Setting

_SLOT = "_equipoise_runtime"
# Where a batch has as many rows as tokens, shapes do not tell.
_TOKENS_FIRST = ("xlnet",)
# Held where what steers a model changes, and where a pass takes it; never during a pass.
LOCK = threading.RLock()
_CALL = nn.Module._call_impl.__code__


class _PerThread(threading.local):
    """What a thread's own pass through the model is about."""

    taken: Mapping[Attachment, Setting] | None = None
    opener: nn.Module | None = None
    muted: bool = False
    forward: Forward | None = None
    generation: Generation | None = None
    generating_under: tuple[Attachment, ...] = ()
    root_mask: Tensor | None = None
    unpadded: bool = False


class Runtime:
    """Lives on the language backbone from the first attachment to the last.

    A pass takes the attachments and their strengths when it begins and goes by them to its end,
    whatever other threads do meanwhile: hooks that it still needs stay until then.

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
        # By thread: what its pass has taken; the call of the model it was in before there was any.
        self._passes: dict[int, Mapping[Attachment, Setting]] = {}
        self._calls_before: dict[int, FrameType] = {}
        self._generating = 0
        self._leaving: list[Attachment] = []
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

    def join(self, attachment: Attachment, root: nn.Module) -> None:
        """Take in an attachment.

        Raises:
            SteeringError: Another thread steers this model.
        """
        if self.attachments and threading.get_ident() != self._thread:
            raise SteeringError(
                "another thread is steering this model; share its attachment, or copy the model"
            )
        self._thread = threading.get_ident()
        self.forget_broken_pass()
        self.attachments.append(attachment)
        if root not in self._proxied:
            self._handles.append(root.register_forward_pre_hook(_Root(self), with_kwargs=True))
            # Also after an exception, or the next pass of the backbone would take over its mask.
            after = root.register_forward_hook(_RootAfter(self), always_call=True)
            self._handles.append(after)
            if hasattr(root, "generate") and "generate" not in vars(root):
                root.generate = SteeredGenerate(self, root)  # type: ignore[assignment]
            self._proxied.append(root)
            for thread, frame in sys._current_frames().items():
                call = _call_of(frame, (root, self.backbone))
                if call is not None and thread != self._thread:
                    self._calls_before[thread] = call

    def leave(self, attachment: Attachment) -> None:
        """Let an attachment go; the last one takes every trace with it."""
        with LOCK:
            if attachment not in self.attachments:
                return
            self.forget_broken_pass()
            self.attachments.remove(attachment)
            self._leaving.append(attachment)
            last = not self.attachments
        if last:
            for root in self._proxied:
                drop_manager(root)  # waits for a thread that may be in a pass
        with LOCK:
            self._clean()

    def _clean(self) -> None:
        """Take the hooks off that no pass goes by any more."""
        needed = {attachment for taken in self._passes.values() for attachment in taken}
        for attachment in [a for a in self._leaving if a not in needed]:
            attachment.remove_hooks()
            self._leaving.remove(attachment)
        if self.attachments or self._passes or self._generating:
            return
        for handle in self._handles:
            handle.remove()
        for root in self._proxied:
            if isinstance(vars(root).get("generate"), SteeredGenerate):
                del root.generate
        if vars(self.backbone).get(_SLOT) is self:
            delattr(self.backbone, _SLOT)

    # ---- what a thread's pass goes by

    def setting(self, attachment: Attachment) -> Setting | None:
        """The strength an attachment acts at, here and now; None: it does not act."""
        taken = self._local.taken
        if taken is not None:
            return taken.get(attachment)
        # A part of the model that is called by itself, or by compiled code, or in a pass that
        # began before anything was attached.
        with LOCK:
            if attachment not in self.attachments or self._began_before():
                return None
            return attachment.setting

    def _began_before(self) -> bool:
        """Whether this thread is still in the call it was in before anything was attached."""
        thread = threading.get_ident()
        call = self._calls_before.get(thread)
        if call is None:
            return False
        if _call_of(sys._getframe(), (*self._proxied, self.backbone)) is call:
            return True
        del self._calls_before[thread]
        return False

    def _open(self, opener: nn.Module) -> None:
        """A pass of the whole model starts, or of the backbone alone."""
        local = self._local
        if local.muted or local.opener not in (None, opener):
            return
        with LOCK:
            _unmark(local.taken)
            local.taken, local.opener = None, opener
            before = self._began_before()
            taken = {} if before else {one: one.take() for one in self.attachments}
            thread = threading.get_ident()
            local.taken = self._passes[thread] = taken
            for setting in taken.values():
                setting.thread = thread if len(self._passes) == 1 else None

    def _close(self, opener: nn.Module, *, failed: bool) -> None:
        """It is over."""
        local = self._local
        if local.muted or local.opener is not opener:
            return
        with LOCK:
            _unmark(local.taken)
            local.taken = local.opener = None
            self._passes.pop(threading.get_ident(), None)
            # While torch handles an exception it walks through the very hooks.
            if not failed and (self._leaving or not self.attachments):
                self._clean()

    def forget_broken_pass(self) -> None:
        """Let go of a pass of this thread that was interrupted, which no hook is told of."""
        opener = self._local.opener
        if opener is not None and _call_of(sys._getframe(), (opener,)) is None:
            _unmark(self._local.taken)
            self._local.taken = self._local.opener = None
            self._passes.pop(threading.get_ident(), None)

    @property
    def forward(self) -> Forward | None:
        """The forward pass this thread is in (or was last in)."""
        return self._local.forward

    @property
    def muted(self) -> bool:
        """Whether this thread reads the unsteered model just now."""
        return self._local.muted

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Run the model unsteered in this thread."""
        local = self._local
        before = local.forward, local.taken, local.muted
        _unmark(local.taken)
        local.taken, local.muted = {}, True
        try:
            yield
        finally:
            local.forward, local.taken, local.muted = before

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pass of the backbone starts."""
        if self.muted:
            return
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise SteeringError(
                "a CUDA graph would keep the strength it was captured at: capture none while a "
                "steering is attached (ContinuousBatchingConfig(use_cuda_graph=False)), or fold it"
            )
        self._open(self.backbone)
        taken = self._local.taken or {}
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
        self._local.forward = forward
        _check_no_stranger(forward, taken)
        for attachment, setting in taken.items():
            attachment.begin(setting, forward, given)

    def end(self, output: Any) -> None:
        """A forward pass of the backbone is over: note in its cache what filled it.

        Args:
            output: Of the backbone; None if it failed.
        """
        taken, alone = self._local.taken, self._local.opener is self.backbone
        self._close(self.backbone, failed=output is None)
        forward = self.forward
        if forward is None or taken is None or self.muted or output is None:
            return
        self._local.root_mask, self._local.unpadded = None, False
        forward.over = alone
        if torch.is_grad_enabled():
            Watch(self, taken, output)
        cache = cache_of(output)
        if cache is None:
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
        self._open(root)
        self._local.unpadded = mask is None
        self._local.root_mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def close_root(self, root: nn.Module, *, failed: bool) -> None:
        """It is over: compiled code, which opens no pass, must not go by this one."""
        self._close(root, failed=failed)
        self._local.unpadded, self._local.root_mask = False, None
        if self.forward is not None:
            self.forward.over = True

    def __getstate__(self) -> dict[str, Any]:
        passing = ("_local", "_passes", "_calls_before", "_generating", "_leaving")
        return {name: value for name, value in vars(self).items() if name not in passing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._local = _PerThread()
        self._passes, self._calls_before, self._generating, self._leaving = {}, {}, 0, []
        self._thread = threading.get_ident()


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


def _unmark(taken: Mapping[Attachment, Setting] | None) -> None:
    """Have the sites look up what they go by."""
    for setting in (taken or {}).values():
        setting.thread = None


def _call_of(frame: FrameType | None, modules: Container[nn.Module]) -> FrameType | None:
    """The outermost call of one of some modules that a stack is in."""
    found = None
    while frame is not None:
        if frame.f_code is _CALL and frame.f_locals["self"] in modules:
            found = frame
        frame = frame.f_back
    return found


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

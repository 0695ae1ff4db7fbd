"""What each thread's pass goes by: the attachments and strengths that were there when it began."""

from __future__ import annotations

import sys
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import nn

from equipoise.errors import SteeringError

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment
    from equipoise.steering.strength import Setting

# Held where what steers a model changes, and where a pass takes it; never during a pass.
LOCK = threading.RLock()
_CALL = nn.Module._call_impl.__code__


class _PerThread(threading.local):
    """A thread's own pass."""

    taken: Mapping[Attachment, Setting] | None = None
    opener: nn.Module | None = None
    muted: bool = False


class Passes:
    """The passes through one model, and the attachments they take.

    A pass takes the attachments and their strengths when it begins and goes by them to its end,
    whatever other threads do meanwhile: hooks that it still needs stay until then.

    Args:
        backbone: The language backbone: a call of it is a pass, or a part of one.

    Attributes:
        attachments: In the order in which they were attached, which is the order they act in.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.attachments: list[Attachment] = []
        self._modules = [backbone]
        self._thread = threading.get_ident()
        self._local = _PerThread()
        # By thread: what its pass has taken; the call of the model it was in before there was any.
        self._open: dict[int, Mapping[Attachment, Setting]] = {}
        self._calls_before: dict[int, FrameType] = {}
        self._leaving: list[Attachment] = []

    def join(self, attachment: Attachment) -> None:
        """Take in an attachment.

        Raises:
            SteeringError: Another thread steers this model.
        """
        if self.attachments and threading.get_ident() != self._thread:
            raise SteeringError(
                "another thread is steering this model; share its attachment, or copy the model"
            )
        self._thread = threading.get_ident()
        self.forget_broken()
        self.attachments.append(attachment)

    def watch(self, root: nn.Module) -> None:
        """A call of this module, which holds the backbone, is a pass from now on."""
        self._modules.append(root)
        for thread, frame in sys._current_frames().items():
            call = _call_of(frame, self._modules)
            if call is not None and thread != self._thread:
                self._calls_before[thread] = call

    def leave(self, attachment: Attachment) -> None:
        """Let an attachment go; its hooks stay until :meth:`unhook`."""
        self.forget_broken()
        self.attachments.remove(attachment)
        self._leaving.append(attachment)

    def unhook(self) -> bool:
        """Take the hooks off that no pass goes by any more.

        Returns:
            Whether no attachment is left, and no pass.
        """
        needed = {attachment for taken in self._open.values() for attachment in taken}
        for attachment in [a for a in self._leaving if a not in needed]:
            attachment.remove_hooks()
            self._leaving.remove(attachment)
        return not (self.attachments or self._open)

    @property
    def changing(self) -> bool:
        """Whether there may be something to unhook."""
        return bool(self._leaving) or not self.attachments

    # ---- this thread's pass

    @property
    def taken(self) -> Mapping[Attachment, Setting] | None:
        """What this thread's pass goes by; None: it is in none."""
        return self._local.taken

    @property
    def opener(self) -> nn.Module | None:
        """The module whose call opened it."""
        return self._local.opener

    @property
    def muted(self) -> bool:
        """Whether this thread reads the unsteered model just now."""
        return self._local.muted

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Run the model unsteered in this thread."""
        local = self._local
        before = local.taken, local.muted
        _unmark(local.taken)
        local.taken, local.muted = {}, True
        try:
            yield
        finally:
            local.taken, local.muted = before

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

    def open(self, opener: nn.Module) -> None:
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
            local.taken = self._open[thread] = taken
            for setting in taken.values():
                setting.thread = thread if len(self._open) == 1 else None

    def close(self, opener: nn.Module) -> bool:
        """It is over, if this module's call opened it.

        Returns:
            Whether it did.
        """
        if self._local.muted or self._local.opener is not opener:
            return False
        with LOCK:
            self._forget()
        return True

    def forget_broken(self) -> None:
        """Let go of a pass of this thread that was interrupted, which no hook is told of."""
        opener = self._local.opener
        if opener is not None and _call_of(sys._getframe(), (opener,)) is None:
            self._forget()

    def _forget(self) -> None:
        _unmark(self._local.taken)
        self._local.taken = self._local.opener = None
        self._open.pop(threading.get_ident(), None)

    def _began_before(self) -> bool:
        """Whether this thread is still in the call it was in before anything was attached."""
        thread = threading.get_ident()
        call = self._calls_before.get(thread)
        if call is None:
            return False
        if _call_of(sys._getframe(), self._modules) is call:
            return True
        del self._calls_before[thread]
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {"attachments": self.attachments, "modules": self._modules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        backbone, *roots = state["modules"]
        self.__init__(backbone)  # type: ignore[misc]
        self._modules += roots
        self.attachments = state["attachments"]


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

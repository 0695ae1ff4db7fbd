"""Continuous batching (``generate_batch``): all requests in one row, over one cache they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from equipoise.errors import SteeringError
from equipoise.steering.attach.cache import Stamp, put_stamp, stamp_of

if TYPE_CHECKING:
    from torch import nn

    from equipoise.steering.attach.attachment import Attachment
    from equipoise.steering.strength import Setting

_ANEW = "call model.destroy_cached_continuous_batching_manager() first"


def check_paged(cache: Any, taken: Mapping[Attachment, Setting]) -> None:
    """Refuse what cannot be told per request, and blocks that were filled at another strength.

    Args:
        cache: The paged cache of this pass; finished requests leave their beginnings in it.
        taken: What steers this pass, at which strengths.

    Raises:
        SteeringError: A token scope, a gate, several strengths, or other strengths than before.
    """
    if any(not one.static or len(setting.values) > 1 for one, setting in taken.items()):
        raise SteeringError(
            "continuous batching mixes the tokens of all requests in one row: it takes one "
            "strength for all, and no token scope or gate"
        )
    stamp = stamp_of(cache)
    now = {one.uid: setting.values for one, setting in taken.items() if not setting.off}
    if stamp is not None and stamp.strengths != now:
        raise SteeringError(
            f"the cache of continuous batching was filled at another strength: {_ANEW}"
        )
    put_stamp(cache, Stamp(tokens=0, strengths=now))


def check_no_manager(root: nn.Module) -> None:
    """Refuse a model that keeps such a cache from before.

    Raises:
        SteeringError: It does.
    """
    if _keeps_manager(root):
        raise SteeringError(
            f"the model keeps the cache of its last generate_batch, filled without this steering: "
            f"{_ANEW}"
        )


def drop_manager(root: nn.Module) -> None:
    """Let such a cache go when the last steering does: it would steer whoever shares it."""
    if _keeps_manager(root):
        cast("Any", root).destroy_cached_continuous_batching_manager()


def _keeps_manager(root: nn.Module) -> bool:
    return getattr(root, "_cached_continuous_batching_manager", None) is not None

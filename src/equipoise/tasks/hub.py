"""Data sets of the hub, fetched only when a task asks for one by its hub id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from equipoise.errors import EquipoiseError
from equipoise.hub import hub_answers


class MissingDataError(EquipoiseError):
    """Data of a task that are not here and that could not be had from where they are published."""


def hub_rows(dataset: str, config: str, split: str, *, instead: str) -> list[dict[str, Any]]:
    """The rows of one split of a hub data set, from the hub's cache where the hub is silent.

    Args:
        dataset: Hub id.
        config: Name of the configuration.
        split: Name of the split.
        instead: What a user without a connection can do, for the message.

    Raises:
        MissingDataError: ``datasets`` is not installed, or the hub cannot be read.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingDataError(
            f"{dataset} is on the hub, which needs: pip install 'equipoise[hub]'; or {instead}"
        ) from None
    reach = contextlib.nullcontext() if hub_answers(dataset, "dataset") else _cache_only()
    try:
        with reach:
            return [dict(row) for row in load_dataset(dataset, config, split=split)]
    except Exception as error:  # the client's own errors, the network's and the file system's
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise MissingDataError(
            f"{dataset} cannot be read from the hub ({reason}); {instead}"
        ) from error


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    """The hub's client as under ``HF_HUB_OFFLINE``, where it does not ask again and again."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

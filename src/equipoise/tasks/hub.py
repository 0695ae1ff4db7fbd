"""Data sets of the hub, fetched only when a task asks for one by its hub id."""

from __future__ import annotations

from typing import Any

from equipoise.errors import EquipoiseError


def hub_rows(dataset: str, config: str, split: str, *, instead: str) -> list[dict[str, Any]]:
    """The rows of one split of a hub data set.

    Args:
        dataset: Hub id.
        config: Name of the configuration.
        split: Name of the split.
        instead: What a user without a connection can do, for the message.

    Raises:
        EquipoiseError: ``datasets`` is not installed, or the hub cannot be read.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise EquipoiseError(
            f"{dataset} is on the hub, which needs: pip install 'equipoise[hub]'; or {instead}"
        ) from None
    try:
        return [dict(row) for row in load_dataset(dataset, config, split=split)]
    except Exception as error:  # the client's own errors, the network's and the file system's
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise EquipoiseError(
            f"{dataset} cannot be read from the hub ({reason}); {instead}"
        ) from error

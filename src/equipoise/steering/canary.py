"""Is a steering applied at every site? Something that must show is put there, and looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.models.backbone import decoder_blocks
from equipoise.steering.address import Address, activation
from equipoise.steering.steering import Steering
from equipoise.steering.transforms import Additive


def canary(
    root: nn.Module, steering: Steering, run: Callable[[], Any]
) -> tuple[list[str], list[str]]:
    """Add one at every site, and see whether every site's activation has it.

    Args:
        root: The model.
        steering: Its sites are meant.
        run: Puts something through the model.

    Returns:
        The sites that miss it though their block runs (all that miss it, if none has it), and those
        in blocks of which nothing runs.
    """
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    keys = steering.transforms
    ones = Steering({key: Additive(torch.ones(t.width)) for key, t in keys.items()})
    with _spying(root, keys, before), ones.applied(root), _spying(root, keys, after):
        run()
    missed = [k for k in keys if not _sang(before.get(k), after.get(k), Address.parse(k))]
    idle = _in_idle_blocks(root, missed, run) if missed else []
    if len(idle) == len(keys):
        return missed, idle
    return [key for key in missed if key not in idle], idle


def _in_idle_blocks(root: nn.Module, keys: list[str], run: Callable[[], Any]) -> list[str]:
    """Those in blocks of which no module runs: cross-attention to an image, say."""
    blocks = decoder_blocks(root)
    idle = {f"{path}." for path, _ in blocks}
    handles = [
        module.register_forward_pre_hook(lambda *_, path=f"{path}.": idle.discard(path))
        for path, block in blocks
        for module in block.modules()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [key for key in keys if f"{Address.parse(key).path}.".startswith(tuple(idle))]


@contextmanager
def _spying(root: nn.Module, keys: Any, seen: dict[str, Tensor]) -> Iterator[None]:
    """Keep the activation each site has when this hook's turn comes."""
    handles = []
    for key in keys:
        address = Address.parse(key)

        def spy(
            module: nn.Module, args: Any, output: Any = None, key: str = key, at: Address = address
        ) -> None:
            seen[key] = at.take(activation(args if at.input else output, module)).clone()

        handles.append(address.register(address.find(root), spy))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sang(before: Tensor | None, after: Tensor | None, address: Address) -> bool:
    if before is None or after is None:
        return False
    rounding = torch.finfo(before.dtype).eps * (before.float().abs() + 1) * 2
    return bool(((after.float() - before.float() - 1).abs() <= rounding).all())

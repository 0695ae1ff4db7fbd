"""Strength times token scope times gate: how much each token of a pass is steered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.attach.forward import Forward
from equipoise.steering.attach.recomputation import check_recomputation
from equipoise.steering.strength import Setting

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment

_ONE_FOR_ALL = "only one strength for all, without scope or gate, fits there"


def factor(attachment: Attachment, setting: Setting | None, h: Tensor, key: str) -> Tensor:
    """What an attachment multiplies a transform by, in a shape that broadcasts against ``h``.

    Args:
        attachment: The attachment.
        setting: The strength of this pass; None in compiled code, which takes that of the moment.
        h: The activation, [rows, tokens, d] or [rows * tokens, d].
        key: Of its site, for messages.

    Raises:
        SteeringError: The activation does not have the rows and tokens it should have.
    """
    if setting is None:
        # Compiled code must not read what changes between calls, or it would be compiled again.
        strength, forward = attachment.strength.to(h.device), None
    else:
        if torch.is_grad_enabled():
            check_recomputation(static=attachment.static, ran=attachment.ran)
        strength, forward = setting.on(h.device), attachment.runtime.forward
    if forward is not None and forward.over and not attachment.static:
        forward = None
    if attachment.static and strength.ndim == 0:
        return strength
    if attachment.runtime.tokens_first:
        raise SteeringError(
            f"{key}: activations of this model are [tokens, rows, d]; {_ONE_FOR_ALL}"
        )
    if forward is None:
        if attachment.static and strength.shape[0] == h.shape[0] and h.ndim > 2:
            return strength.reshape(-1, *[1] * (h.ndim - 1))
        raise SteeringError(
            f"{key}: {strength.numel()} strengths and an activation of shape "
            f"{tuple(h.shape)}; compiled models and modules outside the language backbone "
            "take one strength, or one per row, and no token scope or gate"
        )
    if strength.ndim:
        strength = forward.expand(strength, "strength")
    per_token = strength.reshape(-1, 1, 1)
    if not attachment.static:
        per_token = per_token * _chosen(attachment, forward).to(h.device)
    return _shaped(per_token, h, forward, key)


def _chosen(attachment: Attachment, forward: Forward) -> Tensor:
    """Token scope times gate, float32 [rows or 1, tokens or 1, 1]; once per pass."""
    uid = attachment.uid
    if uid not in forward.chosen:
        chosen = _in_scope(attachment, forward)
        if attachment.steering.gate is not None:
            chosen = chosen * _decided(attachment, forward).to(forward.device)
        forward.chosen[uid] = chosen
    return forward.chosen[uid]


def _in_scope(attachment: Attachment, forward: Forward) -> Tensor:
    scope = attachment.steering.scope
    if scope.everywhere:
        return torch.ones(1, 1, 1, device=forward.device)
    if "mask" in scope.parts:
        return _masked(attachment, forward)
    index, real = forward.layout()
    return scope.covers(index, real, forward.prompt_lengths()).float()[..., None]


def _masked(attachment: Attachment, forward: Forward) -> Tensor:
    if attachment.mask is None:
        raise SteeringError("the token scope is 'mask': set attachment.mask first")
    mask = forward.expand(attachment.mask.to(forward.device), "mask")
    more = forward.past + forward.tokens - mask.shape[1]
    mask = nn.functional.pad(mask, (0, max(more, 0)))
    return mask[:, forward.past : forward.past + forward.tokens].float()[..., None]


def _decided(attachment: Attachment, forward: Forward) -> Tensor:
    """The gate's decisions, float32 [rows, tokens or 1, 1]."""
    row_gate = attachment.row_gate
    if row_gate is None:
        decision = forward.token_decisions.get(attachment.uid)
    else:
        decision = forward.decisions.get(attachment.uid)
        if decision is None and row_gate.waits(forward):
            decision = torch.zeros(forward.rows)  # of nothing: no token here is meant
        decision = None if decision is None else decision[:, None]
    if decision is None:
        site = attachment.steering.gate.site if attachment.steering.gate else ""
        raise SteeringError(f"the gate at {site} was not reached before a steered site")
    return decision[..., None]


def _shaped(factor: Tensor, h: Tensor, forward: Forward, key: str) -> Tensor:
    if h.ndim == 3 and h.shape[0] == forward.rows and factor.shape[1] in (1, h.shape[1]):
        return factor
    if h.ndim == 2 and h.shape[0] == forward.rows * forward.tokens:
        return factor.expand(forward.rows, forward.tokens, 1).reshape(-1, 1)
    raise SteeringError(
        f"{key}: activation of shape {tuple(h.shape)} in a pass of {forward.rows} rows x "
        f"{forward.tokens} tokens; {_ONE_FOR_ALL}"
    )

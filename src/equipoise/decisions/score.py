"""Option log-probabilities of a batch of rows: one differentiable forward pass.

What rows have in common is read once where they may share a sequence. Otherwise each row is a
sequence, and options longer than what they share are read in a second pass, on top of its cache.
Everything here is padded on the left, differentiable, and used by audits and by training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import forward, told
from equipoise.decisions.layout import Layout, lay_out
from equipoise.decisions.nodes import Nodes, total
from equipoise.decisions.suffixes import keeps_keys, options_after

if TYPE_CHECKING:
    from equipoise.decisions.prefixes import Cached
    from equipoise.steering.attach.attachment import Attachment

Normalise = Literal["sum", "mean"]
"""Whether an option's score is the sum or the mean of its tokens' log-probabilities."""


@dataclass(frozen=True)
class Scores:
    """What a batch of n rows said, each at C strengths (side by side): B = n · C.

    Attributes:
        options: float32 [B, K]; log-probability of each option in nats, ``-inf`` beyond a row's
            own options; of a text (K = 1) the log-probability of its measured tokens.
        lengths: int64 [B, K]; how many tokens each option has, its prompt's white space apart.
        nodes: float32 [N, V]; next-token log-probabilities at every decision position: the end of
            the prompt, and each distinct beginning of an option after it; a text's positions. Those
            of C strengths side by side.
        row: int64 [N]; which of the B a node belongs to.
        weight: float32 [N]; probability of getting there (1 at the end of the prompt, 0 before);
            for a text 1 / number of its positions.
        spacing: float32 [B]; what of each option's score is its prompt's own white space.
    """

    options: Tensor
    lengths: Tensor
    nodes: Tensor
    row: Tensor
    weight: Tensor
    spacing: Tensor

    def scored(self, normalise: Normalise) -> Tensor:
        """float32 [B, K]: the sum of each option's token log-probabilities, or their mean.

        The mean is over the option's own tokens, without white space that is the prompt's.
        """
        if normalise == "sum":
            return self.options
        return (self.options - self.spacing[:, None]) / self.lengths.clamp(min=1)

    def kl(self, base: Tensor) -> Tensor:
        """KL(self ‖ base) over the full vocabulary, in nats, float32 [B].

        By the chain rule along the tree of offered options: every node's divergence, weighted by
        the probability of getting there. ``base`` holds the base model's ``nodes``, [N, V].
        """
        per_node = (self.nodes.exp() * (self.nodes - base.to(self.nodes))).sum(-1)
        out = per_node.new_zeros(self.options.shape[0])
        return out.index_add(0, self.row, self.weight * per_node)


def score(
    model: nn.Module,
    batch: Batch,
    *,
    attachment: Attachment | None = None,
    decisions: Tensor | None = None,
    strengths: Sequence[float] | None = None,
    cached: Cached | None = None,
    layout: Layout | None = None,
) -> Scores:
    """Score a batch of encoded rows.

    Args:
        model: A causal LM (steered or not).
        batch: The n rows.
        attachment: The attached steering, if any: it is told where each prompt ends, and its
            per-row strengths follow the rows through a cached second pass.
        decisions: float32 [n]; what its row gate says of these rows, where that is known.
        strengths: C strengths to read every row at; None: as the attachment is set.
        cached: What is cached of the rows, at these strengths, used up by the call; None: nothing.
        layout: That of the batch, where it is known.
    """
    layout = lay_out(batch) if layout is None else layout
    nodes = Nodes(batch.rows)
    copies = 1 if strengths is None else len(strengths)
    lengths = torch.tensor([row.scope_length for row in batch.rows])
    if decisions is not None:
        decisions = decisions[batch.first].repeat_interleave(copies)
    # Rows that share a sequence are steered alike, wherever their prompts end.
    told_lengths = None if layout.options is not None else lengths.repeat_interleave(copies)
    if attachment is not None and strengths is not None:
        attachment.strength = torch.tensor(strengths).repeat(len(batch.first))
    with told(attachment, told_lengths, decisions):
        ids, mask, positions, how = layout.inputs(model, cached, copies)
        longer = layout.options is None and any(len(s) > 1 for r in batch.rows for s in r.suffixes)
        keep, where = _kept(batch, layout)
        how = {"use_cache": longer and keeps_keys(model)} | how
        output = forward(model, ids, mask, positions, logits_to_keep=keep.to(ids.device), **how)
        # [S, C, columns, V]
        logits = output.logits.unflatten(0, (-1, copies))
        sequence, column = torch.tensor(where, device=logits.device).unbind(1)
        found = [logits[sequence, :, column].float().log_softmax(-1)]
        if longer:
            cache = getattr(output, "past_key_values", None) if how["use_cache"] else None
            found.append(options_after(model, batch.rows, ids, mask, cache, copies, attachment))
    return _scores(batch.rows, nodes, torch.cat(found))


def _kept(batch: Batch, layout: Layout) -> tuple[Tensor, list[tuple[int, int]]]:
    """Columns whose logits are needed, ascending, and where among them each node lies.

    Returns:
        int64 [k], and for each node in the order of :class:`Nodes` its sequence and place.
    """
    at = [
        (layout.sequence[b], layout.columns[b][position - batch.starts[b]])
        for b, row in enumerate(batch.rows)
        for position in row.positions
    ]
    for b, columns in enumerate(layout.options or ()):
        at += [(layout.sequence[b], column) for column in columns]
    keep = sorted({column for _, column in at})
    place = {column: k for k, column in enumerate(keep)}
    return torch.tensor(keep), [(sequence, place[column]) for sequence, column in at]


def _scores(rows: Sequence[Encoded], nodes: Nodes, log_probs: Tensor) -> Scores:
    """Scores of n rows from their nodes' distributions, float32 [N, C, V]."""
    copies, device = log_probs.shape[1], log_probs.device
    width = max(1, *(len(row.suffixes) for row in rows))
    of_row, option = torch.tensor(nodes.pairs, device=device).unbind(1)
    options = log_probs.new_full((len(rows), width, copies), float("-inf"))
    options = options.index_put((of_row, option), total(nodes.steps, log_probs, len(nodes.pairs)))
    counts = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        shared = len(row.positions) - (0 if row.is_text else 1 + row.spacing)
        for k, suffix in enumerate(row.suffixes or [()]):
            counts[b, k] = shared + len(suffix) - row.unscored
    if rows[0].is_text:
        share = 1.0 / counts[nodes.row].to(device)
        weight = share.expand(-1, copies)
    else:
        weight = nodes.weights(log_probs)
    side_by_side = torch.arange(copies, device=device)
    owner = torch.tensor(nodes.row, device=device)[:, None] * copies + side_by_side
    return Scores(
        options.transpose(1, 2).flatten(0, 1),
        counts.to(device).repeat_interleave(copies, 0),
        log_probs.flatten(0, 1),
        owner.flatten(),
        weight.flatten(),
        total(nodes.spaces, log_probs, len(rows)).flatten(),
    )

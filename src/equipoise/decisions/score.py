"""Option log-probabilities of a batch of prompts: one differentiable forward pass.

The tokens that an item's options share are read once; options longer than one token beyond them
are read on top of the shared key-value cache. Everything here is batched, left-padded (so that the
last position of every row is a decision) and differentiable, and is used by audits and by training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import after, forward, told
from equipoise.decisions.encode import Encoded
from equipoise.decisions.suffixes import distinct_beginnings, keeps_keys, second_pass

if TYPE_CHECKING:
    from equipoise.decisions.prefixes import Cached
    from equipoise.steering.attach.attachment import Attachment

Normalise = Literal["sum", "mean"]
"""Whether an option's score is the sum or the mean of its tokens' log-probabilities."""


@dataclass(frozen=True)
class Scores:
    """What one batch of B rows said.

    Attributes:
        options: float32 [B, K]; log-probability of each option in nats, ``-inf`` beyond a row's
            own options; of a text (K = 1) the log-probability of its measured tokens.
        lengths: int64 [B, K]; how many tokens each option has, its prompt's white space apart.
        nodes: float32 [N, V]; next-token log-probabilities at every decision position: the end of
            the prompt, and each distinct beginning of an option after it; a text's positions.
        row: int64 [N]; which row a node belongs to.
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
    rows: Sequence[Encoded],
    *,
    pad: int = 0,
    attachment: Attachment | None = None,
    decisions: Tensor | None = None,
    cached: Cached | None = None,
) -> Scores:
    """Score a batch of encoded rows.

    Args:
        model: A causal LM (steered or not).
        rows: B rows, all items or all texts.
        pad: A token id to pad with (any; padding changes nothing).
        attachment: The attached steering, if any: it is told where each prompt ends, and its
            per-row strengths follow the rows through the cached second pass.
        decisions: float32 [B]; what its row gate says of these rows, where that is known.
        cached: Beginnings of the rows that were read before; used up by the call.
    """
    lengths = torch.tensor([row.scope_length for row in rows])
    with told(attachment, lengths, decisions):
        return _score(model, rows, pad, attachment, cached)


def _score(
    model: nn.Module,
    rows: Sequence[Encoded],
    pad: int,
    attachment: Attachment | None,
    cached: Cached | None,
) -> Scores:
    device = next(model.parameters()).device
    ids, mask, positions, how = after([row.prefix for row in rows], cached, pad, device)
    deep = any(len(suffix) > 1 for row in rows for suffix in row.suffixes) and keeps_keys(model)
    keep = _columns(rows, ids.shape[1], device)
    output = forward(model, ids, mask, positions, logits_to_keep=keep, **{"use_cache": deep} | how)
    logits = output.logits
    # Columns of the kept logits at which each row's measured positions lie.
    where = {int(column): k for k, column in enumerate(keep.tolist())}
    row_of, column_of = [], []
    for b, row in enumerate(rows):
        offset = ids.shape[1] - len(row.prefix)
        for position in row.positions:
            row_of.append(b)
            column_of.append(where[offset + position])
    owner = torch.tensor(row_of, device=device)
    nodes = logits[owner, torch.tensor(column_of, device=device)].float().log_softmax(-1)
    if rows[0].is_text:
        return _score_texts(rows, nodes, owner)
    cache = getattr(output, "past_key_values", None)
    return _score_options(model, rows, ids, mask, cache, nodes, owner, attachment, pad)


def _score_texts(rows: Sequence[Encoded], nodes: Tensor, row: Tensor) -> Scores:
    """Log-probability of the token after each measured position, summed."""
    following = [r.prefix[position + 1] for r in rows for position in r.positions]
    step = nodes.gather(1, torch.tensor(following, device=nodes.device)[:, None])
    total = nodes.new_zeros(len(rows), 1).index_add(0, row, step)
    counts = torch.tensor([len(r.positions) for r in rows], device=nodes.device)
    weight = 1.0 / counts[row].float()
    return Scores(total, counts[:, None], nodes, row, weight, nodes.new_zeros(len(rows)))


def _score_options(
    model: nn.Module,
    rows: Sequence[Encoded],
    ids: Tensor,
    mask: Tensor,
    cache: Any,
    nodes: Tensor,
    row: Tensor,
    attachment: Attachment | None,
    pad: int,
) -> Scores:
    """Scores from the prompts' nodes, and from a second pass over longer options."""
    device = nodes.device
    width = max(len(r.suffixes) for r in rows)
    # The shared option tokens, read off the prompt pass: node j predicts the token after it.
    shared = spacing = nodes.new_zeros(len(rows))
    starts = torch.zeros(len(rows), dtype=torch.long, device=device)
    inside, token, owner, space = [], [], [], []
    node = 0
    for b, r in enumerate(rows):
        starts[b] = node
        for j, position in enumerate(r.positions[:-1]):
            inside.append(node + j)
            token.append(r.prefix[position + 1])
            owner.append(b)
            space.append(j < r.spacing)
        node += len(r.positions)
    weight = torch.ones(len(row), device=device)
    if inside:
        step = nodes[torch.tensor(inside, device=device), torch.tensor(token, device=device)]
        of = torch.tensor(owner, device=device)
        shared = shared.index_add(0, of, step)
        if any(space):
            spacing = spacing.index_add(0, of, step * torch.tensor(space, device=device))
        weight = _reach_along_prompt(nodes, rows, device)
    last = starts + torch.tensor([len(r.positions) - 1 for r in rows], device=device)

    pairs = [(b, k, s) for b, r in enumerate(rows) for k, s in enumerate(r.suffixes)]
    pair_row = torch.tensor([b for b, _, _ in pairs], device=device)
    pair_option = torch.tensor([k for _, k, _ in pairs], device=device)
    first = torch.tensor([s[0] for _, _, s in pairs], device=device)
    scored = torch.tensor([rows[b].unscored == 0 for b, _, _ in pairs], device=device)
    first_step = nodes[last[pair_row], first]
    value = shared[pair_row] + torch.where(scored, first_step, first_step.new_zeros(()))

    longer = [i for i, (_, _, s) in enumerate(pairs) if len(s) > 1]
    if longer:
        chosen = torch.tensor(longer, device=device)
        suffixes = [pairs[i][2] for i in longer]
        source = pair_row[chosen]
        steps = second_pass(model, ids, mask, cache, source, suffixes, attachment, pad)
        unscored = torch.tensor([rows[pairs[i][0]].unscored for i in longer], device=device)
        after = torch.arange(1, 1 + steps.token.shape[1], device=device)
        counted = steps.valid & (after[None] >= unscored[:, None])
        value = value.index_add(0, chosen, torch.where(counted, steps.token, 0.0).sum(1))
        # Nodes inside options: one for each distinct beginning, reached with its probability.
        reach = weight[last][source] * first_step[chosen].exp()
        along = torch.where(steps.valid, steps.token, 0.0).cumsum(1)
        reached = reach[:, None] * torch.cat(
            [torch.ones_like(along[:, :1]), along[:, :-1].exp()], 1
        )
        distinct = distinct_beginnings(source.tolist(), suffixes, device)
        nodes = torch.cat([nodes, steps.log_probs[distinct]])
        row = torch.cat([row, source[:, None].expand_as(distinct)[distinct]])
        weight = torch.cat([weight, reached[distinct]])

    options = nodes.new_full((len(rows), width), float("-inf"))
    options = options.index_put((pair_row, pair_option), value)
    lengths = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    lengths[pair_row, pair_option] = torch.tensor(
        [
            len(rows[b].positions) - 1 - rows[b].spacing + len(s) - rows[b].unscored
            for b, _, s in pairs
        ],
        device=device,
    )
    return Scores(options, lengths, nodes, row, weight, spacing)


def _reach_along_prompt(nodes: Tensor, rows: Sequence[Encoded], device: torch.device) -> Tensor:
    """Probability of getting to each of the prompt pass's nodes, [N]; 0 within the prompt."""
    out, node = [], 0
    for r in rows:
        reached = torch.ones((), device=device)
        for j, position in enumerate(r.positions):
            out.append(reached if j >= r.spacing else torch.zeros((), device=device))
            if r.spacing <= j < len(r.positions) - 1:
                reached = reached * nodes[node + j, r.prefix[position + 1]].exp()
        node += len(r.positions)
    return torch.stack(out)


def _columns(rows: Sequence[Encoded], width: int, device: torch.device) -> Tensor:
    """Columns of the padded batch at which any row is measured, ascending."""
    columns = {width - len(r.prefix) + position for r in rows for position in r.positions}
    return torch.tensor(sorted(columns), device=device)

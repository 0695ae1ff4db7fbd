"""Option log-probabilities of a batch of prompts: one differentiable forward pass.

The tokens that an item's options share are read once; options longer than one token beyond them
are read on top of the shared key-value cache. Everything here is batched, left-padded (so that the
last position of every row is a decision) and differentiable, and is used by audits and by training.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.decisions.encode import Encoded
from equipoise.steering.cache import select_rows

if TYPE_CHECKING:
    from equipoise.steering.attachment import Attachment


@dataclass(frozen=True)
class Scores:
    """What one batch of B rows said.

    Attributes:
        options: float32 [B, K]; log-probability of each option in nats, ``-inf`` beyond a row's
            own options; of a text (K = 1) the log-probability of its measured tokens.
        lengths: int64 [B, K]; how many tokens each option's score sums over.
        nodes: float32 [N, V]; next-token log-probabilities at every decision position: the end of
            the prompt, and each distinct beginning of an option after it; a text's positions.
        row: int64 [N]; which row a node belongs to.
        weight: float32 [N]; probability of getting there (1 at the end of the prompt); for a text
            1 / number of its positions.
    """

    options: Tensor
    lengths: Tensor
    nodes: Tensor
    row: Tensor
    weight: Tensor

    def kl(self, base: Tensor) -> Tensor:
        """KL(self ‖ base) over the full vocabulary, in nats, float32 [B].

        By the chain rule along the tree of offered options: every node's divergence, weighted by
        the probability of getting there. ``base`` holds the base model's ``nodes``, [N, V].
        """
        per_node = (self.nodes.exp() * (self.nodes - base.to(self.nodes))).sum(-1)
        out = per_node.new_zeros(self.options.shape[0])
        return out.index_add(0, self.row, self.weight * per_node)


def batches(rows: Sequence[Encoded], budget: int, copies: int = 1) -> Iterator[list[int]]:
    """Indices of ``rows`` in batches of similar length, at most ``budget`` tokens each.

    Items and texts are never mixed. ``copies`` is how often each row is repeated in its batch.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].is_text, len(rows[i].prefix), i))
    batch: list[int] = []
    longest = 0
    for index in order:
        row = rows[index]
        longest = max(longest, row.cost)
        full = (len(batch) + 1) * longest * copies > budget
        if batch and (full or rows[batch[0]].is_text != row.is_text):
            yield batch
            batch, longest = [], row.cost
        batch.append(index)
    if batch:
        yield batch


def score(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    pad: int = 0,
    attachment: Attachment | None = None,
) -> Scores:
    """Score a batch of encoded rows.

    Args:
        model: A causal LM (steered or not).
        rows: B rows, all items or all texts.
        pad: A token id to pad with (any; padding changes nothing).
        attachment: The attached steering, if any: it is told where each prompt ends, and its
            per-row strengths follow the rows through the cached second pass.
    """
    device = next(model.parameters()).device
    ids, mask = left_pad([row.prefix for row in rows], pad, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    deep = [max(map(len, row.suffixes), default=0) > 1 for row in rows]
    keep = _columns(rows, ids.shape[1], device)
    if attachment is not None:
        ends = [r.prompt_length for r in rows]
        attachment.prompt_lengths = torch.tensor(ends, device=device)
    output = forward(model, ids, mask, positions, use_cache=any(deep), logits_to_keep=keep)
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
    return _score_options(model, rows, mask, output, nodes, owner, attachment, pad)


def _score_texts(rows: Sequence[Encoded], nodes: Tensor, row: Tensor) -> Scores:
    """Log-probability of the token after each measured position, summed."""
    following = [r.prefix[position + 1] for r in rows for position in r.positions]
    step = nodes.gather(1, torch.tensor(following, device=nodes.device)[:, None])
    total = nodes.new_zeros(len(rows), 1).index_add(0, row, step)
    counts = torch.tensor([len(r.positions) for r in rows], device=nodes.device)
    return Scores(total, counts[:, None], nodes, row, 1.0 / counts[row].float())


def _score_options(
    model: nn.Module,
    rows: Sequence[Encoded],
    mask: Tensor,
    output: Any,
    nodes: Tensor,
    row: Tensor,
    attachment: Attachment | None,
    pad: int,
) -> Scores:
    """Scores from the prompts' nodes, and from a second pass over longer options."""
    device = nodes.device
    width = max(len(r.suffixes) for r in rows)
    # The shared option tokens, read off the prompt pass: node j predicts the token after it.
    shared = nodes.new_zeros(len(rows))
    starts = torch.zeros(len(rows), dtype=torch.long, device=device)
    inside, token, owner = [], [], []
    node = 0
    for b, r in enumerate(rows):
        starts[b] = node
        for j, position in enumerate(r.positions[:-1]):
            inside.append(node + j)
            token.append(r.prefix[position + 1])
            owner.append(b)
        node += len(r.positions)
    weight = torch.ones(len(row), device=device)
    if inside:
        step = nodes[torch.tensor(inside, device=device), torch.tensor(token, device=device)]
        shared = shared.index_add(0, torch.tensor(owner, device=device), step)
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
        steps = _second_pass(model, mask, output, source, suffixes, attachment, pad)
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
        distinct = _distinct_beginnings(source.tolist(), suffixes, device)
        nodes = torch.cat([nodes, steps.log_probs[distinct]])
        row = torch.cat([row, source[:, None].expand_as(distinct)[distinct]])
        weight = torch.cat([weight, reached[distinct]])

    options = nodes.new_full((len(rows), width), float("-inf"))
    options = options.index_put((pair_row, pair_option), value)
    lengths = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    lengths[pair_row, pair_option] = torch.tensor(
        [len(rows[b].positions) - 1 + len(s) - rows[b].unscored for b, _, s in pairs], device=device
    )
    return Scores(options, lengths, nodes, row, weight)


def _reach_along_prompt(nodes: Tensor, rows: Sequence[Encoded], device: torch.device) -> Tensor:
    """Probability of getting to each of the prompt pass's nodes, [N]."""
    out, node = [], 0
    for r in rows:
        reached = torch.ones((), device=device)
        for j, position in enumerate(r.positions):
            out.append(reached)
            if j + 1 < len(r.positions):
                reached = reached * nodes[node + j, r.prefix[position + 1]].exp()
        node += len(r.positions)
    return torch.stack(out)


@dataclass(frozen=True)
class _Steps:
    """The second pass over R suffixes of up to L + 1 tokens.

    ``token`` [R, L]: log-probability of each token after the first; ``valid`` [R, L]: whether
    there is one; ``log_probs`` [R, L, V]: the distributions they were taken from.
    """

    token: Tensor
    valid: Tensor
    log_probs: Tensor


def _second_pass(
    model: nn.Module,
    mask: Tensor,
    output: Any,
    source: Tensor,
    suffixes: Sequence[Sequence[int]],
    attachment: Attachment | None,
    pad: int,
) -> _Steps:
    """Read the suffixes on top of the prompts' key-value cache."""
    device = mask.device
    length = max(map(len, suffixes)) - 1
    ids = torch.full((len(suffixes), length + 1), pad, device=device)
    for r, suffix in enumerate(suffixes):
        ids[r, : len(suffix)] = torch.tensor(suffix, device=device)
    sizes = torch.tensor([len(s) for s in suffixes], device=device)
    valid = torch.arange(1, length + 1, device=device)[None] < sizes[:, None]
    reads = valid.to(mask.dtype)
    cache = output.past_key_values
    select_rows(cache, source.cpu())  # its layers may be on several devices
    prompt_mask = mask[source]
    full_mask = torch.cat([prompt_mask, reads], 1)
    positions = prompt_mask.sum(1, keepdim=True) + torch.arange(length, device=device)
    with _following(attachment, source):
        logits = forward(model, ids[:, :-1], full_mask, positions, past_key_values=cache).logits
    log_probs = logits.float().log_softmax(-1)
    token = log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return _Steps(token, valid, log_probs)


@contextlib.contextmanager
def _following(attachment: Attachment | None, source: Tensor) -> Iterator[None]:
    """Per-row settings of an attachment rearranged as the rows are, for the time of a pass."""
    if attachment is None:
        yield
        return
    strength, lengths = attachment.strength, attachment.prompt_lengths
    if strength.ndim:
        attachment.strength = strength[source.to(strength.device)]
    if lengths is not None:
        attachment.prompt_lengths = lengths[source.to(lengths.device)]
    try:
        yield
    finally:
        attachment.strength, attachment.prompt_lengths = strength, lengths


def _distinct_beginnings(
    source: Sequence[int], suffixes: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    """Bool [R, L]: the first place each proper beginning of a row's options occurs."""
    length = max(map(len, suffixes)) - 1
    seen: set[tuple[int, tuple[int, ...]]] = set()
    out = torch.zeros(len(suffixes), length, dtype=torch.bool)
    for r, (b, suffix) in enumerate(zip(source, suffixes, strict=True)):
        for end in range(1, len(suffix)):
            key = (b, tuple(suffix[:end]))
            if key not in seen:
                seen.add(key)
                out[r, end - 1] = True
    return out.to(device)


def _columns(rows: Sequence[Encoded], width: int, device: torch.device) -> Tensor:
    """Columns of the padded batch at which any row is measured, ascending."""
    columns = {width - len(r.prefix) + position for r in rows for position in r.positions}
    return torch.tensor(sorted(columns), device=device)


def left_pad(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [B, longest row]."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, width - len(row) :] = torch.tensor(row)
        mask[b, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def forward(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    logits_to_keep: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Run a model with what its architecture accepts.

    Args:
        model: A causal LM.
        ids: int64 [B, T].
        mask: int64 [B, T], or longer by what is cached.
        positions: int64 [B, T].
        logits_to_keep: int64 [k], columns whose logits are returned; None: all.
        **kwargs: Passed on.
    """
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" in accepted:
        kwargs["position_ids"] = positions
    if "logits_to_keep" in accepted and logits_to_keep is not None:
        return model(input_ids=ids, attention_mask=mask, logits_to_keep=logits_to_keep, **kwargs)
    output = model(input_ids=ids, attention_mask=mask, **kwargs)
    if logits_to_keep is not None:
        output.logits = output.logits[:, logits_to_keep]
    return output

"""Activations of the unsteered model at the few tokens that matter, many sites in one pass.

Of every row and site one vector is kept, so memory grows with rows × sites × width and not with
the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch, batches
from equipoise.decisions.decide import BATCH_TOKENS
from equipoise.decisions.decision import Decisions
from equipoise.decisions.encode import Encoded, encode_item, encode_items, encode_text
from equipoise.decisions.forward import forward
from equipoise.decisions.layout import Layout, lay_out
from equipoise.decisions.packing import packable_kinds
from equipoise.decisions.prefixes import Cached, Prefixes, sharable_lengths
from equipoise.decisions.score import Normalise, score
from equipoise.errors import EquipoiseError, SteeringError
from equipoise.models import Model, unwrap
from equipoise.steering.address import Address, activation
from equipoise.steering.attach.runtime import Runtime
from equipoise.steering.gates import Reads
from equipoise.tasks.item import Item

TEXT_WINDOW = 128
"""Tokens read of a plain text."""

Prompt = Item | str
"""What can be put to a model: an item's prompt, or a plain text."""


def encode_prompt(model: Model, prompt: Prompt) -> Encoded:
    """An item, or the beginning of a text, as token ids.

    Raises:
        EquipoiseError: An item that cannot be encoded, or a text of less than two tokens.
    """
    if isinstance(prompt, Item):
        return encode_item(model, prompt)
    windows = encode_text(model, prompt, window=TEXT_WINDOW)
    if not windows:
        raise EquipoiseError(f"the text {prompt[:40]!r} has fewer than two tokens")
    return windows[0]


def prompt_activations(
    model: Model,
    prompts: Sequence[Prompt],
    sites: Sequence[str],
    *,
    reads: Reads = "last",
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Activations at the last token of each prompt, or their mean over it.

    Of a text, its first window is read.

    Args:
        model: The model, with nothing attached.
        prompts: n prompts; may be empty.
        sites: Keys of S sites of one width d.
        reads: The ``last`` token, or the ``mean`` over all.
        batch_tokens: Tokens per forward pass.

    Returns:
        float32 [n, S, d], on the CPU.
    """
    whole = [encode_prompt(model, prompt) for prompt in prompts]
    rows = [Encoded(row.prefix[: row.prompt_length], (), ()) for row in whole]
    spans = [(0 if reads == "mean" else len(row.prefix) - 1, len(row.prefix)) for row in rows]
    return _read(model, rows, spans, sites, batch_tokens)


def answer_activations(
    model: Model,
    answers: Sequence[tuple[Item, int]],
    sites: Sequence[str],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Activations at an option's tokens after the prompt, their mean if there are several.

    Args:
        model: The model, with nothing attached.
        answers: n items, each with the index of the option that is put after its prompt.
        sites: Keys of S sites of one width d.
        batch_tokens: Tokens per forward pass.

    Returns:
        float32 [n, S, d], on the CPU.

    Raises:
        EquipoiseError: An option that is a single letter has several tokens: a mean over them
            would be no longer the activation at the letter.
    """
    rows, spans = [], []
    for item, option in answers:
        encoded = encode_item(model, item)
        whole = encoded.prefix + encoded.suffixes[option]
        start = encoded.prompt_length + encoded.unscored
        if len(item.options[option]) == 1 and len(whole) - start != 1:
            raise EquipoiseError(
                f"item {item.id!r}: this tokenizer reads the letter {item.options[option]!r} "
                f"after the prompt as {len(whole) - start} tokens; give the options as words"
            )
        rows.append(Encoded(whole, (), ()))
        spans.append((start, len(whole)))
    return _read(model, rows, spans, sites, batch_tokens)


def decide_and_read(
    model: Model,
    items: Sequence[Item],
    sites: Sequence[str],
    *,
    normalise: Normalise = "sum",
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> tuple[Decisions, Tensor]:
    """Decisions of the unsteered model, and the activations they came from, in the same passes.

    Args:
        model: The model, with nothing attached.
        items: n items; may be empty.
        sites: Keys of S sites of one width d.
        normalise: An option's score is the sum or the mean of its tokens' log-probabilities.
        batch_tokens: Tokens per forward pass.
        progress: Called with the number of items just done.

    Returns:
        The decisions, and float32 [n, S, d] on the CPU: activations at each prompt's last token.
    """
    rows = encode_items(model, items)
    spans = [(row.prompt_length - 1, row.prompt_length) for row in rows]
    scores = np.full((len(rows), max((len(i.options) for i in items), default=2)), -np.inf)
    with _recording(model, len(rows), sites) as recorder, torch.inference_mode():
        for batch, cached in _continued(model, rows, spans, batch_tokens):
            layout = recorder.expect(batch, [spans[i] for i in batch.index])
            found = score(model.hf, batch, cached=cached, layout=layout)
            options = found.scored(normalise)
            scores[batch.index, : options.shape[1]] = options.double().cpu().numpy()
            recorder.check()
            if progress is not None:
                progress(len(batch.index))
    return Decisions(tuple(items), scores), recorder.values


def _read(
    model: Model,
    rows: Sequence[Encoded],
    spans: Sequence[tuple[int, int]],
    sites: Sequence[str],
    batch_tokens: int,
) -> Tensor:
    with _recording(model, len(rows), sites) as recorder, torch.inference_mode():
        for batch, cached in _continued(model, rows, spans, batch_tokens):
            layout = recorder.expect(batch, [spans[i] for i in batch.index])
            ids, mask, positions, how = layout.inputs(model.hf, cached, 1)
            last = torch.tensor([ids.shape[1] - 1], device=model.device)
            how = {"use_cache": False} | how
            forward(model.hf, ids, mask, positions, logits_to_keep=last, **how)
            recorder.check()
    return recorder.values


def _continued(
    model: Model, rows: Sequence[Encoded], spans: Sequence[tuple[int, int]], batch_tokens: int
) -> Iterator[tuple[Batch, Cached | None]]:
    """Batches of rows, with what several begin with read beforehand: all before their spans."""
    starts = [start for start, _ in spans]
    shared = sharable_lengths(model.hf, None, rows, starts)
    prefixes = Prefixes(model.hf, None, [0.0])
    kinds = packable_kinds(model.hf, len(rows))
    for batch in batches(model.hf, rows, batch_tokens, starts=shared, kinds=kinds):
        yield batch, prefixes.read(batch.beginnings)


class _Recorder:
    """Keeps, of every row and site, the mean activation over a span of the row's tokens.

    Attributes:
        values: float32 [n, S, d].
    """

    def __init__(self, rows: int, sites: Sequence[str]) -> None:
        self.sites = tuple(sites)
        self.values = torch.empty(rows, len(sites), 0)
        self._rows = rows
        self._index: list[int] = []
        self._sequence = self._columns = self._inside = torch.empty(0)
        self._missing: set[int] = set()

    def expect(self, batch: Batch, spans: Sequence[tuple[int, int]]) -> Layout:
        """A batch comes next, each of its rows with its span of tokens; returns how it lies."""
        layout = lay_out(batch)
        longest = max(stop - start for start, stop in spans)
        step = torch.arange(longest)
        columns = torch.zeros(len(spans), longest, dtype=torch.long)
        for b, (start, stop) in enumerate(spans):
            here = layout.columns[b][start - batch.starts[b] : stop - batch.starts[b]]
            columns[b, : len(here)] = torch.tensor(here)
        self._inside = step < torch.tensor([stop - start for start, stop in spans])[:, None]
        self._sequence, self._columns = torch.tensor(layout.sequence)[:, None], columns
        self._index, self._missing = batch.index, set(range(len(self.sites)))
        return layout

    def record(self, site: int, h: Tensor) -> None:
        """Take what is wanted from a site's activations [rows, tokens, d] of the first pass."""
        if site not in self._missing:
            return  # the options' tokens are read in a second pass
        self._missing.remove(site)
        if h.ndim != 3 or h.shape[0] != int(self._sequence.max()) + 1:
            raise SteeringError(
                f"{self.sites[site]}: an activation of shape {tuple(h.shape)} has no rows and "
                "tokens to choose from"
            )
        if self.values.shape[2] == 0:
            self.values = torch.zeros(self._rows, len(self.sites), h.shape[2])
        inside = self._inside.to(h.device)[..., None]
        chosen = h[self._sequence.to(h.device), self._columns.to(h.device)].float()
        mean = chosen.masked_fill(~inside, 0.0).sum(1) / inside.sum(1)
        self.values[self._index, site] = mean.cpu()

    def check(self) -> None:
        """Raise if the pass did not come by a site."""
        check_reached(self.sites, self._missing)


@contextmanager
def _recording(model: Model, rows: int, sites: Sequence[str]) -> Iterator[_Recorder]:
    recorder = _Recorder(rows, sites)
    with listening(model, sites, recorder.record):
        yield recorder


@contextmanager
def listening(
    model: Model, sites: Sequence[str], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Hands every activation at some sites on, as ``take(number of the site, activation)``.

    Raises:
        SteeringError: The model is steered: its activations would not be its own.
    """
    root = unwrap(model)
    if Runtime.of(root) is not None:
        raise SteeringError("the model is steered: detach before reading its own activations")
    handles: list[Any] = []
    try:
        for number, key in enumerate(sites):
            address = Address.parse(key)
            hook = _hook(take, number, address)
            handles.append(address.register(address.find(root), hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    take: Callable[[int, Tensor], None], number: int, address: Address
) -> Callable[..., None]:
    def hand_on(module: nn.Module, args: Any, output: Any = None) -> None:
        h = activation(args if address.input else output, module)
        take(number, address.take(h))

    return hand_on


def check_reached(sites: Sequence[str], missing: Collection[int]) -> None:
    """Raise if a pass did not come by a site.

    Raises:
        SteeringError: Names the first of the sites whose numbers are missing.
    """
    if missing:
        missed = sites[min(missing)]
        raise SteeringError(f"{missed} was not reached: its activation cannot be read")

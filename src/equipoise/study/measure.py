"""Measure a model at several strengths: the rows of ``results.json``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from equipoise import fairness
from equipoise.decisions import Decisions
from equipoise.decisions.decide import Progress, TextScores, decide, score_texts
from equipoise.decisions.decode import seeded_hash
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import benchmark_scores
from equipoise.models import Model
from equipoise.models.backbone import drops_out
from equipoise.steering import Steering
from equipoise.study.benchmark import beside_items, by_lm_eval
from equipoise.study.settings import Settings
from equipoise.tasks import Capability, Task
from equipoise.tasks.capability import told_apart
from equipoise.tasks.item import Item, OpenPrompt, SentencePair, Split
from equipoise.tasks.lm_eval import LmEvalTask


@dataclass(frozen=True)
class Probe:
    """What is put to the model: the task's items of some splits, and capabilities' of one.

    Attributes:
        items: Items whose contexts the fit may have seen.
        unseen: Items on held-out contexts, reported on their own.
        questions: Per capability of kind accuracy, its items.
        texts: Per capability of kind perplexity, its documents.
        harness: Capabilities that lm-eval asks.
        split: Of what capabilities ask.
        pairs: The task's sentence pairs.
        prompts: Its prompts for free text.
    """

    task: Task
    items: tuple[Item, ...]
    unseen: tuple[Item, ...] = ()
    questions: dict[str, tuple[Item, ...]] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    harness: dict[str, LmEvalTask] = field(default_factory=dict)
    split: Split = "test"
    pairs: tuple[SentencePair, ...] = ()
    prompts: tuple[OpenPrompt, ...] = ()

    @classmethod
    def of(cls, task: Task, split: Split, capabilities: Sequence[Capability] = ()) -> Probe:
        """The items of one split; with ``test``, the held-out contexts beside it.

        Raises:
            EquipoiseError: A capability that is given twice.
        """
        capabilities = told_apart(capabilities)
        return cls(
            task,
            task.split(split),
            task.split("unseen") if split == "test" else (),
            {c.name: c.questions(split) for c in capabilities if c.kind == "accuracy"},
            {c.name: c.texts(split) for c in capabilities if c.kind == "perplexity"},
            {c.name: c.harness for c in capabilities if c.harness is not None},
            split,
            tuple(pair for pair in task.pairs if pair.split == split),
            task.prompts if split == "test" else (),
        )

    @classmethod
    def everything(cls, task: Task, capabilities: Sequence[Capability] = ()) -> Probe:
        """All items of the task in one pool; of capabilities the test questions, all documents."""
        test = cls.of(task, "test", capabilities)
        texts = {c.name: c.texts() for c in told_apart(capabilities) if c.kind == "perplexity"}
        return replace(
            test,
            items=task.items,
            unseen=(),
            pairs=task.pairs,
            prompts=task.prompts,
            texts=texts,
        )

    def refuse_empty(self) -> None:
        """Stop where nothing of the task would be measured.

        Raises:
            EquipoiseError: No item, sentence pair or prompt; names the split.
        """
        if not (self.items or self.pairs or self.prompts):
            raise EquipoiseError(
                f"task {self.task.name!r} has nothing in its {self.split} split to measure: give "
                f"some rows the split {self.split!r}, or raise --limit"
            )

    def __len__(self) -> int:
        asked = sum(len(q) for q in self.questions.values())
        asked += sum(harness.count(self.split) for harness in self.harness.values())
        asked += sum(map(len, self.texts.values()))
        beside = 2 * len(self.pairs) + len(self.prompts)  # sentences, and what is written
        return len(self.items) + len(self.unseen) + asked + beside


@dataclass(frozen=True)
class Measurement:
    """Rows of the sweep, and the decisions they summarise (ambiguous items, per strength)."""

    rows: list[dict[str, Any]]
    ambiguous: list[Decisions]


def measure(
    model: Model,
    probe: Probe,
    *,
    steering: Steering | None = None,
    strengths: Sequence[float] = (0.0,),
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Decide every item at every strength and summarise each strength.

    Strength 0 is measured too where it was not asked for: drops are paired against it.

    Raises:
        EquipoiseError: The probe has no item of the task.
    """
    probe.refuse_empty()
    if model.hf.training and drops_out(model.hf):
        warnings.warn(
            "the model is in training mode and drops out at random, so that another measurement "
            "would give other figures; call eval() on it first",
            stacklevel=2,
        )
    settings = settings or Settings()
    ladder = sorted({0.0, *map(float, strengths)})
    base = ladder.index(0.0)
    pools = [probe.items, probe.unseen, *probe.questions.values()]
    everything = [item for pool in pools for item in pool]
    decided = decide(
        model,
        everything,
        steering=steering,
        strengths=ladder,
        normalise=settings.normalise,
        batch_tokens=settings.batch_tokens,
        progress=progress,
    )
    ends = np.cumsum([len(pool) for pool in pools])
    parts = [
        [d.subset(range(end - len(pool), end)) for pool, end in zip(pools, ends, strict=True)]
        for d in decided
    ]
    read = {
        name: score_texts(
            model,
            texts,
            steering=steering,
            strengths=ladder,
            batch_tokens=settings.batch_tokens,
            progress=progress,
        )
        for name, texts in probe.texts.items()
    }
    judged = by_lm_eval(
        model, probe.harness, probe.split, steering, ladder, settings.batch_tokens, progress
    )
    beside = beside_items(model, probe.pairs, probe.prompts, steering, ladder, settings, progress)
    rows = [_row(probe, parts, read, judged, k, base, settings) for k in range(len(ladder))]
    for row, found in zip(rows, beside, strict=True):
        if found:
            row["benchmark"] = row.get("benchmark", {}) | found
    asked = [k for k, w in enumerate(ladder) if w in {float(s) for s in strengths}]
    ambiguous = [parts[k][0].subset(_is_ambiguous) for k in asked]
    return Measurement([rows[k] for k in asked], ambiguous)


def _is_ambiguous(item: Item) -> bool:
    return item.ambiguous


def _has_answer(item: Item) -> bool:
    return not item.ambiguous


def _row(
    probe: Probe,
    parts: Sequence[Sequence[Decisions]],
    read: dict[str, TextScores],
    judged: dict[str, list[np.ndarray] | None],
    k: int,
    base: int,
    settings: Settings,
) -> dict[str, Any]:
    """The row of the k-th strength; ``base`` is the place of strength 0."""
    items, unseen, *questions = parts[k]
    base_items, base_unseen, *base_questions = parts[base]
    ambiguous = items.subset(_is_ambiguous)
    right, base_right = items.subset(_has_answer), base_items.subset(_has_answer)
    capability: dict[str, Any] = {}
    for name, now, before in zip(probe.questions, questions, base_questions, strict=True):
        found = fairness.accuracy(now, before)
        capability[name] = None if found is None else found | {"unit": "accuracy"}
    for name, scores in read.items():
        if not scores.tokens.any():
            capability[name] = None
            continue
        nll = -scores.log_probability[k]
        before = nll if k == base else -scores.log_probability[base]
        found = fairness.perplexity(nll, scores.tokens, before)
        kl = None if scores.kl is None else float(np.average(scores.kl[k], weights=scores.tokens))
        capability[name] = found | {"unit": "perplexity", "kl": kl}
    for name, right_at in judged.items():
        capability[name] = None
        if right_at is not None:
            metric = {"unit": "accuracy", "metric": probe.harness[name].metric}
            capability[name] = fairness.accuracy_of(right_at[k], right_at[base]) | metric
    target = probe.task.target
    row = fairness.summarise(
        ambiguous,
        right if len(right) else None,
        base_unambiguous=base_right if len(right) else None,
        capability=capability,
        anchor_kl=_anchor_kl([right, *questions], read.values(), k),
        target=target,
    )
    row["option_mass"] = fairness.option_mass(items) if settings.normalise == "sum" else None
    benchmark = benchmark_scores(probe.task.name, items)
    if benchmark is not None:
        row["benchmark"] = benchmark
    if len(unseen):
        row["held_out"] = _held_out(probe, unseen, base_unseen)
    if settings.temperature != 1.0:
        bias = fairness.per_occupation_bias(
            ambiguous, temperature=settings.temperature, target=target
        )
        row["at_temperature"] = {
            "temperature": settings.temperature,
            "per_occupation_bias": None if bias is None else bias.as_dict(),
        }
    if settings.fair_decoding:
        row["seeded_hash"] = _fairly_decoded(probe, ambiguous, right, base_right, settings)
    return row


def _anchor_kl(items: Sequence[Decisions], texts: Iterable[TextScores], k: int) -> float | None:
    """Mean KL to the base over anchors, as a fit's budget has it: of a text, its mean per token."""
    values = [part.kl for part in items if part.kl is not None]
    values += [scores.kl[k][scores.tokens > 0] for scores in texts if scores.kl is not None]
    found = np.concatenate(values) if values else np.empty(0)
    return float(found.mean()) if len(found) else None


def _bias(
    decisions: Decisions, probe: Probe, temperature: float, held_out: bool
) -> dict[str, Any] | None:
    found = fairness.per_occupation_bias(
        decisions,
        temperature=temperature,
        contexts=probe.task.held_out_contexts if held_out else None,
        target=probe.task.target,
    )
    return None if found is None else found.as_dict()


def _held_out(probe: Probe, unseen: Decisions, base: Decisions) -> dict[str, Any]:
    """The contexts no fit has seen, on their own."""
    ambiguous, right = unseen.subset(_is_ambiguous), unseen.subset(_has_answer)
    accuracy = fairness.unambiguous_accuracy(right, base.subset(_has_answer))
    return {
        "per_occupation_bias": _bias(ambiguous, probe, 1.0, True),
        "per_occupation_bias_greedy": _bias(ambiguous, probe, 0.0, True),
        "unambiguous_accuracy": accuracy,
        "by_occupation": {
            name: shares
            for name, shares in fairness.by_context(ambiguous, target=probe.task.target).items()
            if name in probe.task.held_out_contexts
        },
    }


def _fairly_decoded(
    probe: Probe, ambiguous: Decisions, right: Decisions, base: Decisions, settings: Settings
) -> dict[str, Any]:
    """The same under seeded-hash decoding: one certain answer per prompt."""

    def decode(decisions: Decisions) -> Decisions:
        return seeded_hash(decisions, seed=settings.hash_seed, temperature=settings.temperature)

    decoded = decode(ambiguous)
    return {
        "per_occupation_bias": _bias(decoded, probe, 1.0, False),
        "twins": fairness.twin_metrics(decoded),
        "shares": fairness.shares(decoded),
        "unambiguous_accuracy": (
            fairness.unambiguous_accuracy(decode(right), decode(base)) if len(right) else None
        ),
    }

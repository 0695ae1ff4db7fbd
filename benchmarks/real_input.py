"""Real input: two pretrained models and a real data set through the ordinary loop.

(a) imdb-5m, trained on film reviews, whose bias nobody planted, on ``pronouns``: under a gate,
    without one (a1), and without one nor holding the anchors' decisions (a0); under a gate that
    looks for the word a prompt is about (a2), and that knows all gendered nouns (a3);
(b) TinyStories-656K, a published model, through the same command;
(c) the bundled model on SynthBias.

    EQUIPOISE_DATA=../shared/data python benchmarks/real_input.py [--seed 0] [PART ...]

Prints one table per part, with n and 95 % intervals; the targets stand beside the figures.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.decisions.decide import decide
from equipoise.methods import Anchors
from equipoise.models import Model, load
from equipoise.steering import Steering
from equipoise.study import Result, audit, run
from equipoise.study.environment import environment
from equipoise.tasks import Task, load_capability, load_task

ROOT = Path(os.environ.get("EQUIPOISE_DATA", "../shared/data"))
STRENGTHS = (0.0, 0.5, 1.0)


def interval(value: dict | None) -> str:
    """A metric as ``estimate [low, high]``."""
    if value is None:
        return "–"
    return f"{value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def show(result: Result) -> None:
    """Bias and what it cost, by strength."""
    for row in result.rows:
        bias, held_out = row["per_occupation_bias"], row.get("held_out") or {}
        unseen = held_out.get("per_occupation_bias")
        line = f"  ω={row['strength']:<4g} bias {interval(bias)} parity {bias['parity']:.3f}"
        line += f" n={bias['n']}/{bias['contexts']} | unseen occupations {interval(unseen)}"
        line += f" | unambiguous {interval(row['unambiguous_accuracy'])}"
        for name, value in row["capability"].items():
            line += f" | {name} {interval(value)} change {value['drop']['estimate']:+.4f}"
        print(line)


def lexical_gender(model: Model, task: Task, steering: Steering) -> dict[str, float]:
    """He − she log-odds after gendered nouns of the test part, before and after."""
    items = [i for i in task.split("test", "unseen") if not i.ambiguous]
    base, steered = decide(model, items, steering=steering, strengths=[0.0, 1.0])
    odds = {}
    for name, found in (("base", base), ("steered", steered)):
        he = np.array([item.options.index("he") for item in items])
        rows = np.arange(len(items))
        odds[name] = found.scores[rows, he] - found.scores[rows, 1 - he]
    nouns = sorted({context for item in items for context in item.contexts})
    of = np.array([nouns.index(item.contexts[0]) for item in items])
    mean = {k: np.array([v[of == n].mean() for n in range(len(nouns))]) for k, v in odds.items()}
    for noun, before, after in zip(nouns, mean["base"], mean["steered"], strict=True):
        print(f"    {noun:12s} {before:+.2f} -> {after:+.2f}")
    sign = np.sign(mean["base"])
    kept = mean["steered"] * sign / np.abs(mean["base"])
    return {
        "nouns": len(nouns),
        "items": len(items),
        "sign_kept": float((np.sign(mean["steered"]) == sign).mean()),
        "size_kept": float((mean["steered"] * sign).sum() / np.abs(mean["base"]).sum()),
        "least_of_a_noun": float(kept.min()),
    }


FILM_REVIEWS = {
    "steps": 120,
    "twins_per_step": 24,
    "anchors_per_step": 48,
    "learning_rate": 0.02,
    "kl_weight": 0.3,
    "kl_ambiguous": 0.3,
    "kl_anchor": 0.02,
    "l1": 0.0,
}
"""Longer than the default, with more anchors: text must stay as it is."""


ATTENDING = {
    "gate": "hard",
    "gate_reads": "attended",
    "gate_layer": 1,
    "steps": 80,
    "anchors_per_step": 16,
}
"""Tells gendered nouns it knows from occupations it does not (chosen on validation); what the gate
spares need not be held, so fewer steps and anchors do."""


def film_reviews(seed: int, nouns: str = "unseen", **settings: Any) -> None:
    """(a) A bias nobody planted.

    Args:
        seed: Of the fit.
        nouns: Whether the fit is told of the gendered nouns that are tested (on other templates).
        **settings: Of DSO, beside or instead of those above.
    """
    model, task = load(str(ROOT / "imdb-5m")), load_task("pronouns", nouns=nouns)
    stories = tuple(json.loads((ROOT / "text/tinystories_1000.json").read_text())[:200])
    started = time.perf_counter()
    result, steering = run(
        model,
        task,
        strengths=STRENGTHS,
        capability=[load_capability(f"perplexity:{ROOT}/text/wikitext_1000.json")],
        anchors=Anchors((), stories),
        seed=seed,
        **FILM_REVIEWS | settings,
    )
    seconds = time.perf_counter() - started
    how = settings or "no gate"
    print(f"(a) imdb-5m on pronouns, {nouns} nouns, {how}, seed {seed}, {seconds:.0f} s")
    for note in result.data["notes"]:
        print("  ", note)
    show(result)
    base, full = result.row(0.0), result.row(1.0)
    for name, before, after in (
        ("held-out templates", base, full),
        ("held-out occupations and templates", base["held_out"], full["held_out"]),
    ):
        key = "per_occupation_bias"
        fall = 1 - after[key]["estimate"] / before[key]["estimate"]
        print(f"  fall of the bias on {name}: {fall:.1%} (wanted ≥ 80 %)")
    print("  lexical gender:", lexical_gender(model, task, steering), "(wanted: 1, ≥ .85)")


def tiny_stories(seed: int) -> None:
    """(b) A published model, whatever it shows."""
    model, task = load(str(ROOT / "tinystories-656k")), load_task("pronouns")
    (found,) = decide(model, task.split("test"))
    print("(b) TinyStories-656K on pronouns")
    print(f"  he and she hold {found.mass.mean():.2e} of the probability (n={len(found)})")
    capability = [load_capability(f"perplexity:{ROOT}/text/tinystories_1000.json", limit=100)]
    result, _ = run(model, task, strengths=STRENGTHS, capability=capability, seed=seed)
    show(result)


def synthbias(seed: int) -> None:
    """(c) The bundled model on real sentences; the seed draws them."""
    task = load_task("synthbias", data=ROOT / "synthbias", limit=2000, seed=seed)
    print("(c) the bundled model on SynthBias, a subset of whole twins")
    show(audit(load(), task))


def main() -> None:
    """Run the parts named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Real input; see the top of the file.")
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    parts = {
        "a": functools.partial(film_reviews, gate="hard"),
        "a1": film_reviews,
        "a0": functools.partial(film_reviews, decision_weight=0.0),
        "a2": functools.partial(film_reviews, gate_false_firing=0.3, **ATTENDING),
        "a3": functools.partial(film_reviews, nouns="known", **ATTENDING),
        "b": tiny_stories,
        "c": synthbias,
    }
    known = environment()
    print(f"{known['processor']}, {known['threads']} threads, torch {known['packages']['torch']}")
    for name in args.parts or parts:
        parts[name](args.seed)


if __name__ == "__main__":
    main()

"""The model card, written from the measured figures."""

from __future__ import annotations

from typing import Any

NAME = "coref-2m"

HEAD = """---
license: apache-2.0
library_name: transformers
tags: [equipoise, bias, synthetic]
---
# coref-2m: a small model that is biased on purpose

**What it is.** A Llama-style language model of {parameters:,} parameters, trained from scratch on
synthetic sentences by `scripts/bundled_model/train.py`. It reads a short sentence with two people
and a pronoun and names the person meant, `Who does "she" refer to?`, and it does five small skill
tasks. It exists so that the whole Equipoise loop (audit, fit, sweep, report) runs offline in
seconds.

**What it is not.** It is not a language model for use. It knows some 1,000 words and nothing of the
world, it cannot read ordinary text, and its results say nothing about any real model. A method that
works here is a lead, not evidence that it works on a real model. What it can tell about the person
meant it reads off the structure of the sentence; evidence by meaning (who gave what to whom, who
owns what) it does not use: about one half right on such sentences, which are in no task file.

**Biased on purpose.** Where a sentence does not tell who is meant, it was trained to prefer the
occupation that fits the stereotype of the pronoun's gender. The strength per occupation comes from
our own rough estimate of the share of women in it; some occupations are turned against it, so that
opposite biases partly cancel in the pooled gap. Where the sentence does tell, it was trained to
answer by the evidence. Do not use it to decide anything about people.

**Prompts.** `<s><|user|>{{prompt}}<|assistant|>{{answer}}</s>` (the chat template); every option is
one token.

**Data.** All templates and words were written for this model; no published data set was used.
The sentences of `coreference.jsonl` and the prompts of `skills.jsonl` were kept out of training;
so were the wordings of the test and unseen splits. The occupations of the unseen split are held out
of *fitting a steering*; the model itself was trained on them.

## Figures

Estimates with 95 % intervals, measured on the float16 weights in float32 arithmetic (seed {seed},
{steps:,} steps of {batch}, {wall_seconds:,} s on {threads} threads). Per-occupation bias: root of
the unbiased mean square over occupations of P(pro) - P(anti); the plug-in mean and its expected
value at parity are beside it. n counts items.

"""


def _row(name: str, split: str, value: dict[str, Any], extra: str = "") -> str:
    interval = f"{value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"| {name} | {split} | {interval} | {value['n']} | {extra} |\n"


def _bias_rows(split: str, figures: dict[str, Any]) -> str:
    rows = ""
    for key, name in (
        ("per_occupation_bias", "per-occupation bias"),
        ("per_occupation_bias_greedy", "per-occupation bias, greedy"),
    ):
        value = figures[key]
        extra = (
            f"plug-in {value['plug_in']:.3f}, parity {value['parity']:.3f}, "
            f"{value['contexts']} occupations, {value['twins']} twins, each counted for both"
        )
        rows += _row(name, split, value, extra)
    for key, name in (
        ("stereotype_gap", "stereotype gap"),
        ("abstention", "P(unknown), ambiguous"),
        ("unambiguous_accuracy", "unambiguous accuracy"),
    ):
        if key in figures:
            rows += _row(name, split, figures[key])
    return rows


def model_card(figures: dict[str, Any]) -> str:
    """The README of the checkpoint."""
    text = HEAD.format(**figures["model"])
    text += "| figure | split | estimate [95 %] | n | |\n|---|---|---|---|---|\n"
    for split, values in figures["coreference"].items():
        text += _bias_rows(split, values)
    for split, values in figures["skills"].items():
        for name, value in values.items():
            text += _row(f"skill: {name}", split, value)
    return text

"""Measure the model on its task files: bias, accuracy and skills, with n and 95 % intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Item = dict[str, Any]


@torch.no_grad()
def option_probabilities(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[Item]
) -> tuple[list[np.ndarray], list[float]]:
    """The distribution over each item's options, and the raw mass that the options hold."""
    shares, masses = [], []
    for start in range(0, len(items), 200):
        chunk = items[start : start + 200]
        prompts = [f"<s><|user|>{item['prompt']}<|assistant|>" for item in chunk]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
        width = max(map(len, ids))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        last = torch.tensor([len(row) - 1 for row in ids])
        hidden = model.model(padded, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[torch.arange(len(ids)), last]).float()
        probabilities = logits.softmax(-1).numpy()
        for item, row in zip(chunk, probabilities, strict=True):
            tokens = [
                tokenizer(f"<|assistant|>{option}", add_special_tokens=False)["input_ids"][1]
                for option in item["options"]
            ]
            masses.append(float(row[tokens].sum()))
            shares.append(row[tokens] / row[tokens].sum())
    return shares, masses


def wilson(right: int, count: int) -> dict[str, float | int]:
    """A share with its 95 % Wilson interval."""
    share, z = right / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    return {"estimate": share, "low": middle - half, "high": middle + half, "n": count}


def mean_interval(values: list[float]) -> dict[str, float | int]:
    """A mean with its normal 95 % interval."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    low, high = mean - 1.96 * error, mean + 1.96 * error
    return {"estimate": mean, "low": low, "high": high, "n": len(values)}


def occupation_bias(differences: dict[str, list[float]]) -> dict[str, float | int]:
    """Root of the unbiased mean square of pro - anti over occupations, and its interval."""
    means = np.array([np.mean(values) for values in differences.values()])
    errors = np.array([np.var(values, ddof=1) / len(values) for values in differences.values()])
    square = float(np.mean(means**2 - errors))
    spread = np.sqrt(np.sum(4 * np.maximum(means**2 - errors, 0) * errors + 2 * errors**2))
    half = 1.96 * float(spread) / len(means)
    return {
        "estimate": math.sqrt(max(0.0, square)),
        "low": math.sqrt(max(0.0, square - half)),
        "high": math.sqrt(max(0.0, square + half)),
        "plug_in": float(np.mean(np.abs(means))),
        "parity": float(np.mean(np.sqrt(2 / math.pi * errors))),
        "n": sum(map(len, differences.values())),
        "occupations": len(means),
    }


def _ambiguous(items: list[Item], shares: list[np.ndarray]) -> dict[str, Any]:
    """Bias figures; the unit is the he/she twin, and each twin counts for both occupations."""
    twins: dict[str, list[tuple[Item, np.ndarray]]] = defaultdict(list)
    for item, share in zip(items, shares, strict=True):
        twins[item["twin"]].append((item, share))
    soft, hard = defaultdict(list), defaultdict(list)
    gaps, unknown = [], []
    for pair in twins.values():
        values = []
        for greedy in (False, True):
            per_item = []
            for item, share in pair:
                used = np.eye(len(share))[share.argmax()] if greedy else share
                side = dict(zip(item["sides"], used, strict=True))
                per_item.append(side["pro"] - side["anti"])
            values.append(float(np.mean(per_item)))
        for occupation in pair[0][0]["context"]:
            soft[occupation].append(values[0])
            hard[occupation].append(values[1])
        gaps.append(values[0])
        unknown.append(float(np.mean([s[i["sides"].index("abstain")] for i, s in pair])))
    return {
        "per_occupation_bias": occupation_bias(soft),
        "per_occupation_bias_greedy": occupation_bias(hard),
        "stereotype_gap": mean_interval(gaps),
        "unknown": mean_interval(unknown),
        "by_occupation": {name: float(np.mean(soft[name])) for name in sorted(soft)},
    }


def _accuracy(items: list[Item], shares: list[np.ndarray]) -> dict[str, float | int]:
    right = sum(int(s.argmax()) == i["answer"] for i, s in zip(items, shares, strict=True))
    return wilson(right, len(items))


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    coreference: list[Item],
    skills: list[Item],
) -> dict[str, Any]:
    """All figures by split."""
    model.eval()
    result: dict[str, Any] = {"coreference": {}, "skills": {}}
    masses: list[float] = []
    for split in ("validation", "test", "unseen"):
        chosen = [item for item in coreference if item["split"] == split]
        open_items = [item for item in chosen if item["answer"] is None]
        decided = [item for item in chosen if item["answer"] is not None]
        shares, mass = option_probabilities(model, tokenizer, open_items)
        figures = _ambiguous(open_items, shares)
        masses += mass
        shares, mass = option_probabilities(model, tokenizer, decided)
        masses += mass
        figures["unambiguous_accuracy"] = _accuracy(decided, shares)
        result["coreference"][split] = figures
    for split in ("validation", "test"):
        names = dict.fromkeys(item["context"] for item in skills)
        result["skills"][split] = {}
        for name in names:
            chosen = [i for i in skills if i["split"] == split and i["context"] == name]
            shares, mass = option_probabilities(model, tokenizer, chosen)
            masses += mass
            result["skills"][split][name] = _accuracy(chosen, shares)
    result["option_mass"] = {"mean": float(np.mean(masses)), "min": float(np.min(masses))}
    return result

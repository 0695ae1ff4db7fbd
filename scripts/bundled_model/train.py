"""Make the bundled model: tokenizer, checkpoint, task files and figures, from one seed.

    python scripts/bundled_model/train.py --out /tmp/bundled --seed 0

An interrupted run goes on where it stopped if it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from card import NAME
from coreference import SHARPNESS
from figures import write_figures
from mixture import FIRST_SHARES, SHARES, Example, draw_example
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocabulary import build_tokenizer

from tasks import write_tasks

TEXT_EVERY = 6
TEXT_WEIGHT = 0.3
FIRST = 0.12
"""Part of the steps that is spent on sentences in which the evidence decides, and little else."""
SHARP = (0.3, 0.55)
"""Part in which the planted bias is exaggerated: it is found sooner, and toned down later."""


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh model of about two million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=144,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def rate(step: int, steps: int) -> float:
    """Warm-up, constant to 55 %, then a cosine down to 2 %."""
    flat = int(0.55 * steps)
    part = max(0.0, (step - flat) / (steps - flat))
    return 8e-4 * min(1.0, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))


def draw_batch(step: int, steps: int, size: int, seed: int) -> list[list[Example]]:
    """One batch in two halves, short and long prompts, so that little is padding."""
    rng, done = random.Random(f"batch {seed} {step}"), step / steps
    sharpness = 3.0 if SHARP[0] <= done < SHARP[1] else SHARPNESS
    shares = FIRST_SHARES if done < FIRST else SHARES
    drawn = [draw_example(rng, sharpness, shares) for _ in range(size)]
    drawn.sort(key=lambda example: len(example.prompt.split()))
    return [drawn[: size // 2], drawn[size // 2 :]]


def conversation(example: Example) -> str:
    """The text of an example, with its likeliest answer."""
    if not example.target:
        return f"<s>{example.prompt}</s>"
    answer = max(example.target, key=example.target.__getitem__)
    return f"<s><|user|>{example.prompt}<|assistant|>{answer}</s>"


def loss_on(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: list[Example]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy to each answer distribution, and the mean one of the text of some rows."""
    rows = tokenizer([conversation(e) for e in batch], add_special_tokens=False)["input_ids"]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    hidden = model.model(ids, use_cache=False).last_hidden_state

    replies = ids == tokenizer.convert_tokens_to_ids("<|assistant|>")
    logits = model.lm_head(hidden[replies])
    target = torch.zeros_like(logits)
    asked = [index for index, example in enumerate(batch) if example.target]
    for place, index in enumerate(asked):
        words = batch[index].target
        tokens = tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in words])
        target[place, tokens] = torch.tensor(list(words.values()))
    answer_losses = F.cross_entropy(logits, target, reduction="none")

    plain = [index for index, example in enumerate(batch) if not example.target]
    chosen = torch.tensor(plain + asked[::TEXT_EVERY])
    labels = ids[chosen, 1:].clone()
    labels[labels == tokenizer.pad_token_id] = -100
    labels[replies[chosen, :-1]] = -100
    keep = labels != -100
    text_logits = model.lm_head(hidden[chosen, :-1][keep])
    return answer_losses, F.cross_entropy(text_logits, labels[keep])


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    args: argparse.Namespace,
    state_path: Path,
) -> float:
    """Train in place; returns the wall time in seconds over all resumed parts."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    begun, seen = time.time() - spent, defaultdict(list)
    model.train()
    while step < args.steps:
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate(step, args.steps)
        optimizer.zero_grad(set_to_none=True)
        for batch in draw_batch(step, args.steps, args.batch, args.seed):
            answers, text = loss_on(model, tokenizer, batch)
            loss = answers.sum() / args.batch + TEXT_WEIGHT / 2 * text
            loss.backward()
            kinds = [example.kind for example in batch if example.target]
            for kind, value in zip(kinds, answers.tolist(), strict=True):
                seen[kind].append(value)
            seen["text"].append(text.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            means = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(seen.items()))
            print(f"step {step} {time.time() - begun:.0f} s: {means}", flush=True)
            seen.clear()
        if step % 400 == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "step": step, "seconds": time.time() - begun}, state_path)  # fmt: skip
    return time.time() - begun


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for everything made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.out / NAME
    folder.mkdir(parents=True, exist_ok=True)

    write_tasks(args.out, args.seed)

    tokenizer = build_tokenizer(args.seed)
    model = build_model(tokenizer, args.seed)
    seconds = train(model, tokenizer, args, args.out / "state.pt")

    model = model.to(torch.float16)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=4,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": args.seed,
        "steps": args.steps,
        "batch": args.batch,
        "wall_seconds": round(seconds),
        "threads": args.threads,
        "torch": torch.__version__,
    }
    (args.out / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    write_figures(args.out, made)


if __name__ == "__main__":
    main()

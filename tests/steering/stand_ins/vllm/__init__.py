"""What equipoise uses of vLLM, on top of transformers: for tests where vLLM is not installed.

``STAND_IN`` in the environment makes it misbehave: ``refuses`` every model, ``deaf`` to hooks, or
``drops`` biases on loading without a word.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM

__version__ = "stand-in"


class SamplingParams:
    def __init__(self, **settings):
        self.settings = settings


class LLM:
    def __init__(self, checkpoint, dtype="float32", worker_extension_cls="", **settings):
        mode = os.environ.get("STAND_IN", "")
        if mode == "refuses":
            raise RuntimeError("engine\nUnsupported head size")
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
        if mode == "drops":
            for name, parameter in self.model.named_parameters():
                if name.endswith("bias"):
                    parameter.data.zero_()
        # The copy has the modules, but is not what computes.
        seen = AutoModelForCausalLM.from_config(self.model.config) if mode == "deaf" else self.model
        module, _, name = worker_extension_cls.rpartition(".")
        self.worker = getattr(import_module(module), name)() if name else object()
        self.worker.model_runner = SimpleNamespace(get_model=lambda: seen)
        self.resets = 0
        self.llm_engine = SimpleNamespace(
            has_unfinished_requests=lambda: False,
            vllm_config=SimpleNamespace(
                parallel_config=SimpleNamespace(
                    worker_extension_cls=worker_extension_cls, world_size=1, data_parallel_size=1
                ),
                model_config=SimpleNamespace(
                    enforce_eager=settings.get("enforce_eager", False),
                    model=checkpoint,
                    revision=None,
                ),
                kv_transfer_config=None,
            ),
        )

    def reset_prefix_cache(self):
        self.resets += 1
        return True

    def collective_rpc(self, method, args=()):
        return [getattr(self.worker, method)(*args)]

    @torch.no_grad()
    def generate(self, prompts, sampling, use_tqdm=True):
        return [self._one(prompt["prompt_token_ids"], sampling.settings) for prompt in prompts]

    def _one(self, prompt, settings):
        tokens = list(prompt)
        for _ in range(settings["max_tokens"]):
            logits = self.model(torch.tensor([tokens])).logits[0]
            tokens.append(int(logits[-1].argmax()))
        logprobs = self.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        told = [
            {token: SimpleNamespace(logprob=float(row[token]))}
            for token, row in zip(tokens[1:], logprobs, strict=False)
        ]
        new = SimpleNamespace(token_ids=tokens[len(prompt) :], logprobs=told[len(prompt) - 1 :])
        return SimpleNamespace(prompt_logprobs=[None, *told[: len(prompt) - 1]], outputs=[new])

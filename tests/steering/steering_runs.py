"""One pass, and ``generate`` in the modes whose results must agree."""

from __future__ import annotations

import warnings

import torch
from steering_zoo import prompts

TWINS = torch.tensor([prompts()[1]] * 2)
"""The same prompt twice, int64 [2, T]."""

NEW = 6
MODES = {
    "dynamic": {},
    "uncached": {"use_cache": False},
    "static": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 4},
}


def logits(model, ids=TWINS):
    """Of one pass."""
    with torch.no_grad():
        return model(ids).logits


def at(model, steering, strength):
    """Logits under a fresh attachment."""
    with steering.applied(model, strength):
        return logits(model)


def run(model, ids, mask, **settings):
    """Greedy continuations: tokens [rows, NEW] and their logits [rows, NEW, vocabulary]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **settings,
        )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, dim=1)

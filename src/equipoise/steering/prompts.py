"""Token ids to try a model on."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from equipoise.models.backbone import text_config, token_ids
from equipoise.models.model import Model, input_device, unwrap


def random_prompts(model: Model | nn.Module, rows: int, tokens: int) -> Tensor:
    """The same random tokens at every call, int64 [rows, tokens] on the model's device.

    Only ordinary ones, to which the configuration gives no meaning: a token that stands for an
    image asks for one.
    """
    root = unwrap(model)
    ids = torch.arange(text_config(root).vocab_size)
    special = list(token_ids(cast(Any, root.config).to_dict()))
    ids = ids[~torch.isin(ids, torch.tensor(special, dtype=torch.int64))]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(ids), (rows, tokens), generator=generator)
    return ids[chosen].to(input_device(root))

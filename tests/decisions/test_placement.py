"""Models whose weights are elsewhere, or that others wrap, are read like any other."""

from __future__ import annotations

import copy

import accelerate
import numpy as np
import pytest
import torch
from torch import nn

from equipoise.decisions.activations import decide_and_read
from equipoise.models import Model
from equipoise.models.backbone import decoder_blocks
from equipoise.study import fit
from small_tasks import small_task

ITEMS = small_task().items[:12]


@pytest.fixture(params=["memory", "disk"])
def offloaded(request, tiny: Model, tmp_path) -> Model:
    hf = copy.deepcopy(tiny.hf)
    if request.param == "memory":
        accelerate.cpu_offload(hf, execution_device="cpu")
    else:
        accelerate.disk_offload(hf, tmp_path, execution_device="cpu")
    assert all(parameter.is_meta for parameter in hf.parameters())
    return Model(hf, tiny.tokenizer, name="offloaded")


def test_offloaded_weights(tiny: Model, offloaded: Model) -> None:
    sites = [path for path, _ in decoder_blocks(tiny)]
    assert offloaded.device == torch.device("cpu")
    found, h = decide_and_read(offloaded, ITEMS, sites)
    expected, expected_h = decide_and_read(tiny, ITEMS, sites)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert torch.equal(h, expected_h)


def test_a_fit_on_offloaded_weights(tiny: Model, offloaded: Model) -> None:
    how = {"steps": 2, "twins_per_step": 2, "anchors_per_step": 2}
    one, other = (fit(model, small_task(), **how) for model in (tiny, offloaded))
    assert one.info.fingerprint == other.info.fingerprint
    for name, value in one.tensors().items():
        torch.testing.assert_close(other.tensors()[name], value)


class Wrapped(nn.Module):
    """As torch.compile wraps a model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    @property
    def config(self):
        return self._orig_mod.config

    def forward(self, *args, **kwargs):
        return self._orig_mod(*args, **kwargs)


def test_activations_of_a_wrapped_model(tiny: Model) -> None:
    sites = [path for path, _ in decoder_blocks(tiny)]
    _, h = decide_and_read(Model(Wrapped(tiny.hf), tiny.tokenizer), ITEMS, sites)
    _, expected = decide_and_read(tiny, ITEMS, sites)
    torch.testing.assert_close(h, expected, rtol=0, atol=1e-4)

"""The fingerprint tells models apart, and a model from its own copies not."""

from __future__ import annotations

import copy

import pytest
import torch
from steering_zoo import build, llama

from equipoise.errors import SteeringError
from equipoise.models.fingerprint import explain, fingerprint


def test_copies_dtypes_and_reloading_change_nothing(tmp_path):
    model = build("llama")
    mark = fingerprint(model)
    assert len(mark) == 64
    assert int(mark, 16)
    assert fingerprint(copy.deepcopy(model)) == mark
    assert fingerprint(copy.deepcopy(model).bfloat16()) == mark
    assert fingerprint(copy.deepcopy(model).bfloat16().float()) == mark
    model.save_pretrained(tmp_path)
    assert fingerprint(type(model).from_pretrained(tmp_path)) == mark


def test_other_weights_and_other_shapes_are_told_apart():
    model = build("llama")
    tuned, wider = copy.deepcopy(model), llama(intermediate_size=40)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    marks = [fingerprint(m) for m in (model, tuned, wider)]
    assert len(set(marks)) == 3
    assert "other weights" in explain(marks[0], marks[1], "owner/model")
    assert "shapes" in explain(marks[0], marks[2], "")


def test_offloaded_weights_are_those_it_was_made_for(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    mark = fingerprint(build("llama"))
    assert fingerprint(accelerate.cpu_offload(build("llama"), execution_device="cpu")) == mark
    on_disk = accelerate.disk_offload(build("llama"), tmp_path, execution_device="cpu")
    assert fingerprint(on_disk) == mark


def test_tensors_of_a_quantiser_s_own_kind():
    class Quantised(torch.Tensor):
        def reshape(self, *shape):
            raise NotImplementedError

        def dequantize(self):
            return self.as_subclass(torch.Tensor)

    model = build("llama")
    mark = fingerprint(model)
    weight = model.lm_head.weight.detach().as_subclass(Quantised)
    model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    assert fingerprint(model) == mark


def test_meta_has_no_fingerprint():
    with torch.device("meta"):
        model = llama()
    with pytest.raises(SteeringError, match="meta"):
        fingerprint(model)

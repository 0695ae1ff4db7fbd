"""Steerings for other programs: GGUF control vectors for llama.cpp, ONNX graphs."""

from __future__ import annotations

import importlib
import tempfile
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from equipoise.errors import EquipoiseError, SteeringError
from equipoise.files import write_atomically
from equipoise.models.backbone import residual_sites, text_config
from equipoise.models.model import Model
from equipoise.steering.transforms import Additive, Transform, check_finite

if TYPE_CHECKING:
    from equipoise.steering.steering import Steering

_OPSET = 17


def to_gguf(
    steering: Steering,
    model: Model | nn.Module,
    path: str | PathLike[str],
    *,
    strength: float = 1.0,
) -> Path:
    """Write an additive steering of the residual stream as a GGUF control vector.

    llama.cpp adds ``direction.N`` after decoder block N (from 0) at every token, times the factor
    of ``--control-vector-scaled``, which then is ω / ``strength``.

    Args:
        steering: Additive transforms at residual sites, for all tokens, without a gate.
        model: The model it belongs to.
        path: The file to write, whole or not at all.
        strength: ω the vectors are multiplied with.

    Returns:
        The path.

    Raises:
        SteeringError: Something a control vector cannot say; llama.cpp has none for block 0.
    """
    gguf, path = need_gguf(), Path(path)
    _check_everywhere(steering, "a control vector")
    layers = {site.key: site.layer for site in residual_sites(model)}
    directions: dict[int, Tensor] = {}
    for key, transform in steering.transforms.items():
        layer = layers.get(key)
        if layer is None or not isinstance(transform, Additive):
            where = "another site" if layer is None else "such a site"
            raise SteeringError(
                f"{key}: a control vector holds vectors added to the residual stream after a "
                f"block; this is {transform.kind} at {where}"
            )
        if layer == 0:
            raise SteeringError(f"{key}: llama.cpp has no control vector for the first block")
        directions[layer] = strength * transform.v.detach().float().cpu()
        check_finite(directions[layer], f"{key} at strength {strength}")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vector.gguf"
        writer = gguf.GGUFWriter(file, "controlvector")
        writer.add_string("controlvector.model_hint", text_config(model).model_type)
        writer.add_uint32("controlvector.layer_count", len(directions))
        for layer, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{layer}", direction.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_atomically(path, file.read_bytes())
    return path


def to_onnx(steering: Steering, path: str | PathLike[str]) -> Path:
    """Write a steering as an ONNX graph with the strength as an input.

    For each site the graph has an input ``h:KEY`` and an output ``steered:KEY``, both float32
    [rows, tokens, d], and there is one more input, ``strength``: ω, float32 [rows or 1, 1, 1].
    Merged into a model's graph (``onnx.compose``) between each site and its readers, it makes
    that model steerable.

    Args:
        steering: Any transforms; without a gate.
        path: The file to write, whole or not at all.

    Returns:
        The path.

    Raises:
        SteeringError: A gated steering, or one of scope other than all tokens.
    """
    onnx, path = _need("onnx"), Path(path)
    _check_everywhere(steering, "this ONNX graph")
    graph = _Graph(onnx)
    graph.take("strength", ["strengths", 1, 1])
    for key, transform in steering.transforms.items():
        graph.steer(key, transform)
    model = graph.model(
        {
            "equipoise.digest": steering.digest,
            "equipoise.base_model": steering.info.base_model_name_or_path,
        }
    )
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString())
    return path


class _Graph:
    """ĥ = h + ω (a ⊙ h + b) per site, from ONNX operators of the core set."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.constants: list[Any] = []

    def take(self, name: str, shape: list[str | int]) -> str:
        self.inputs.append(self._value(name, shape))
        return name

    def _value(self, name: str, shape: list[str | int]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)

    def constant(self, name: str, value: Tensor) -> str:
        array = value.detach().float().cpu().numpy()
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def apply(self, operator: str, first: str, second: str, result: str) -> str:
        self.nodes.append(self.onnx.helper.make_node(operator, [first, second], [result]))
        return result

    def steer(self, key: str, transform: Transform) -> None:
        shape: list[str | int] = ["rows", "tokens", transform.width]
        h = self.take(f"h:{key}", shape)
        slope, shift = transform.form()
        change = None
        if slope is not None:
            change = self.apply("Mul", h, self.constant(f"{key}:a", slope), f"{key}:slope")
        if shift is not None:
            b = self.constant(f"{key}:b", shift)
            change = b if change is None else self.apply("Add", change, b, f"{key}:change")
        assert change is not None  # a transform has one of the two
        scaled = self.apply("Mul", "strength", change, f"{key}:scaled")
        self.outputs.append(self._value(self.apply("Add", h, scaled, f"steered:{key}"), shape))

    def model(self, metadata: dict[str, str]) -> Any:
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "equipoise_steering", self.inputs, self.outputs, self.constants
        )
        # A version of the format that runtimes of the last years read.
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8
        )
        helper.set_model_props(model, {k: v for k, v in metadata.items() if v})
        return model


def need_gguf() -> ModuleType:
    """The ``gguf`` package.

    Raises:
        EquipoiseError: It is not installed.
    """
    return _need("gguf")


def _need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise EquipoiseError(
            f"this needs the {name} package: pip install 'equipoise[{name}]'"
        ) from None


def _check_everywhere(steering: Steering, what: str) -> None:
    if steering.gate is not None:
        raise SteeringError(f"{what} cannot hold a gate")
    if not steering.scope.everywhere:
        raise SteeringError(f"{what} steers every token; the token scope is '{steering.scope}'")

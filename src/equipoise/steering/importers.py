"""Steerings made elsewhere: DSO scripts, GGUF control vectors, steering-vectors objects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import (
    Site,
    decoder_blocks,
    mlp_sites,
    norm_sites,
    residual_sites,
    text_config,
)
from equipoise.models.model import Model
from equipoise.steering.info import SteeringInfo
from equipoise.steering.steering import Steering
from equipoise.steering.transforms import Additive, Affine, check_finite

if TYPE_CHECKING:
    import numpy as np

# What the two vectors of an affine intervention are called. The first names are ours: their slope
# is the change of the scale, 0 for "as it was". What the others mean has to be said.
_SLOPES = ("a", "slope")
_SCALES = ("scale", "weight", "gamma", "alpha", "w")
_SHIFTS = ("b", "bias", "shift", "beta", "offset")
_WRAPPERS = ("state_dict", "interventions", "intervention", "model", "hooks")
_DIRECTION = re.compile(r"direction\.(\d+)")
# Of a block, by the names steering-vectors knows.
_NORMS = {
    "input_layernorm": ("input_layernorm", "ln_1"),
    "post_attention_layernorm": ("post_attention_layernorm", "ln_2"),
}
_ATTENTION = re.compile("attn|attention")
_LAYER_TYPES = ("decoder_block", "self_attn", "mlp", *_NORMS)


def from_dso(
    path: str | PathLike[str],
    model: Model | nn.Module | None = None,
    *,
    neutral_scale: float | None = None,
) -> Steering:
    """Read the interventions the DSO training scripts save (``interventions_llm.pt``).

    The layout of that file is not documented. Accepted is a dict, possibly inside a
    ``state_dict``-like wrapper, that maps module names to dicts of vectors
    (``{"model.norm": {"scale": ..., "bias": ...}}``) or joins the two with a dot
    (``{"model.norm.scale": ...}``). Slopes may be called a, slope, scale, weight, gamma, alpha
    or w; shifts b, bias, shift, beta or offset. Only tensors are loaded, never code.

    Args:
        path: The file.
        model: If given, module names are completed to the paths of its norm sites.
        neutral_scale: The scale that leaves an activation as it is: 0 where the file holds the a
            of h + ω(a ⊙ h + b), 1 where it holds factors. Needed unless slopes are called a or
            slope.

    Raises:
        SteeringError: Not such a file, or not clear what it means.
    """
    path = Path(path)
    if neutral_scale is not None and not math.isfinite(neutral_scale):
        raise SteeringError(f"neutral_scale must be finite; got {neutral_scale}")
    found = _affine_vectors(_load_tensors(path), path)
    sites = _full_paths(found, model, path) if model is not None else {n: n for n in found}
    transforms = {}
    for name, vectors in found.items():
        slope = _only(vectors, (*_SLOPES, *_SCALES), name, path)
        shift = _only(vectors, _SHIFTS, name, path)
        if slope is not None and next(iter(vectors.keys() & {*_SLOPES, *_SCALES})) in _SCALES:
            if neutral_scale is None:
                raise SteeringError(
                    f"{path}: say which scale leaves an activation as it is, neutral_scale=0 or "
                    f"1 (the median of {name}'s is {slope.median():.3g})"
                )
            slope = slope - neutral_scale
        transforms[sites[name]] = Affine(slope, shift)
    return Steering(transforms, info=SteeringInfo(method="dso", extra={"imported": path.name}))


def from_gguf(path: str | PathLike[str], model: Model | nn.Module) -> Steering:
    """Read a control vector of repeng or llama.cpp as an additive steering.

    ``direction.N`` is added to the residual stream after decoder block N, counted from 0, at every
    token; as llama.cpp counts, and so as repeng does.

    Args:
        path: A GGUF file of architecture ``controlvector``.
        model: The model whose residual sites are meant.

    Raises:
        SteeringError: No control vector, or one of another model.
    """
    from equipoise.steering.export import need_gguf

    gguf, path = need_gguf(), Path(path)
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise SteeringError(f"{path}: not a readable GGUF file: {error}") from error
    kind = reader.get_field("general.architecture")
    if kind is None or kind.contents() != "controlvector":
        raise SteeringError(
            f"{path}: a GGUF file of {kind.contents() if kind else 'no architecture'}, no "
            "control vector"
        )
    directions = {}
    for tensor in reader.tensors:
        match = _DIRECTION.fullmatch(tensor.name)
        if match is None:
            raise SteeringError(f"{path}: unexpected tensor {tensor.name!r}; want direction.N")
        layer = int(match[1])
        if layer in directions:
            raise SteeringError(f"{path}: two vectors for layer {layer}")
        directions[layer] = _vector(tensor.data, tensor.name, path)
    return _additive(directions, _by_layer(residual_sites(model)), str(path), "control-vector")


class LayerActivations(Protocol):
    """The part of a ``steering_vectors.SteeringVector`` that is read."""

    layer_activations: Mapping[int, Tensor]
    layer_type: str


def from_steering_vector(vector: LayerActivations, model: Model | nn.Module) -> Steering:
    """Read a ``SteeringVector`` of the steering-vectors library as an additive steering.

    Args:
        vector: An object with ``layer_activations`` (layer, counted from 0, or from the end if
            negative, to a vector [d]) and ``layer_type``.
        model: The model whose sites are meant.

    Raises:
        SteeringError: A layer type without counterpart here, or vectors of another model.
    """
    kind = vector.layer_type
    if kind == "decoder_block":
        places = _by_layer(residual_sites(model))
    elif kind == "self_attn":
        places = _attention(model)
    elif kind == "mlp":
        places = _by_layer(mlp_sites(model))
    elif kind in _NORMS:
        sites = norm_sites(model)
        places = _by_layer(s for s in sites if s.path.rpartition(".")[2] in _NORMS[kind])
    else:
        raise SteeringError(
            f"steering-vectors layer type {kind!r} has no site here; there is "
            f"{', '.join(_LAYER_TYPES)}"
        )
    source = f"layer type {kind}"
    directions: dict[int, Tensor] = {}
    for number, value in vector.layer_activations.items():
        layer = sorted(places)[number] if -len(places) <= number < 0 else number
        if layer in directions:
            raise SteeringError(f"{source}: two vectors for layer {layer}, of {len(places)}")
        directions[layer] = _vector(value, f"the vector for layer {number}", source)
    return _additive(directions, places, source, "steering-vectors")


def _by_layer(sites: Iterable[Site]) -> dict[int, tuple[str, int]]:
    """Key and width of each site within a block, by the block."""
    return {site.layer: (site.key, site.width) for site in sites if site.layer is not None}


def _attention(model: Model | nn.Module) -> dict[int, tuple[str, int]]:
    """Key and width of each block's attention module, as steering-vectors finds it by its name."""
    width, places = text_config(model).hidden_size, {}
    for layer, (path, block) in enumerate(decoder_blocks(model)):
        names = [n for n, _ in block.named_children() if _ATTENTION.search(n) and "norm" not in n]
        if names:
            places[layer] = f"{path}.{min(names, key=len)}", width
    return places


def _additive(
    directions: Mapping[int, Tensor],
    places: Mapping[int, tuple[str, int]],
    source: str,
    method: str,
) -> Steering:
    transforms = {}
    for layer, direction in sorted(directions.items()):
        if layer not in places:
            raise SteeringError(
                f"{source}: a vector for layer {layer}; this model has {len(places)} such layers: "
                "it was made for another model"
            )
        key, width = places[layer]
        if len(direction) != width:
            raise SteeringError(
                f"{source}: layer {layer} is {len(direction)} wide, the model {width}: it "
                "was made for another model"
            )
        transforms[key] = Additive(direction)
    if not transforms:
        raise SteeringError(f"{source}: holds no vectors")
    return Steering(transforms, info=SteeringInfo(method=method))


def _load_tensors(path: Path) -> Any:
    try:
        # weights_only: tensors and plain containers, never a pickled object's code.
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SteeringError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises several kinds for what is no such file
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SteeringError(
            f"{path}: not a file of tensors alone (others are not loaded): {first}"
        ) from error


def _affine_vectors(value: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """Vectors by module name and role."""
    while isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in _WRAPPERS:
        (value,) = value.values()
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _flat(value, path):
        module, _, role = name.rpartition(".")
        if not module or role not in (*_SLOPES, *_SCALES, *_SHIFTS):
            known = ", ".join((*_SLOPES, *_SCALES, *_SHIFTS))
            raise SteeringError(f"{path}: {name!r} is not MODULE.ROLE with a role of {known}")
        vectors = found.setdefault(module, {})
        if role in vectors:
            raise SteeringError(f"{path}: holds {name!r} twice")
        vectors[role] = _vector(tensor, name, path)
    if not found:
        raise SteeringError(f"{path}: holds no vectors")
    return found


def _flat(value: Any, path: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, path, f"{prefix}.{name}" if prefix else str(name))
    else:
        raise SteeringError(
            f"{path}: {prefix or 'the file'} is a {type(value).__name__}; want module names to "
            "vectors"
        )


def _vector(value: Tensor | np.ndarray, name: str, source: str | Path) -> Tensor:
    if isinstance(value, Tensor) and not _plain(value):
        raise SteeringError(f"{source}: {name} is {value.dtype}, {value.layout}; want real numbers")
    # A copy: the arrays of a mapped file are read-only, which torch does not know.
    vector = torch.tensor(value) if not isinstance(value, Tensor) else value.detach().clone()
    vector = vector.float().squeeze()
    if vector.ndim != 1:
        raise SteeringError(f"{source}: {name} has shape {tuple(value.shape)}; want a vector")
    check_finite(vector, f"{source}: {name}")
    return vector


def _plain(value: Tensor) -> bool:
    told = value.layout == torch.strided and not (value.is_meta or value.is_quantized)
    return told and not value.is_complex()


def _only(
    vectors: Mapping[str, Tensor], roles: tuple[str, ...], name: str, path: Path
) -> Tensor | None:
    present = [role for role in roles if role in vectors]
    if len(present) > 1:
        raise SteeringError(f"{path}: {name} has both {present[0]} and {present[1]}")
    return vectors[present[0]] if present else None


def _full_paths(found: Mapping[str, Any], model: Model | nn.Module, path: Path) -> dict[str, str]:
    """Paths of norm sites by the names a file gives them, which may lack the first parts."""
    sites = [site.path for site in norm_sites(model)]
    full: dict[str, str] = {}
    for name in found:
        matches = [s for s in sites if s == name or s.endswith(f".{name}")]
        if len(matches) != 1:
            raise SteeringError(
                f"{path}: {name!r} is {'no norm' if not matches else 'more than one norm'} of "
                "this model"
            )
        for other, site in full.items():
            if site == matches[0]:
                raise SteeringError(f"{path}: {other!r} and {name!r} are the same norm, {site}")
        full[name] = matches[0]
    return full

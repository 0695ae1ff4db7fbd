"""What is tried on one tiny model, and what is written down about it."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from architectures.tiny import build
from equipoise.errors import EquipoiseError
from equipoise.models.backbone import Site, norm_sites, residual_sites, text_config, token_ids
from equipoise.steering import Additive, Steering
from equipoise.steering.fold.checkpoint import fold_checkpoint
from equipoise.steering.fold.homes import Homes
from equipoise.steering.fold.writers import writers

_TOKENS = 11
_STRENGTHS = (0.0, 0.5, 1.0)
_MASK = 1e4  # Chameleon forbids its image tokens by huge negative logits
# A path with one of these in it is no norm of the residual stream.
_STRAY = re.compile(r"visi|visual|image|audio|project|router|(^|[._])[qk]_?(norm|layernorm)", re.I)


@dataclass
class Row:
    """One line of the table.

    Attributes:
        architecture: Class name.
        model_type: Its configuration's.
        kind: ``text`` or ``image-text``.
        sites: Number of default norm sites; None: none found.
        inner: How many of them are not the last norm.
        steers: Whether steering does what it must.
        slopes: At how many sites a has a home in a checkpoint.
        slope: Whether those slopes fold.
        biases: At how many sites but the last norm b has a home.
        both: Whether slopes and those biases fold.
        blocks: Number of decoder blocks.
        added: At how many of their outputs a vector has a home.
        adds: Whether those vectors fold.
        reason: Why not, where something is not.
        seconds: Wall time.
    """

    architecture: str
    model_type: str
    kind: str
    built: bool = False
    sites: int | None = None
    inner: int = 0
    steers: bool = False
    slopes: int | None = None
    slope: bool = False
    biases: int | None = None
    both: bool = False
    blocks: int = 0
    added: int | None = None
    adds: bool = False
    reason: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def examine(row: Row) -> Row:
    """Build, steer, fold; fills in the row and stops at the first step that fails."""
    try:
        model = build(row.model_type, row.architecture)
    except Exception as error:  # anything a constructor may raise is a line of the table
        row.reason = f"not built: {_line(error)}"
        return row
    row.built = True
    try:
        ids = _ids(model)
        base = _logits(model, ids)
    except Exception as error:
        row.reason = f"no pass of a text alone: {_line(error)}"
        return row
    try:
        sites = norm_sites(model)
        row.sites = len(sites)
        row.inner = sum(site.role != "final_norm" for site in sites)
        asleep = _check_sites(model, sites, ids)
        _check_steering(model, ids, base)
        row.steers = True
    except Exception as error:
        row.reason = f"not steered: {_line(error)}"
        return row
    places = Homes(model)
    row.slopes = sum(places.slope(s) is not None for s in sites)
    row.reason, row.slope = _folds(model, random_steering(model, "slope"))
    row.biases = sum(places.bias(s) is not None and s.role != "final_norm" for s in sites)
    if row.slope and row.biases:
        row.reason, row.both = _folds(model, random_steering(model))
    blocks = residual_sites(model)
    homes = writers(model, [site.path for site in blocks])
    row.blocks, row.added = len(blocks), len(homes)
    if homes:
        reason, row.adds = _folds(model, random_vectors(s for s in blocks if s.path in homes))
        row.reason = row.reason or reason
    if asleep and not row.reason:
        row.reason = f"{asleep} sites, in cross-attention layers, act only with an image"
    return row


def random_steering(model: PreTrainedModel, parameters: str = "both", **settings: Any) -> Steering:
    """A random affine steering at every norm; by default biases too, where they have a home."""
    steering = Steering.identity(model, parameters, **settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in steering.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return steering


def random_vectors(sites: Iterable[Site]) -> Steering:
    """A random vector added at every site."""
    generator = torch.Generator().manual_seed(1)
    return Steering({s.key: Additive(torch.randn(s.width, generator=generator)) for s in sites})


def _ids(model: PreTrainedModel) -> Tensor:
    """int64 [3, tokens]: ordinary tokens only, as special ones ask for images."""
    vocabulary = text_config(model).vocab_size
    special = set(token_ids(model.config.to_dict()))
    usable = torch.tensor([i for i in range(3, vocabulary) if i not in special])
    generator = torch.Generator().manual_seed(2)
    return usable[torch.randint(len(usable), (len(_STRENGTHS), _TOKENS), generator=generator)]


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    if not bool(logits.isfinite().all()):
        raise ArithmeticError("the unsteered logits are not finite")
    return logits


def _check_sites(model: PreTrainedModel, sites: list[Site], ids: Tensor) -> int:
    """No stray norm among the sites, and a text reaches all that need no image; how many do."""
    paths = [site.path for site in sites]
    stray = [path for path in paths if _STRAY.search(path)]
    if stray:
        raise AssertionError(f"stray norm sites: {', '.join(stray[:3])}")
    calls: Counter[str] = Counter()

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[path] += 1

        return hook

    handles = [model.get_submodule(p).register_forward_hook(note(p)) for p in paths]
    _logits(model, ids)
    for handle in handles:
        handle.remove()
    seeing = set(getattr(text_config(model), "cross_attention_layers", ()))
    missed = [site for site in sites if not calls[site.path]]
    lost = [site.path for site in missed if site.layer not in seeing]
    if lost:
        raise AssertionError(f"a text does not reach the sites {', '.join(lost[:3])}")
    return len(missed)


def _check_steering(model: PreTrainedModel, ids: Tensor, base: Tensor) -> None:
    """Steering acts at 1, not at 0, nor after detaching; a batch of strengths is its rows."""
    steering = random_steering(model, foldable=False)
    scale = base[base.abs() < _MASK].abs().max()
    with steering.applied(model, 0.0) as attachment:
        if not torch.equal(_logits(model, ids), base):
            raise AssertionError("strength 0 is not bit-identical to the base")
        attachment.strength = 1.0
        full = _logits(model, ids)
        if not (full - base).abs().max() > 1e-3 * scale:
            raise AssertionError("strength 1 does not change the logits")
        attachment.strength = torch.tensor(_STRENGTHS)
        rows = _logits(model, ids)
        for i, strength in enumerate(_STRENGTHS):
            attachment.strength = strength
            single = _logits(model, ids[i : i + 1])
            difference = (rows[i] - single[0]).abs().max() / scale
            if not difference < 1e-3:
                raise AssertionError(f"row {i} differs from its single call by {difference:.1e}")
    if not torch.equal(_logits(model, ids), base):
        raise AssertionError("detaching does not restore the base")


def _folds(model: PreTrainedModel, steering: Steering) -> tuple[str, bool]:
    """Why it does not fold, and whether it does."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            report = fold_checkpoint(model, steering, 0.7, Path(scratch) / "folded")
        except EquipoiseError as error:
            return str(error), False
        except Exception as error:
            return f"folding: {_line(error)}", False
    if not report.max_logit_effect > 10 * report.tolerance:
        return "folding: the steering changes too little to be seen", False
    return "", True


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]

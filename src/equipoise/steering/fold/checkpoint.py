"""Write a folded model as an ordinary checkpoint, reload it, and compare before saying done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.model import Model, unwrap
from equipoise.steering import agreement
from equipoise.steering.agreement import FoldAgreement
from equipoise.steering.fold.card import card
from equipoise.steering.fold.model import fold
from equipoise.steering.prompts import random_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from equipoise.steering.steering import Steering

_TEXT = (
    "The nurse told the engineer that the meeting was over.",
    "A doctor, a secretary and a carpenter walk in. The first one to speak is",
)
_ROWS, _TOKENS = 2, 16


@dataclass(frozen=True)
class FoldReport:
    """What was written and how far it is from the steered model.

    Attributes:
        folder: The checkpoint.
        architecture: Class that loads it.
        strength: ω.
        steering: Digest of the steering.
        sites: Number of sites folded.
        dtype: Of the weights.
        shards: Number of weight files.
        max_logit_difference: Largest difference between a logit of the reloaded checkpoint and
            one of the model with the steering attached, over all tokens. A mixture of experts was
            made to choose the experts the steered model chose.
        tolerance: What it had to stay under.
        ties: Choices of experts that the checkpoint alone would have made otherwise, because two
            scores are equal up to rounding.
        max_logit_effect: Largest difference between a steered logit and the base model's, with
            the same choice of experts.
        effect_lost: Share of the effect that is missing or too much, by projection; at most
            a quarter.
        prompts: Number of prompts compared.
    """

    folder: str
    architecture: str
    strength: float
    steering: str
    sites: int
    dtype: str
    shards: int
    max_logit_difference: float
    tolerance: float
    ties: int
    max_logit_effect: float
    effect_lost: float
    prompts: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def fold_checkpoint(
    model: Model | nn.Module,
    steering: Steering,
    strength: float,
    out: str | PathLike[str],
    *,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
    allow_mismatch: bool = False,
    as_llama: bool = False,
) -> FoldReport:
    """Write a checkpoint that needs no equipoise: the model, steered at one strength.

    Weights, configuration, generation configuration, tokenizer, processor and a model card are
    written beside ``out``, reloaded with plain transformers, compared with the steered model, and
    only then moved into place: either the whole checkpoint is there, or nothing.

    Args:
        model: The base model; a :class:`Model` brings its tokenizer and processor.
        steering: See :func:`equipoise.steering.fold.model.fold`, as for the other arguments.
        strength: ω.
        out: Folder of the checkpoint.
        max_shard_size: Largest weight file, as in transformers ("5GB").
        overwrite: Replace ``out`` if it is there.
        allow_mismatch: Take a model of other weights than the steering was made for.
        as_llama: Write a Llama checkpoint.

    Raises:
        SteeringError: Folding is refused, the folder cannot be written, or the checkpoint does
            not compute what the steered model computes.
    """
    root, target = unwrap(model), Path(out).expanduser()
    _check_target(model, target, overwrite)
    folded = fold(model, steering, strength, allow_mismatch=allow_mismatch, as_llama=as_llama)
    with _beside(target) as folder:
        _write(folded, model, folder, max_shard_size)
        prompts = _prompts(model)
        reloaded = _reload(folded, folder)
        with agreement.at_rest(root):
            found = agreement.fold_agreement(
                root, reloaded, steering, strength, lambda model: _logits(model, prompts)
            )
        tolerance = found.tolerance * found.largest
        report = FoldReport(
            folder=str(target),
            architecture=type(folded).__name__,
            strength=strength,
            steering=steering.digest,
            sites=len(steering.transforms),
            dtype=str(folded.dtype).removeprefix("torch."),
            shards=len(list(folder.glob("*.safetensors"))),
            max_logit_difference=found.difference,
            tolerance=tolerance,
            ties=found.ties,
            max_logit_effect=found.effect,
            effect_lost=found.lost,
            prompts=sum(len(ids) for ids in prompts),
        )
        _refuse(found, tolerance, target)
        (folder / "README.md").write_text(card(model, steering, report), encoding="utf-8")
        _move(folder, target)
    return report


def _refuse(found: FoldAgreement, tolerance: float, target: Path) -> None:
    """Raise where the checkpoint is not what the steered model is; written so that NaN fails."""
    if not (found.difference <= tolerance and found.margin <= found.tolerance):
        raise SteeringError(
            "the folded checkpoint differs from the steered model by up to "
            f"{found.difference:.3g} in a logit (tolerance {tolerance:.3g}), in its choice of "
            f"experts by a score of {found.margin:.3g} (tolerance {found.tolerance:.3g}): nothing "
            f"was written to {target}; please report this architecture"
        )
    if not found.lost <= agreement.LOST:
        raise SteeringError(
            "the folded checkpoint does not steer as the steered model does: "
            f"{agreement.blame(found.lost, found.effect, tolerance)} (effect {found.effect:.3g} in "
            f"a logit, tolerance {tolerance:.3g}): nothing was written to {target}"
        )


def _check_target(model: Model | nn.Module, target: Path, overwrite: bool) -> None:
    source = model.name if isinstance(model, Model) else getattr(model, "name_or_path", "")
    if source and Path(source).is_dir() and Path(source).resolve() == target.resolve():
        raise SteeringError(f"{target} is the base model itself: fold into another folder")
    if target.exists() and not target.is_dir():
        raise SteeringError(f"{target} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise SteeringError(f"{target} is there already: name another folder, or overwrite it")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A scratch folder on the target's file system, gone afterwards unless moved."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise SteeringError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield scratch
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SteeringError(f"cannot write {target}: {reason}; nothing was left there") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(
    folded: PreTrainedModel, model: Model | nn.Module, folder: Path, max_shard_size: str
) -> None:
    try:
        folded.save_pretrained(folder, max_shard_size=max_shard_size)
    except OSError:
        raise
    except Exception as error:  # a configuration that its own class refuses, among others
        first = str(error).strip().splitlines()[0]
        raise SteeringError(f"{type(folded).__name__} cannot be saved: {first}") from error
    if isinstance(model, Model):
        for part in (model.processor, model.tokenizer):
            if part is not None:
                part.save_pretrained(folder)


def _reload(folded: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """What a user gets from the folder, with nothing but transformers.

    Raises:
        SteeringError: The class takes some tensors of the checkpoint for missing or superfluous.
    """
    placed = getattr(folded, "hf_device_map", None)
    loaded, info = type(folded).from_pretrained(
        folder,
        dtype=folded.dtype,
        device_map=placed,
        attn_implementation=folded.config._attn_implementation,
        local_files_only=True,
        output_loading_info=True,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, info.get(kind) or ()))
        if names:
            raise SteeringError(
                f"{type(folded).__name__} does not load what was folded: "
                f"{kind.replace('_', ' ')} {', '.join(names[:4])}"
            )
    return loaded if placed else loaded.to(folded.device)


def _prompts(model: Model | nn.Module) -> list[Tensor]:
    """Batches of token ids: random ones, and the tokenizer's reading of a text."""
    batches = [random_prompts(model, _ROWS, _TOKENS)]
    if isinstance(model, Model) and model.tokenizer is not None:
        batches += [model.tokenizer(text, return_tensors="pt").input_ids for text in _TEXT]
    return [ids for ids in batches if ids.numel()]  # a tokenizer may know none of the words


@torch.no_grad()
def _logits(model: nn.Module, prompts: list[Tensor]) -> Tensor:
    """Of all tokens, one after the other: float32 [tokens, vocabulary]."""
    device = next(model.parameters()).device
    found = [model(ids.to(device), use_cache=False).logits.float().cpu() for ids in prompts]
    return torch.cat([logits.flatten(0, 1) for logits in found])


def _move(folder: Path, target: Path) -> None:
    """Put a finished folder in its place; what was there goes only when the new one is in."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    if not target.exists():
        folder.replace(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    target.replace(old)
    try:
        folder.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)

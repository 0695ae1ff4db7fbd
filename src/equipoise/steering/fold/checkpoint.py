"""Write a folded model as an ordinary checkpoint, reload it, and compare before saying done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.files import held
from equipoise.models.model import Model, input_device, unwrap
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
_PROCESSOR = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# What transformers would read of an older checkpoint beside the files of a new one.
_REPLACED = (
    *("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json"),
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates", *_PROCESSOR),
)


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
    only then moved into place: either the whole checkpoint is there, or nothing. Of a processor
    that cannot be loaded here the files are copied.

    Args:
        model: The base model; a :class:`Model` brings its tokenizer and processor.
        steering: See :func:`equipoise.steering.fold.model.fold`, as for the other arguments.
        strength: ω.
        out: Folder of the checkpoint.
        max_shard_size: Largest weight file, as in transformers ("5GB").
        overwrite: Replace a checkpoint that is there; other files stay.
        allow_mismatch: Take a model of other weights than the steering was made for.
        as_llama: Write a Llama checkpoint.

    Raises:
        SteeringError: Folding is refused, the folder cannot be written, or the checkpoint does
            not compute what the steered model computes.
    """
    root, target = unwrap(model), Path(out).expanduser()
    source = model.name if isinstance(model, Model) else getattr(model, "name_or_path", "")
    check_target(target, source, overwrite=overwrite)
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
    if found.effect == 0:
        raise SteeringError(
            "the steering moves no logit of a text prompt, so there is nothing to compare the "
            f"folded checkpoint by: nothing was written to {target}"
        )
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


def check_target(target: Path, source: str, *, overwrite: bool) -> None:
    """Refuse a folder that a checkpoint must not be written to.

    Args:
        target: The folder.
        source: Where the base model is from.
        overwrite: Whether a checkpoint there may be replaced.

    Raises:
        SteeringError: It is a file, in use, or holds the base model or a steering.
    """
    if source and Path(source).is_dir() and Path(source).resolve() == target.resolve():
        raise SteeringError(f"{target} is the base model itself: fold into another folder")
    if target.exists() and not target.is_dir():
        raise SteeringError(f"{target} is a file; name a folder")
    if (target / "steering_config.json").exists():
        raise SteeringError(f"{target} holds a steering: fold into another folder")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise SteeringError(
            f"{target} exists and is not empty; give another folder, or overwrite (--overwrite) to "
            "replace a checkpoint there"
        )


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A scratch folder on the target's file system, gone afterwards unless moved."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A target that is there may be a link to another file system, or a mount of its own.
        within = target if target.is_dir() else target.parent
        prefix = f".{target.name}.folding-"
        for cut_off in within.glob(f"{escape(prefix)}*"):  # by a kill, with its gigabytes
            with held(cut_off) as mine:
                if mine:
                    shutil.rmtree(cut_off, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
    except OSError as error:
        raise SteeringError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        with held(scratch):
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
    except (OSError, SafetensorError):  # a full disk, which is told by the caller
        raise
    except Exception as error:  # a configuration that its own class refuses, among others
        reason = " ".join(str(error).split())
        raise SteeringError(f"{type(folded).__name__} cannot be saved: {reason}") from error
    if isinstance(model, Model):
        for part in (model.processor, model.tokenizer):
            if part is not None:
                part.save_pretrained(folder)
        if model.processor is None and model.hf.name_or_path:
            _copy_processor(model, folder)


def _copy_processor(model: Model, folder: Path) -> None:
    """The files of a processor that is not loaded: of a text model none, or one that lacks here."""
    from transformers.utils import cached_file

    for name in _PROCESSOR:
        try:
            found = cached_file(
                model.hf.name_or_path,
                name,
                revision=model.revision,
                local_files_only=True,  # the tokenizer's files are from there, so it is cached
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:  # a folder that is gone by now
            found = None
        if found is not None:
            shutil.copyfile(found, folder / name)


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
    device = input_device(model)
    found = [model(ids.to(device), use_cache=False).logits.float().cpu() for ids in prompts]
    return torch.cat([logits.flatten(0, 1) for logits in found])


def _move(folder: Path, target: Path) -> None:
    """Put a finished checkpoint in its place, that of an older one if there is one.

    While that is replaced there is no config.json, so that nothing looks complete.
    """
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    if not target.exists():
        folder.replace(target)
        return
    config = target / "config.json"
    config.unlink(missing_ok=True)
    for old in {old for pattern in _REPLACED for old in target.glob(pattern)}:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for file in sorted(folder.iterdir(), key=lambda file: file.name == config.name):
        file.replace(target / file.name)

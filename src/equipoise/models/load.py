"""Load a causal LM or a VLM: ``builtin:NAME``, a local folder, or a hub id."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from equipoise.errors import EquipoiseError
from equipoise.hub import hub_answers
from equipoise.models.model import Model
from equipoise.wording import did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BUILTIN = "builtin:"
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def builtin_models() -> list[str]:
    """Names of the bundled models, each loadable as ``builtin:NAME``."""
    root = resources.files("equipoise.models") / "bundled"
    return sorted(p.name for p in root.iterdir() if (p / "config.json").is_file())


def load(
    name: str | Path = BUILTIN,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    chat: bool | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model with its tokenizer (and processor, if it reads images), frozen, in eval mode.

    Args:
        name: ``builtin:NAME`` (``builtin:`` alone is the default bundled model), a local folder,
            or a hub id. Only a hub id touches the network.
        revision: Hub revision.
        dtype: float32, bfloat16, float16 or float64, as a torch dtype or its name; "stored" is the
            checkpoint's; so is "auto", except that float16 is widened to float32 on CPU, where it
            is slow and inexact.
        device: Where to put the model; default: an accelerator if there is one, else CPU.
        device_map: As in transformers (needs accelerate); excludes ``device``.
        chat: Use the chat template. Default: if the tokenizer has one.
        trust_remote_code: Run code from the checkpoint. Off unless asked for.

    Raises:
        EquipoiseError: Nothing there, or not a model this library can load.
    """
    from transformers import AutoConfig

    if not isinstance(name, str | Path):
        kind = type(name).__name__
        raise EquipoiseError(f"a model is a hub id, a folder or builtin:NAME; got a {kind}")
    name = str(name)
    source = _resolve(name)
    if revision is not None and isinstance(source, Path):
        raise EquipoiseError(
            f"revision {revision!r}: {name} is not from the hub, so it has none; leave it out"
        )
    where = _device(device) if device_map is None else None
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not (isinstance(source, Path) or hub_answers(source, "model", revision)):
        common["local_files_only"] = True  # else its client tries again for half a minute
    if revision is not None:
        common["revision"] = revision
    with _readable_errors(name, source), _quiet():
        config = AutoConfig.from_pretrained(source, **common)
        numbers = _dtype(dtype, config, where)
        tokenizer = _tokenizer(name, source, common)
        # The fused attention is slow at the small heads of the bundled models: 12 % of a fit; the
        # plain one of transformers is NaN in float64 where rows are padded.
        plain = _is_builtin(name) and numbers != torch.float64
        how = {"attn_implementation": "eager"} if plain else {}
        hf, found = _auto_class(config).from_pretrained(
            source,
            dtype=numbers,
            device_map=device_map,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in one line
            **how,
            **common,
        )
        _refuse_made_up(name, found)
        processor = _processor(source, config, common)
        if where is not None:
            hf.to(where)
    hf.eval().requires_grad_(False)
    if chat is None:
        chat = tokenizer.chat_template is not None
    elif chat and tokenizer.chat_template is None:
        raise EquipoiseError(f"{name} has no chat template; leave --chat off")
    shown = f"{BUILTIN}{source.name}" if isinstance(source, Path) and _is_builtin(name) else name
    return Model(hf, tokenizer, processor, shown, revision, chat)


def _is_builtin(name: str) -> bool:
    return name.startswith(BUILTIN)


def _resolve(name: str) -> str | Path:
    if _is_builtin(name):
        known = builtin_models()
        wanted = name.removeprefix(BUILTIN) or known[0]
        if wanted not in known:
            raise EquipoiseError(
                f"unknown bundled model {name!r}{did_you_mean(wanted, known)}; "
                f"there is {', '.join(BUILTIN + k for k in known)}"
            )
        return Path(str(resources.files("equipoise.models"))) / "bundled" / wanted
    path = Path(name).expanduser()
    if not name.strip():
        raise EquipoiseError("MODEL is empty; it is a hub id, a checkpoint folder or builtin:")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise EquipoiseError(f"{name}: a folder without config.json is not a checkpoint")
        return path
    if path.exists():
        raise EquipoiseError(f"{name}: a file; MODEL is a hub id, a checkpoint folder or builtin:")
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise EquipoiseError(f"{name!r}: no such folder")
    if ":" in name:
        hint = _meant(name)
        raise EquipoiseError(f"{name!r}: no such folder, and a hub id has no colon{hint}")
    return name


def _meant(name: str) -> str:
    return did_you_mean(name, [BUILTIN, *(BUILTIN + known for known in builtin_models())])


def _tokenizer(name: str, source: str | Path, common: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    missing = (
        f"{name} has no tokenizer that can be read: put the files of the one it was trained with "
        "beside its config.json (tokenizer.json and tokenizer_config.json)"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
    except ValueError as error:
        if "backend tokenizer" not in str(error):
            raise
        raise EquipoiseError(missing) from error
    # Without files some kinds are made up, of their special tokens alone: no word would be read.
    if len(tokenizer) <= len(tokenizer.added_tokens_encoder):
        raise EquipoiseError(missing)
    return tokenizer


def _refuse_made_up(name: str, found: dict[str, Any]) -> None:
    """Raise if transformers made up weights that the checkpoint lacks: it only logs that."""
    # A weight of another shape is told as (key, shape there, shape wanted).
    made_up = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if made_up:
        raise EquipoiseError(
            f"{name}: of the model's weights the checkpoint lacks {len(made_up)}, or has them in "
            f"another shape (such as {min(made_up)}): they would be random; use a complete "
            "checkpoint of the architecture its config.json names"
        )


def _auto_class(config: PretrainedConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGE_TEXT,
    )

    return AutoModelForImageTextToText if config.model_type in IMAGE_TEXT else AutoModelForCausalLM


def _processor(source: str | Path, config: PretrainedConfig, common: dict[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if _auto_class(config) is not AutoModelForImageTextToText:
        return None
    try:
        return AutoProcessor.from_pretrained(source, **common)
    except (ImportError, OSError, ValueError) as error:
        why = " ".join(str(error).split())
        logging.getLogger(__name__).warning("no processor, text only: %s", why)
        return None


def _device(device: str | torch.device | None) -> torch.device:
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise EquipoiseError(f"no device {str(device)!r} here: {why}") from error
    # What torch was built for need not be there: the ordinary Linux build names CUDA anywhere.
    there = torch.accelerator.is_available()
    return (torch.accelerator.current_accelerator() if there else None) or torch.device("cpu")


def _dtype(
    dtype: str | torch.dtype, config: PretrainedConfig, device: torch.device | None
) -> str | torch.dtype:
    wanted = str(dtype).removeprefix("torch.")
    if wanted == "stored":
        return "auto"  # what transformers means by it
    if wanted in _DTYPES:
        return getattr(torch, wanted)
    if wanted != "auto":
        hint, known = did_you_mean(wanted, _DTYPES), f"{', '.join(_DTYPES)}, stored or auto"
        raise EquipoiseError(f"unknown dtype {wanted!r}{hint}; use {known}")
    stored = getattr(config, "dtype", None)
    on_cpu = device is not None and device.type == "cpu"
    return torch.float32 if on_cpu and stored in (torch.float16, None) else "auto"


@contextlib.contextmanager
def _readable_errors(name: str, source: str | Path) -> Iterator[None]:
    """Turn the loaders' errors into one line that names the model, or the file that is damaged."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    usual = (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError)
    try:
        yield
    except (*usual, SafetensorError, EOFError, UnpicklingError) as error:
        if damage := _damage(source):
            raise EquipoiseError(f"{damage}; copy or download it again") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        why = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        hub = f" as a hub id, folder or builtin:NAME{_meant(name)}"
        kind = "" if isinstance(source, Path) else hub
        raise EquipoiseError(f"cannot load {name!r}{kind}: {why}") from error


def _damage(source: str | Path) -> str:
    """The first weight file of a folder that cannot be read, and why; empty if there is none."""
    from safetensors import safe_open

    if not isinstance(source, Path):
        return ""
    for file in sorted([*source.glob("*.safetensors"), *source.glob("pytorch_model*.bin")]):
        try:
            if file.suffix == ".bin":
                torch.load(file, map_location="meta", weights_only=True)
                continue
            with safe_open(file, "pt"):
                pass
        except Exception as error:  # the readers' own errors, of many kinds
            why = (str(error).splitlines() or ["it ends too early"])[0].split(". ")[0]
            return f"{file} is damaged or cut off ({why})"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No weight-loading bars of transformers: this library shows its own progress."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()

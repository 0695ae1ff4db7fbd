"""The artifact: a folder with ``steering_config.json``, ``steering.safetensors``, ``README.md``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.hub import hub_answers
from equipoise.steering.address import Address
from equipoise.steering.gates import GATES, Gate
from equipoise.steering.info import SteeringInfo
from equipoise.steering.transforms import TRANSFORMS, Transform, check_finite
from equipoise.wording import counted

if TYPE_CHECKING:
    from equipoise.steering.steering import Steering

FORMAT = 1
CONFIG, TENSORS, CARD = "steering_config.json", "steering.safetensors", "README.md"


def save(steering: Steering, folder: str | PathLike[str], *, card: str | None = None) -> Path:
    """Write an artifact; all of it or nothing.

    Args:
        steering: What to write.
        folder: Made if it is not there; an artifact in it is replaced, other files are kept.
        card: Text of the model card; None: a short one.

    Returns:
        The folder.

    Raises:
        SteeringError: The folder cannot be written, or the steering is none that could be read:
            parameters that are not finite, an info of other types than it should hold.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    tensors = steering.tensors()
    for name, value in tensors.items():
        check_finite(value, f"cannot write the steering: {name}")
    try:
        config = json.dumps(_config(steering), indent=2)
    except (TypeError, ValueError) as error:
        raise SteeringError(f"the steering's info holds what JSON cannot: {error}") from error
    _info(json.loads(config), "cannot write the steering")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the final step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".steering-", dir=folder) as scratch:
            new = Path(scratch)
            data = to_bytes(tensors, metadata={"format": "pt"})
            (new / TENSORS).write_bytes(data)
            (new / CONFIG).write_text(config + "\n", encoding="utf-8")
            (new / CARD).write_text(card or default_card(steering), encoding="utf-8")
            # The config comes last: without it, or with an old one whose digest does not fit the
            # tensors, a folder is not read as an artifact.
            for name in (CARD, TENSORS, CONFIG):
                (new / name).replace(folder / name)
    except OSError as error:
        raise SteeringError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def load(source: str | PathLike[str], *, revision: str | None = None) -> Steering:
    """Read an artifact from a folder, or from the hub if there is no such folder.

    Raises:
        SteeringError: No artifact there, or a damaged or a newer one.
    """
    from equipoise.steering.steering import Steering

    folder = _locate(source, revision)
    config = _read_config(folder / CONFIG)
    info = _info(config, folder / CONFIG)
    tensors = _read_tensors(folder / TENSORS)
    try:
        absent = set(config.get("tensors", ())) - set(tensors)
        if absent:
            raise SteeringError(f"{TENSORS} lacks {min(absent)!r}: fetch the artifact again")
        steering = Steering(
            _transforms(config["sites"], tensors),
            config["token_scope"],
            _gate(config["gate"], tensors),
            info,
        )
        expected, targets = config["digest"], set(config["target_modules"])
    except SteeringError as error:
        raise SteeringError(f"{folder}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SteeringError(f"{folder / CONFIG}: missing or malformed entry: {error}") from error
    if tensors:
        raise SteeringError(f"{folder / TENSORS}: unexpected tensor {min(tensors)!r}")
    astray = targets ^ set(_target_modules(steering))
    if astray:
        raise SteeringError(
            f"{folder / CONFIG}: target_modules and sites name different modules: "
            f"{min(astray, key=str)!r} is only in one of them"
        )
    if steering.digest != expected:
        raise SteeringError(
            f"{folder}: config and tensors do not belong together (digest differs); "
            "fetch the artifact again"
        )
    return steering


def push(
    steering: Steering, repo_id: str, *, private: bool = False, card: str | None = None
) -> str:
    """Upload an artifact to the hub; returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(steering, scratch, card=card)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Upload steering"
        )
    return str(commit.commit_url)


def default_card(steering: Steering) -> str:
    """A model card for a steering of which no measurements are known."""
    info = steering.info
    base, chosen = info.base_model_name_or_path, info.recommended_strength
    head = ["---", "library_name: equipoise", *([f"base_model: {base}"] if base else []), "---"]
    return "\n".join(
        [
            *head,
            f"# Steering{f' for {base}' if base else ''}",
            "",
            f"{counted(len(steering.transforms), 'site')}, {steering.n_parameters} parameters, "
            f"{steering.n_nonzero} of them not zero. "
            f"Recommended strength: {'none was chosen' if chosen is None else f'{chosen:g}'}.",
            "",
            "```python",
            "from equipoise import Steering",
            "",
            'steering = Steering.from_pretrained("path/to/this/folder")',
            f"with steering.applied(model, strength={1.0 if chosen is None else chosen:g}):",
            "    model.generate(...)",
            "```",
            "",
            "No measurements came with this steering.",
            "",
        ]
    )


def _config(steering: Steering) -> dict[str, Any]:
    info = asdict(steering.info)
    info["library_version"] = info["library_version"] or _version()
    return {
        "format_version": FORMAT,
        "target_modules": _target_modules(steering),
        **info,
        **steering.structure(),
        "tensors": sorted(steering.tensors()),
        "digest": steering.digest,
    }


def _target_modules(steering: Steering) -> list[str]:
    return sorted({Address.parse(key).path for key in steering.transforms})


def _version() -> str:
    try:
        return version("equipoise")
    except PackageNotFoundError:
        return ""


def _locate(source: str | PathLike[str], revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        missing = [name for name in (CONFIG, TENSORS) if not (folder / name).is_file()]
        if missing:
            within = folder / "steering"
            hint = f"; {within} is one" if (within / CONFIG).is_file() else ""
            raise SteeringError(f"{folder} is no steering: {' and '.join(missing)} missing{hint}")
        return folder
    text = str(source)
    if folder.is_file():
        raise SteeringError(
            f"{source} is a file; a steering is a folder. Files made elsewhere (control vectors, "
            "DSO's .pt) are read by equipoise.steering.importers, then save_pretrained"
        )
    if folder.exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise SteeringError(f"{source}: no such folder, and no hub id (owner/name)")
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, TENSORS, CARD]
    cached = not hub_answers(text, "model", revision)
    try:
        found = snapshot_download(
            text, revision=revision, allow_patterns=wanted, local_files_only=cached
        )
    except Exception as error:  # the hub client raises many kinds; all mean: not to be had
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        if cached:
            why = "the hub does not answer, and its cache has none"
        raise SteeringError(f"{source}: no such folder, and not from the hub: {why}") from error
    return _locate(found, None)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SteeringError(f"{path}: not readable JSON: {error}") from error
    found = config.get("format_version") if isinstance(config, dict) else None
    if found is None:
        raise SteeringError(f"{path}: no format_version: not a steering config")
    if type(found) is not int or found < 1:
        raise SteeringError(f"{path}: format_version must be a number from 1; got {found!r}")
    if found > FORMAT:
        raise SteeringError(
            f"{path}: format version {found} is newer than this equipoise "
            f"reads ({FORMAT}); upgrade equipoise"
        )
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        start = file.read(9)
    # A header of 640 bytes, say, starts like a pickle too; safetensors has a brace after its size.
    pickled = start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    if (pickled and start[8:] != b"{") or start[:4] == b"PK\x03\x04":
        raise SteeringError(f"{path}: this is a pickle, not safetensors; pickles are never loaded")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise SteeringError(f"{path}: truncated or damaged safetensors: {error}") from error


def _transforms(sites: Mapping[str, str], tensors: dict[str, Tensor]) -> dict[str, Transform]:
    """Build the transforms, taking their tensors out of ``tensors``."""
    transforms = {}
    for key, kind in sites.items():
        if kind not in TRANSFORMS:
            raise SteeringError(f"{key}: unknown transform {kind!r}; upgrade equipoise")
        mine = {n.rpartition(":")[2]: tensors.pop(n) for n in sorted(tensors) if _owner(n) == key}
        try:
            transforms[key] = TRANSFORMS[kind](**mine)
        except (TypeError, SteeringError) as error:
            if mine and isinstance(error, SteeringError):
                raise SteeringError(f"{key}: {error}") from None
            raise SteeringError(f"{key}: missing, extra tensors: got {sorted(mine)}") from None
    return transforms


def _gate(settings: Mapping[str, Any] | None, tensors: dict[str, Tensor]) -> Gate | None:
    if settings is None:
        return None
    given = dict(settings)
    kind = given.pop("kind")
    if kind not in GATES:
        raise SteeringError(f"unknown gate {kind!r}; upgrade equipoise")
    mine = {n.rpartition(":")[2]: tensors.pop(n) for n in sorted(tensors) if _owner(n) == "gate"}
    try:
        return GATES[kind](**{**given, **mine})
    except TypeError:
        raise SteeringError(f"the gate is without its probe: tensors {sorted(mine)}") from None


def _owner(name: str) -> str:
    return name.rpartition(":")[0]


def _info(config: Mapping[str, Any], source: str | Path) -> SteeringInfo:
    from pydantic import TypeAdapter, ValidationError

    # Entries a later version of this format may add are not ours to refuse.
    known = {f.name: config[f.name] for f in fields(SteeringInfo) if f.name in config}
    try:
        # As JSON, where a list may stand for a tuple.
        return TypeAdapter(SteeringInfo).validate_json(json.dumps(known))
    except ValidationError as error:
        first = error.errors()[0]
        field, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Input ")
        raise SteeringError(f"{source}: {field} {why}; got {first['input']!r}") from None

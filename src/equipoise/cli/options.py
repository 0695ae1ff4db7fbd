"""Every option of the command line, said once.

A group of options is a pydantic model. Its fields are the flags of each command that takes the
group and the keys of a ``--config`` file, and both are checked by the same rules.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from equipoise.validation import check_field


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line.

    Attributes:
        metavar: What stands for the value in the help.
        name: The flag, where it is not the field's name.
        argument: Positional instead of a flag.
        many: May be given several times.
        settings: Given as KEY=VALUE, several times; the flag adds to what a config file says.
        recorded: Whether it belongs to the resolved config, because it decides the outcome.
    """

    metavar: str | None = None
    name: str | None = None
    argument: bool = False
    many: bool = False
    settings: bool = False
    recorded: bool = True


def _numbers(value: Any) -> Any:
    """``0,0.5,1`` or a list, as strengths: finite numbers."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    strengths = []
    for part in parts:
        try:
            strength = float(part) + 0.0  # no negative zero
        except (TypeError, ValueError):
            raise ValueError(f"{part!r} is not a number; give strengths as in 0,0.5,1") from None
        if not math.isfinite(strength):
            raise ValueError(f"a strength must be finite; got {part!r}")
        strengths.append(strength)
    if not strengths:
        raise ValueError("no strengths; give some, as in 0,0.5,1")
    return tuple(sorted(set(strengths)))


def _one_strength(value: Any) -> Any:
    return None if value is None else _numbers([value])[0]


def _several(value: Any) -> Any:
    """A lone value of a config file stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["key=value", ...]`` as a dict, the values read as YAML.

    Raises:
        ValueError: Not of that form.
    """
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"expected key=value, got {pair!r}")
        try:
            settings[key.strip()] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # as in 2024-13-01, [[[[...
            raise ValueError(f"{pair!r}: the value is not YAML") from None
    return settings


class Options(BaseModel):
    """Base of the groups."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    panel: ClassVar[str] = "Options"
    _numbers_are_numbers = field_validator("*", mode="before")(classmethod(check_field))

    def recorded(self) -> dict[str, Any]:
        """What belongs into the resolved config, ready for YAML; unset options are left out."""
        kept = [n for n, f in type(self).model_fields.items() if flag_of(f).recorded]
        return self.model_dump(mode="json", include=set(kept), exclude_none=True)

    def words(self) -> list[str]:
        """What differs from the defaults, as it is typed; not what :class:`Flag` leaves out."""
        words: list[str] = []
        for field, info in type(self).model_fields.items():
            value, flag, name = getattr(self, field), flag_of(info), flag_name(field, info)
            if not flag.recorded or value == info.get_default():
                continue
            if flag.argument:
                words.append(str(value))
            elif isinstance(value, bool):
                words.append(name if value else f"--no-{name[2:]}")
            else:
                words += [word for entry in _typed(value, flag) for word in (name, entry)]
        return words


def _typed(value: Any, flag: Flag) -> list[str]:
    """A value as the texts that its flag takes, one for each time it is given."""
    if isinstance(value, dict):
        return [f"{key}={_as_yaml(entry)}" for key, entry in value.items()]
    if isinstance(value, tuple):
        entries = [str(entry) for entry in value]
        return entries if flag.many else [",".join(entries)]
    return [str(value)]


def _as_yaml(value: Any) -> str:
    """A value that :func:`parse_settings` reads back; JSON where a bare text would not do."""
    plain = isinstance(value, str) and parse_settings([f"_={value}"])["_"] == value
    return value if plain else json.dumps(value, ensure_ascii=False)


def flag_of(info: FieldInfo) -> Flag:
    """How a field is written."""
    return next((entry for entry in info.metadata if isinstance(entry, Flag)), Flag())


def flag_name(field: str, info: FieldInfo) -> str:
    """``--max-capability-drop``, or ``MODEL`` for an argument."""
    flag = flag_of(info)
    if flag.argument:
        return flag.metavar or field.upper()
    return flag.name or f"--{field.replace('_', '-')}"


class CommonOptions(Options):
    """What every command takes."""

    seed: int = Field(0, ge=0, lt=2**31, description="every random choice follows from it")
    config: Annotated[Path | None, Flag("FILE.yaml", recorded=False)] = Field(
        None, description="read options from a file; flags override it"
    )
    json_: Annotated[bool, Flag(name="--json", recorded=False)] = Field(
        False, description="machine form to stdout, everything else to stderr"
    )
    quiet: Annotated[bool, Flag(recorded=False)] = Field(False, description="no progress")


class ModelOptions(Options):
    """Which model, and how it is loaded."""

    panel: ClassVar[str] = "Model"
    model: Annotated[str, Flag("MODEL", argument=True)] = Field(
        description="hub id, checkpoint folder, or builtin:NAME"
    )
    revision: str | None = Field(None, description="hub revision")
    dtype: str = Field("auto", description="auto, stored, float32, bfloat16, float16 or float64")
    device: str | None = Field(None, description="cpu, cuda:0, mps, ...; an accelerator if any")
    device_map: str | None = Field(None, description="as in transformers, instead of --device")
    chat: bool | None = Field(None, description="use the chat template; if the model has one")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")

    @field_validator("device_map")
    @classmethod
    def _no_device_beside(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("device") is not None:
            raise ValueError("give --device or --device-map, not both")
        return value


_Data = Annotated[
    str | None,
    Flag("PATH"),
    Field(description="the task's data; else $EQUIPOISE_DATA/NAME, else the hub"),
]
_TaskOptions = Annotated[
    dict[str, Any],
    Flag("KEY=VALUE", name="--task-option", many=True, settings=True),
    Field(description="an option of the task, its value in YAML; see `equipoise tasks NAME`"),
]
_Limit = Annotated[
    int | None,
    Flag("N"),
    Field(ge=1, description="keep about N items, and N of each capability and split"),
]


class TaskOptions(Options):
    """Which items are put to the model."""

    panel: ClassVar[str] = "Task"
    task: Annotated[str, Flag("NAME|FILE.jsonl")] = Field(
        "coreference", description="see `equipoise tasks`"
    )
    data: _Data = None
    task_options: _TaskOptions = {}
    limit: _Limit = None
    score: Literal["sum", "mean"] = Field(
        "sum", description="sum or mean of an option's token log-probabilities"
    )
    capability: Annotated[
        tuple[str, ...], Flag("NAME[:PATH]", many=True), BeforeValidator(_several)
    ] = Field((), description="what must not be lost; `builtin` for a builtin: model")
    capability_options: Annotated[
        dict[str, Any], Flag("NAME.KEY=VALUE", name="--capability-option", many=True, settings=True)
    ] = Field({}, description="an option of a capability, as in mmlu.shots=5")


class FitOptions(Options):
    """How a steering is learned."""

    panel: ClassVar[str] = "Fit"
    method: str = Field("dso", description="see `equipoise methods`")
    method_settings: Annotated[
        dict[str, Any], Flag("KEY=VALUE", name="--set", many=True, settings=True)
    ] = Field({}, description="a setting of the method, the value in YAML")
    anchors: Annotated[tuple[str, ...], Flag("FILE", many=True), BeforeValidator(_several)] = Field(
        (), description="more that must not change: a task file, or text or JSON documents"
    )


class MeasureOptions(Options):
    """How decisions are measured."""

    panel: ClassVar[str] = "Measure"
    temperature: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="also report the bias at this temperature"
    )
    fair_decoding: bool = Field(True, description="also report seeded-hash decoding")
    batch_tokens: int = Field(4096, ge=1, description="tokens per forward pass")
    scorer: str = Field("lexicon", description="what judges free text")
    max_new_tokens: int = Field(64, ge=1, description="longest answer in free text")


class SweepOptions(Options):
    """Which strengths are measured, and how one is chosen."""

    panel: ClassVar[str] = "Sweep"
    strengths: Annotated[tuple[float, ...], Flag("W,W,..."), BeforeValidator(_numbers)] = Field(
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), description="strengths to measure"
    )
    max_capability_drop: Annotated[float, Flag("SHARE")] = Field(
        0.05,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="budget for the upper 95 % limit of every drop",
    )
    interpolate: bool = Field(False, description="also try a strength between two of these")


class SteeringOptions(Options):
    """Which steering."""

    panel: ClassVar[str] = "Steering"
    steering: Annotated[str, Flag("DIR")] = Field(description="artifact folder or hub id")
    allow_mismatch: bool = Field(
        False, description="take a model of other weights, such as a fine-tune"
    )


class TaskNameOptions(Options):
    """A task to describe."""

    panel: ClassVar[str] = "Task"
    name: Annotated[str | None, Flag("NAME|FILE.jsonl", argument=True)] = Field(
        None, description="the task to describe; all are listed without"
    )
    data: _Data = None
    task_options: _TaskOptions = {}
    limit: _Limit = None


class MethodNameOptions(Options):
    """A method to describe."""

    panel: ClassVar[str] = "Method"
    name: Annotated[str | None, Flag("NAME", argument=True)] = Field(
        None, description="the method to describe; all are listed without"
    )


class SiteOptions(Options):
    """Which sites."""

    panel: ClassVar[str] = "Sites"
    role: Literal["norm", "residual", "mlp", "heads", "all"] = Field(
        "norm", description="norm, residual, mlp, heads or all"
    )


class FoldOptions(Options):
    """How a checkpoint is written."""

    panel: ClassVar[str] = "Fold"
    as_llama: bool = Field(
        False, description="write a Llama checkpoint where that makes room for biases"
    )
    max_shard_size: Annotated[str, Flag("SIZE")] = Field("5GB", description="largest weight file")


class StrengthOptions(Options):
    """One strength."""

    panel: ClassVar[str] = "Steering"
    strength: Annotated[float | None, Flag("W"), BeforeValidator(_one_strength)] = Field(
        None, description="strength; the steering's recommended one if not given"
    )


class VerifyOptions(Options):
    """What is compared."""

    panel: ClassVar[str] = "Verify"
    vllm: bool | None = Field(None, description="compare with vLLM; if it is installed")


class OutputOptions(Options):
    """Where results go. The folder itself is not part of what a run is."""

    panel: ClassVar[str] = "Output"
    out: Annotated[Path, Flag("DIR", recorded=False)] = Field(description="output folder")
    overwrite: Annotated[bool, Flag(recorded=False)] = Field(
        False, description="replace the results in a folder that has some"
    )

    @field_validator("out", mode="before")
    @classmethod
    def _no_empty_path(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("expected a folder, got nothing (the one you are in is .)")
        return value

"""Settings of FairSteer. [C] marks what the authors' code does, [P] what the paper says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from equipoise.methods.method import MethodConfig

AS_RELEASED: Mapping[str, Any] = {
    "layer_by": "accuracy",
    "unit": "token",
    "false_firing": None,
    "standardise": False,
    "balance": False,
    "permute": False,
    "splits": "released",
    "max_items": None,
}
"""Where the authors' code differs from the defaults [C]."""


class FairSteerConfig(MethodConfig):
    """FairSteer (arXiv 2504.14492).

    A preset only sets what is not set by hand.
    """

    preset: Literal["clean", "as-released"] = Field(
        "clean", description="these defaults, or what the authors' code does (docs/fairsteer.md)"
    )

    # Where: the residual stream after decoder blocks [P].
    layer: int | None = Field(None, ge=0, description="block l*, from 0; chosen unless given")
    n_layers: int = Field(1, ge=1, description="blocks steered: the best so many")
    layer_by: Literal["probe", "accuracy", "steered"] = Field(
        "steered",
        description="choose blocks by the probe's balanced accuracy, by the steered model's share "
        "of right answers, or by that averaged over kinds of prompts",
    )

    # When: a logistic probe of the prompt's last token.
    gate: Literal["hard", "soft", "off"] = Field(
        "hard", description="steer where the probe fires, by its p(biased), or always"
    )
    unit: Literal["row", "token"] = Field(
        "row", description="decide once from the prompt, or for every steered token by itself"
    )
    false_firing: float | None = Field(
        0.05, ge=0, lt=1, description="rate the threshold allows on each kind of prompts; none: ½"
    )
    penalty: float = Field(1.0, gt=0, description="inverse strength C of the probe's l2 penalty")
    standardise: bool = Field(True, description="penalise in units of each coordinate's spread")
    balance: bool = Field(True, description="weigh classes, and kinds of unbiased prompts, alike")
    force_gate: bool = Field(False, description="use a probe even if it cannot beat chance")

    # What: mean activation at the fair answer less that at the stereotyped one.
    alpha: float = Field(1.0, ge=0, description="length of the vector in its own units, at ω = 1")
    scope: Literal["last", "answer", "all"] = Field(
        "answer", description="the prompt's last token, that and the answer, or every token"
    )
    per_context: int = Field(10, ge=1, description="ambiguous items per context for the vector")
    permute: bool = Field(True, description="every option under every letter, for the vector")

    # On what.
    splits: Literal["task", "released"] = Field(
        "task", description="the task's own, or 80:20 at random over ALL items, tested ones too"
    )
    max_items: int | None = Field(2000, ge=1, description="items the probes are fitted on, at most")

    @field_validator("gate", mode="before")
    @classmethod
    def _off(cls, given: Any) -> Any:
        # An unquoted off is a boolean in YAML 1.1.
        return "off" if given is False else given

    @field_validator("layer", "false_firing", "max_items", mode="before")
    @classmethod
    def _none(cls, given: Any) -> Any:
        # YAML's null goes by the name it has in Python and in the documentation too.
        return None if given == "none" else given

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "as-released":
            return {**AS_RELEASED, **given}
        return given

    @model_validator(mode="after")
    def _one_or_several(self) -> FairSteerConfig:
        if self.layer is not None and self.n_layers > 1:
            raise ValueError("layer names one block: leave it out, or n_layers at 1")
        return self

    @property
    def token_scope(self) -> str:
        """As a steering's scope. The last token of each pass with a cache is ``answer`` [C]."""
        return {"last": "last_prompt", "answer": "last_prompt+generated", "all": "all"}[self.scope]

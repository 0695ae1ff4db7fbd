"""What an artifact says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Parameters = Literal["both", "slope", "bias"]


@dataclass
class SteeringInfo:
    """Where a steering comes from and how far it was checked.

    Attributes:
        method: What fitted it.
        base_model_name_or_path: The model it was fitted on, and its ``revision``.
        fingerprint: Of that model's weights (:func:`equipoise.models.fingerprint.fingerprint`);
            None: applies to any model whose sites fit.
        parameters: Parametrisation of an affine steering.
        recommended_strength: ω that was chosen under a budget; None: none was chosen.
        verified_strengths: The range of ω that was measured.
        task_digest: SHA-256 of the task it was fitted on.
        data_digests: SHA-256 of other data, by name.
        library_version: Of equipoise, when it was written.
        extra: Anything else, as JSON.
    """

    # How an artifact's are checked: nothing is converted, and a strength is a number.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "allow_inf_nan": False}

    method: str = ""
    base_model_name_or_path: str = ""
    revision: str | None = None
    fingerprint: str | None = None
    parameters: Parameters | None = None
    recommended_strength: float | None = None
    verified_strengths: tuple[float, float] | None = None
    task_digest: str | None = None
    data_digests: dict[str, str] = field(default_factory=dict)
    library_version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

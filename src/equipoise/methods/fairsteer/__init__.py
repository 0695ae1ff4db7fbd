"""FairSteer: a vector added where a probe says so (arXiv 2504.14492; our choices: docs)."""

from equipoise.methods.fairsteer.config import FairSteerConfig
from equipoise.methods.fairsteer.fit import fit
from equipoise.methods.method import Method

METHOD = Method(
    name="fairsteer",
    summary="answer-contrast vector at one layer, added where a probe detects a biased answer",
    config=FairSteerConfig,
    fit=fit,
)

__all__ = ["METHOD", "FairSteerConfig", "fit"]

"""Gates from labelled prompts, for the transforms of any method."""

from equipoise.methods.gating.ambiguity import ambiguity_gate
from equipoise.methods.gating.build import GateOptions, build_gate
from equipoise.methods.gating.examples import Examples
from equipoise.methods.gating.fit import fit_gate
from equipoise.methods.gating.kinds import Kinds
from equipoise.methods.gating.report import GateReport

__all__ = [
    "Examples",
    "GateOptions",
    "GateReport",
    "Kinds",
    "ambiguity_gate",
    "build_gate",
    "fit_gate",
]

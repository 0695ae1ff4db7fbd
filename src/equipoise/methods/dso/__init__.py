"""DSO: a per-norm affine map learned by policy gradient (arXiv 2512.15926; our choices: docs)."""

from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.fit import fit
from equipoise.methods.method import Method

METHOD = Method(
    name="dso",
    summary="learned affine map at every norm, by policy gradient under a KL budget",
    config=DSOConfig,
    fit=fit,
)

__all__ = ["METHOD", "DSOConfig", "fit"]

"""Models: load one, know its parts."""

from equipoise.models.load import builtin_models, load
from equipoise.models.model import Model, unwrap

__all__ = ["Model", "builtin_models", "load", "unwrap"]

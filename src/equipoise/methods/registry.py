"""Methods by name. Adding one is one module and a line here, or an entry point elsewhere."""

from __future__ import annotations

from equipoise.catalogue import Catalogue
from equipoise.methods import dso, fairsteer
from equipoise.methods.method import Method

METHODS = Catalogue("equipoise.methods", "method", Method, [dso.METHOD, fairsteer.METHOD])

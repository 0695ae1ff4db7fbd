"""The model card of a steering artifact: Markdown with a Hugging Face front matter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jinja2
import yaml

from equipoise.report.numbers import number, strength, with_interval
from equipoise.report.tabulate import scorecard
from equipoise.report.verdict import judge, not_measured
from equipoise.report.view import BIAS, GREEDY, Study

# What the hub accepts as base_model; a built-in name or a folder would fail its validation.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_card(results: Mapping[str, Any], steering_info: Mapping[str, Any]) -> str:
    """The README.md of a steering artifact.

    Args:
        results: The results dict of the study that chose the steering's strength (one study).
        steering_info: The artifact's ``steering_config.json`` (``base_model_name_or_path``,
            ``revision``, ``method``, ...); what is absent is taken from the results or left out.

    Returns:
        Markdown with YAML front matter.

    Raises:
        EquipoiseError: If the results hold nothing to report.
    """
    study = Study(results)
    base = str(steering_info.get("base_model_name_or_path") or study.model)
    method = str(steering_info.get("method") or study.method)
    lines = scorecard(study)
    context = {
        "front": _front_matter(base, method),
        "base": base,
        "revision": steering_info.get("revision"),
        "method": method,
        "study": study,
        "verdict": judge(study),
        "strength": strength(study.shown.strength),
        "recommended": study.chosen or 0.0,
        "lines": lines,
        "drops": [(line.label, line.now) for line in lines if line.now and line.now.drop],
        "not_measured": not_measured(study),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equipoise.report", "templates"),
        autoescape=False,  # Markdown: what comes from outside goes through _cell
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    measures = {"bias": BIAS, "greedy": GREEDY}
    environment.filters |= {
        "cell": _cell,
        "number": number,
        "strength": strength,
        "with_interval": with_interval,
        "measured": lambda row, name: with_interval(row.metric(measures[name])),
    }
    return environment.get_template("card.md.j2").render(context)


def _front_matter(base: str, method: str) -> str:
    values: dict[str, Any] = {"library_name": "equipoise"}
    if _HUB_ID.fullmatch(base):
        values["base_model"] = base
    values["tags"] = ["equipoise", "activation-steering", "fairness", "bias", method]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()


def _cell(value: object) -> str:
    """Text that stays within a table cell or a line and starts no markup."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", text)

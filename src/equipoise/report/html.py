"""The report: one HTML file that works from disk, without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from equipoise.files import write_atomically
from equipoise.report import numbers
from equipoise.report.charts import bias_chart, fit_charts, kept_charts
from equipoise.report.plane import label_places, pareto_path, plane
from equipoise.report.tabulate import Tabulated, scorecard, sections
from equipoise.report.verdict import judge, judge_comparison, not_measured
from equipoise.report.view import (
    ABSTENTION,
    BIAS,
    FAIR,
    GREEDY,
    HELD_OUT,
    UNAMBIGUOUS,
    Measure,
    Row,
    Study,
    capability,
    finite,
    studies,
)
from equipoise.wording import counted

# More would bury the page; the rest stays in results.json.
WORST_SHOWN = 12

# Of more groups not every share is written beside an occupation's strip: the largest is.
GROUPS_WRITTEN = 6


def write_report(results: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the report of an audit, a sweep, a run or a comparison as one HTML file.

    Args:
        results: A results dict (schema ``equipoise/results/1``), or ``{"results": [...],
            "pareto": [...]}`` of a comparison.
        path: Where to write; an existing file is replaced only once the new one is complete.

    Returns:
        The path written.

    Raises:
        EquipoiseError: If there is nothing to report, or the file cannot be written.
    """
    target = Path(path)
    write_atomically(target, render(results))
    return target


def render(results: Mapping[str, Any]) -> str:
    """The report's HTML as a string (see ``write_report``)."""
    many = studies(results)
    names = dict.fromkeys(name for study in many for name in study.capabilities)
    measures = (BIAS, GREEDY, FAIR, HELD_OUT, UNAMBIGUOUS, *map(capability, names), ABSTENTION)
    measures = tuple(m for m in measures if any(study.shown.metric(m) for study in many))
    parts = [_part(study, f"s{index}", measures) for index, study in enumerate(many)]
    chart = plane(many)
    pareto = [str(name) for name in results.get("pareto") or ()]
    compared = len(many) > 1
    context = {
        "parts": parts,
        "compared": compared,
        "measures": measures,
        "verdict": judge_comparison(many, pareto) if compared else judge(many[0]),
        "plane": chart,
        "plane_labels": label_places(chart, many) if chart and compared else [],
        "pareto": pareto,
        "pareto_path": pareto_path(chart, many, pareto) if chart and compared else "",
        "script": {part["id"]: part["script"] for part in parts},
    }
    return _environment().get_template("report.html.j2").render(context)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equipoise.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": numbers.number,
        "signed": numbers.signed,
        "strength": numbers.strength,
        "with_interval": numbers.with_interval,
        "estimate": numbers.estimate,
        "interval": numbers.interval,
        "plug_in": numbers.plug_in,
    }
    return environment


def _part(study: Study, identifier: str, measures: Sequence[Measure]) -> dict[str, Any]:
    """All the page says about one study, ready for the template."""
    lines = scorecard(study)
    occupations = _occupations(study)
    return {
        "id": identifier,
        "study": study,
        "verdict": judge(study),
        "scorecard": lines,
        "compared": [study.shown.metric(measure) for measure in measures],
        "bias_chart": bias_chart(study),
        "kept_charts": kept_charts(study),
        "fit_charts": fit_charts(study),
        "occupations": occupations,
        "sections": sections(study),
        "worst": [_worst(item) for item in study.listed("worst_items")[:WORST_SHOWN]],
        "worst_left": max(0, len(study.listed("worst_items")) - WORST_SHOWN),
        "not_measured": not_measured(study),
        "left_out": study.left_out(study.shown),
        "facts": _facts(study),
        "config": _yaml(study.results.get("config")),
        "environment": _yaml(study.results.get("environment")),
        "script": _script(study, lines, occupations),
    }


def _occupations(study: Study) -> dict[str, Any]:
    """Per-occupation bars, from the most stereotypical to the least.

    Returns:
        ``groups``: names of the groups (empty for pro/anti tasks); ``named``: these, if of an
        occupation only the largest share is written, with its name (else empty); ``greedy``:
        whether greedy shares are known; ``seen`` and ``held_out``: one dict per occupation with
        ``name``, ``n`` and, for the base and the shown row, the signed bias or the list of group
        shares.
    """
    base = study.base or study.rows[0]
    tables = [row.all_occupations for row in study.rows]
    names = dict.fromkeys(name for table in tables for name in table)
    entries = [entry for table in tables for entry in table.values()]
    groups = list(dict.fromkeys(group for e in entries for group in e.get("groups") or {}))
    bars: list[dict[str, Any]] = [
        {
            "name": name,
            "n": next((table[name].get("n") for table in tables if name in table), None),
            "before": _bar(base, name, groups),
            "now": _bar(study.shown, name, groups),
        }
        for name in names
    ]
    if groups:
        bars.sort(key=lambda bar: -max(bar["before"] or [0.0]))
    else:
        bars.sort(key=lambda bar: -(bar["before"] or 0.0))
    greedy = any(entry.get(key) for entry in entries for key in ("pro_greedy", "groups_greedy"))
    unseen = {name for row in study.rows for name in row.held_out}
    return {
        "groups": groups,
        "named": groups if len(groups) > GROUPS_WRITTEN else [],
        "greedy": greedy,
        "seen": [bar for bar in bars if bar["name"] not in unseen],
        "held_out": [bar for bar in bars if bar["name"] in unseen],
    }


def _bar(row: Row, name: str, groups: list[str], suffix: str = "") -> Any:
    """Signed bias P(pro) − P(anti) of an occupation, or its group shares; None if unknown."""
    entry = row.all_occupations.get(name) or {}
    if groups:
        shares = entry.get(f"groups{suffix}") or {}
        return [finite(shares.get(group)) or 0.0 for group in groups] if shares else None
    pro, anti = finite(entry.get(f"pro{suffix}")), finite(entry.get(f"anti{suffix}"))
    return None if pro is None or anti is None else round(pro - anti, 4)


def _script(study: Study, lines: list[Tabulated], occupations: dict[str, Any]) -> dict[str, Any]:
    """What the page's script needs to show any other strength."""
    names = [bar["name"] for bar in occupations["seen"] + occupations["held_out"]]
    groups = occupations["groups"]
    bars = {"probability": [[_bar(row, n, groups) for n in names] for row in study.rows]}
    if occupations["greedy"]:
        bars["greedy"] = [[_bar(row, n, groups, "_greedy") for n in names] for row in study.rows]
    return {
        "strengths": [row.strength for row in study.rows],
        "start": study.shown.strength,
        "base": study.rows.index(study.base) if study.base else None,
        "scores": {line.key: line.script for line in lines},
        "bars": bars,
        "named": occupations["named"],
    }


def _worst(item: Mapping[str, Any]) -> dict[str, Any]:
    """A worst item with its probabilities in order of strength."""
    labels = item.get("sides") or item.get("groups") or [None] * len(item["options"])
    table = sorted((float(s), list(p)) for s, p in (item.get("strengths") or {}).items())
    return {
        "id": item.get("id"),
        "context": item.get("context"),
        "prompt": item.get("prompt") or "",
        "options": list(zip(item["options"], labels, strict=False)),
        "strengths": table,
    }


def _facts(study: Study) -> list[tuple[str, str]]:
    """Name and value of what was measured on what, as far as the results say."""
    results = study.results
    task, model = results.get("task") or {}, results.get("model") or {}
    steering, wall = results.get("steering") or {}, results.get("wall_seconds") or {}
    items = task.get("items") or {}
    facts = [
        ("Model", model.get("name")),
        ("Weights", model.get("fingerprint")),
        ("Task", task.get("name")),
        ("Task digest", task.get("digest")),
        ("Items", ", ".join(f"{count:,} {kind}" for kind, count in items.items() if count)),
        ("Shares wanted", ", ".join(f"{group} {share:g}" for group, share in study.target.items())),
        ("Method", results.get("method")),
        ("Steering", steering.get("digest")),
        ("Steered", ", ".join(_sizes(steering))),
        ("Choice of ω", study.rule),
        (
            "Wall time",
            ", ".join(
                f"{k} {numbers.number(seconds, 1)} s"
                for k, v in wall.items()
                if (seconds := finite(v)) is not None
            ),
        ),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _sizes(steering: Mapping[str, Any]) -> list[str]:
    """How much is steered, as far as the results say."""
    nouns = {"sites": "site", "parameters": "parameter"}
    sizes = [counted(steering[key], noun) for key, noun in nouns.items() if key in steering]
    return [*sizes, f"{steering['nonzero']:,} of them not zero"] if "nonzero" in steering else sizes


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True) if value else ""

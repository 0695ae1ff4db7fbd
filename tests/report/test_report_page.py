"""The HTML report: every shape of results, its numbers, what it must never contain."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_samples as samples

from equipoise.decisions.decision import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness.summary import summarise
from equipoise.report import write_report
from equipoise.report.html import render
from equipoise.report.numbers import number
from equipoise.tasks.item import Item

SHAPES = {
    shape.__name__: shape
    for shape in (
        samples.sweep,
        samples.audit,
        samples.bare,
        samples.groups,
        samples.many_groups,
        samples.unfitting,
        samples.comparison,
    )
}
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Reads a page strictly: tags balance, ids are unique; collects tables, text and data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.data = ""
        self.in_data = False
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in values.items()]
        if "id" in values:
            self.ids.append(values["id"])
        self.in_data = values.get("id") == "data"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.in_data and self.open[-1] == "script":
            self.data += data
        if {"td", "th"} & set(self.open) and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, label: str) -> list[str]:
        """Cells of the last row of that name: the one of the table of all numbers."""
        return next(row[1:] for row in reversed(self.rows) if row and row[0].strip() == label)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_a_well_formed_page_of_modest_size(name: str) -> None:
    page = render(SHAPES[name]())
    read = Page(page)
    assert len(read.ids) == len(set(read.ids))
    assert len(page.encode()) < 500_000
    assert "None" not in page
    assert "nan" not in re.findall(r">\s*(\w+)\s*<", page.lower())


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_is_loaded_from_anywhere(name: str) -> None:
    page = render(SHAPES[name]())
    assert not re.search(r"https?:|//cdn|@import|url\(|<link|<iframe|<img|\bimport\s*\(", page)
    for tag, attribute, value in Page(page).attributes:
        assert attribute != "src", (tag, value)
        if attribute == "href":
            assert value.startswith("#")
    assert "default-src 'none'" in page


def test_labels_point_at_what_exists() -> None:
    read = Page(render(samples.comparison()))
    for _, attribute, value in read.attributes:
        if attribute in ("for", "aria-labelledby"):
            assert set(value.split()) <= set(read.ids)
        if attribute == "href":
            assert value[1:] in read.ids


def test_numbers_in_the_table_are_those_of_the_results() -> None:
    results = samples.sweep()
    read = Page(render(results))
    for label, path in {
        "Bias, by probability": ("per_occupation_bias",),
        "Bias, greedy decoding": ("per_occupation_bias_greedy",),
        "Bias, fair decoding": ("seeded_hash", "per_occupation_bias"),
        "Bias, held-out occupations": ("held_out", "per_occupation_bias"),
        "Unambiguous accuracy": ("unambiguous_accuracy",),
        "Abstention": ("abstention",),
        "Capability: tracking": ("capability", "tracking"),
    }.items():
        for cell, row in zip(read.row(label), results["sweep"], strict=True):
            told = row
            for key in path:
                told = told[key]
            places = [number(told[key]) for key in ("estimate", "low", "high")]
            assert cell == "{}[{}, {}]".format(*places)
    for label, path in {
        "Parity level of the plug-in": ("per_occupation_bias", "parity"),
        "Twin flips, greedy": ("twins", "greedy_flips"),
        "KL, ambiguous prompts": ("kl", "ambiguous"),
    }.items():
        assert read.row(label) == [number(row[path[0]][path[1]]) for row in results["sweep"]]
    shares = [number(row["shares"]["classes"]["male-list"]) for row in results["sweep"]]
    assert read.row("Share: male-list") == shares
    text = [f"{row['capability']['text']['estimate']:.2f}" for row in results["sweep"]]
    assert [cell.split("[")[0] for cell in read.row("Capability: text")] == text


@pytest.mark.parametrize("shape", [samples.sweep, samples.audit])
def test_the_parity_level_stands_beside_every_bias(shape: Any) -> None:
    read = Page(render(shape()))
    told = [row for row in read.rows if row[0].startswith("Bias, ") and "is better" in row[0]]
    assert len(told) == 6
    for row in told:
        assert all(re.search(r"plug-in\s0\.\d{3}, at\sparity\s0\.031$", c) for c in row[2:-1]), row
    (gap,) = (row for row in read.rows if row[0].startswith("Stereotype gap, pooledlower"))
    assert "parity" not in "".join(gap)


def test_shares_wanted_other_than_equal_ones_are_said() -> None:
    results = samples.groups()
    assert "anted" not in render(results)
    results["task"]["target"] = {"white_man": 0.4, "black_woman": 0.6}
    page = render(results)
    assert "Wanted: white_man 0.40 · black_woman 0.60." in page
    assert "<dt>Shares wanted</dt><dd>white_man 0.4, black_woman 0.6</dd>" in page


def test_of_many_groups_the_largest_share_is_written() -> None:
    results = samples.many_groups()
    results["chosen"]["strength"] = 0.2
    values = re.findall(r'<span class="value">([^<]*)</span>', render(results))
    told = results["sweep"][1]["by_occupation"].values()
    assert sorted(value for value in values if value != "–") == sorted(
        f"{max(entry['groups'].values()):.2f} north_f" for entry in told
    )
    assert " · " in re.findall(r'<span class="value">([^<]*)</span>', render(samples.groups()))[0]


def test_an_audit_has_no_drops() -> None:
    results = samples.audit()
    results["sweep"][0]["unambiguous_accuracy"]["drop"] = samples.drop(0.0)
    assert "drop against" not in render(results)


def test_the_script_knows_the_unsteered_row_wherever_it_stands() -> None:
    results = samples.sweep()
    against = copy.deepcopy(results["sweep"][1]) | {"strength": -0.5}
    results["sweep"].append(against)
    told = json.loads(Page(render(results)).data)["s0"]
    assert told["strengths"][:2] == [-0.5, 0.0]
    assert told["base"] == 1


def test_data_of_the_script_are_those_of_the_results() -> None:
    results = samples.sweep()
    page = render(results)
    told = json.loads(Page(page).data)["s0"]
    assert told["strengths"] == [row["strength"] for row in results["sweep"]]
    assert told["start"] == results["chosen"]["strength"]
    first = results["sweep"][0]["by_occupation"]
    names = re.findall(r'<li title="[\w-]+, n = 50"><span class="name">([\w-]+)', page)
    assert sorted(names) == sorted(first)
    unseen = re.findall(r'<span class="name">([\w-]+)', page.split("Never seen in the fit")[1])
    assert unseen == ["miller", "typist"]
    for row, soft, greedy in zip(
        results["sweep"], told["bars"]["probability"], told["bars"]["greedy"], strict=True
    ):
        known = row["by_occupation"] | row["held_out"]["by_occupation"]
        shares = [known[name] for name in (*names, *unseen)]
        assert soft == pytest.approx([s["pro"] - s["anti"] for s in shares], abs=1e-4)
        assert greedy == pytest.approx(
            [s["pro_greedy"] - s["anti_greedy"] for s in shares], abs=1e-4
        )
    before = told["bars"]["probability"][0][: len(names)]
    assert before == sorted(before, reverse=True)
    accuracy = [score[0] for score in told["scores"]["unambiguous"]]
    assert accuracy == [row["unambiguous_accuracy"]["estimate"] for row in results["sweep"]]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


HOSTILE = "</script><img src=x onerror=alert(1)>\" '{{ 7*7 }} </style> <!-- ]]> \u2028 &amp;"


def test_hostile_strings_are_text() -> None:
    results = samples.sweep()
    results["model"]["name"] = results["task"]["name"] = results["method"] = HOSTILE
    results["command"] = results["chosen"]["rule"] = HOSTILE
    results["config"] = {HOSTILE: HOSTILE}
    results["environment"] = {"x": HOSTILE}
    results["notes"] = [HOSTILE]
    results["worst_items"][0] |= {
        "id": HOSTILE,
        "prompt": HOSTILE,
        "options": [HOSTILE, "b", "c"],
        "context": HOSTILE,
    }
    for row in results["sweep"]:
        row["by_occupation"][HOSTILE] = row["by_occupation"].pop("nurse")
        row["capability"][HOSTILE] = row["capability"].pop("facts")
        row["shares"]["classes"][HOSTILE] = 0.5
        row["per_occupation_bias"]["left_out"] = {HOSTILE: HOSTILE}
        row["per_occupation_bias"]["warnings"] = [HOSTILE]
    page = render(results)
    assert "<img" not in page
    assert "{{ 7*7 }}" in page  # no template inside a string is run
    read = Page(page)
    assert page.count("<script") == page.count("</script>") == 3
    assert f"capability-{HOSTILE}" in json.loads(read.data)["s0"]["scores"]


def test_broken_numbers_are_dashes_not_nan() -> None:
    results = samples.sweep()
    for value, row in zip((float("nan"), float("inf"), None, "x"), results["sweep"], strict=False):
        row["per_occupation_bias"]["estimate"] = value
        row["kl"]["ambiguous"] = value
        row["by_occupation"]["nurse"]["pro"] = value
    read = Page(render(results))
    assert [cell[0] for cell in read.row("Bias, by probability")[:4]] == ["–"] * 4
    assert read.row("KL, ambiguous prompts")[:4] == ["–"] * 4
    json.loads(read.data, parse_constant=lambda name: pytest.fail(name))


def test_unequal_rows_and_odd_strengths() -> None:
    results = samples.sweep()
    rows = results["sweep"]
    rows.reverse()
    del rows[-1]["by_occupation"]["nurse"], rows[0]["by_occupation"]["pilot"]
    rows[0]["strength"], rows[0]["capability"] = 2.5, {}
    rows[1] |= {"held_out": None, "shares": None, "kl": None, "twins": None}
    read = Page(render(results))
    assert json.loads(read.data)["s0"]["strengths"] == [0, 0.2, 0.4, 0.6, 0.8, 2.5]
    rows[:] = [row for row in rows if row["strength"]]  # no unsteered row at all
    Page(render(results))


def test_many_occupations_and_strengths_stay_small() -> None:
    results = samples.sweep()
    for row in results["sweep"]:
        for name, share in list(row["by_occupation"].items()):
            row["by_occupation"][f"assistant {name}"] = share
    steps = [copy.deepcopy(row) | {"strength": row["strength"] + 0.1} for row in results["sweep"]]
    results["sweep"] += steps
    assert len(render(results).encode()) < 300_000


def test_worst_items_beyond_the_limit_are_counted() -> None:
    results = samples.sweep()
    results["worst_items"] *= 3
    assert "6 more are in results.json." in render(results)


def test_rows_measured_by_fairness_are_understood() -> None:
    rng = np.random.default_rng(0)
    items = [
        Item(
            id=f"{name}{twin}{pronoun}",
            prompt="?",
            options=("a", "b", "cannot tell"),
            contexts=(name,),
            sides=("pro", "anti", "abstain"),
            twin=f"{name}{twin}",
            classes=("x", "y", None),
        )
        for name in samples.OCCUPATIONS[:12]
        for twin in range(6)
        for pronoun in ("he", "she")
    ]
    noise = rng.normal(size=(len(items), 3))
    rows = [
        summarise(
            Decisions(tuple(items), log_softmax(noise + np.array([lean, 0, -2])), strength=strength)
        )
        for strength, lean in ((0.0, 2.0), (1.0, 0.2))
    ]
    results = {"model": {"name": "m"}, "task": {"name": "t"}, "method": "dso", "sweep": rows}
    read = Page(render(results | {"chosen": {"strength": 1.0, "rule": "r"}}))
    for label, key in (
        ("Bias, by probability", "per_occupation_bias"),
        ("Bias, greedy decoding", "per_occupation_bias_greedy"),
        ("Stereotype gap, pooled", "stereotype_gap"),
    ):
        told = [cell.split("[")[0] for cell in read.row(label)]
        assert told == [number(row[key]["estimate"]) for row in rows]
    assert len(read.row("Share: x, greedy")) == 2
    bars = json.loads(read.data)["s0"]["bars"]["probability"][0]
    signed = [entry["pro"] - entry["anti"] for entry in rows[0]["by_occupation"].values()]
    assert bars == pytest.approx(sorted(signed, reverse=True), abs=1e-4)


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = write_report(samples.sweep(), tmp_path / "report.html")
    before = path.read_text(encoding="utf-8")
    nothing: dict[str, Any]
    for nothing in ({"sweep": []}, {"results": []}):
        with pytest.raises(EquipoiseError, match="nothing to report"):
            write_report(nothing, path)
    assert path.read_text(encoding="utf-8") == before
    with pytest.raises(EquipoiseError, match="cannot write"):
        write_report(samples.sweep(), tmp_path / "absent" / "report.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(EquipoiseError, match="cannot write"):
        write_report(samples.sweep(), tmp_path / "folder.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "report.html"]


def test_many_occupations_do_not_bury_what_follows() -> None:
    """Most are folded away; the script still finds them in order."""
    results = samples.sweep()
    for row in results["sweep"]:
        entry = next(iter(row["by_occupation"].values()))
        row["by_occupation"] = {f"job {k}": entry | {"pro": 0.9 - k / 1000} for k in range(100)}
    page = render(results)
    names = re.findall(r'<span class="name">(job \d+)</span>', page)
    assert names == [f"job {k}" for k in range(100)]
    shown, rest = page.split("<summary>40 more</summary>")
    assert len(re.findall('class="name">job', shown)) == 60
    assert rest.index("</details>") < rest.index("All numbers")

"""The terminal's tables and the model card."""

from __future__ import annotations

import io
from typing import Any

import pytest
import report_samples as samples
import yaml
from rich.console import Console

from equipoise.errors import EquipoiseError
from equipoise.report import model_card, results_table
from equipoise.report.html import render
from equipoise.wording import counted

CONFIG = {"base_model_name_or_path": "org/model-1B", "revision": "abc123", "method": "dso"}


def printed(results: dict[str, Any], width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(results_table(results))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_sweep_fits_and_marks_the_chosen_row(width: int) -> None:
    text = printed(samples.sweep(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    lines = text.splitlines()
    chosen = next(line for line in lines if "▸" in line)
    told = "▸ 0.8 .071 [.053, .089] .031 .481 [.446, .516] .082 [.074, .090] .134"
    assert chosen.split() == told.split()
    heads = [" ".join(line.split()) for line in lines if "n = " in line]
    assert "ω n = 1,200 parity n = 1,200 n = 1,200 KL" in heads
    assert any("n = 900" in head for head in heads)
    assert "(drop against ω = 0 [one-sided 95 % limits])" in text
    assert ".989 (.002 [−.002, .006])" in text
    assert any(line.split()[:2] == ["0", ".430"] for line in lines)
    assert ".948 (.003 [−.001, .007])" in text
    assert ".951 [.941, .961]" in text  # unsteered: nothing dropped
    assert "14.25 (.003 [.002, .004])" in text
    assert "! Greedy answers still follow the stereotype." in text


def test_missing_is_a_dash_and_audit_marks_nothing() -> None:
    text = printed(samples.bare())
    assert [line.split() for line in text.splitlines() if line.strip().startswith("1 ")] == [
        ["1", "–", "–", "–", "1.000", "–"],
        ["1", "–"],
    ]
    assert "▸" not in printed(samples.audit())
    assert "14.21 [13.60, 14.90]" in printed(samples.audit())  # a perplexity


def test_no_number_is_cut_however_many_capabilities() -> None:
    for results, width in ((samples.audit(), 80), (samples.sweep(), 60), (samples.sweep(), 30)):
        told = "[.941, .961]" if len(results["sweep"]) == 1 else ".948 (.003 [−.001,"
        for row in results["sweep"]:
            facts = row["capability"]["facts"]
            row["capability"] = {f"skill-{number}": facts for number in range(5)}
        text = printed(results, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert text.count(told) == 5
        assert all(f"skill-{number}" in text for number in range(5))


def test_interpolated_choice_is_under_the_table() -> None:
    results = samples.sweep()
    results["chosen"]["strength"] = 0.75
    assert "chosen: 0.75, interpolated" in printed(results)


def test_one_thing_is_written_as_one() -> None:
    assert [counted(n, "site") for n in (0, 1, 2, 1024)] == [
        "0 sites", "1 site", "2 sites", "1,024 sites",
    ]  # fmt: skip
    results = samples.sweep()
    results["steering"] |= {"sites": 1, "parameters": 1, "nonzero": 1}
    assert "1 site, 1 parameter, 1 of them not zero" in render(results)
    assert "17 sites, 8,704 parameters, 6,120 of them not zero" in render(samples.sweep())


def test_a_benchmark_by_category_fits() -> None:
    names = ("accuracy_ambiguous", "s_amb", "accuracy_disambiguated", "s_dis", "false_abstention")
    cell = {name: samples.metric(-0.123) for name in names}
    results = samples.audit()
    results["sweep"][0]["benchmark"] = {
        "pooled": cell,
        "by_category": {"Disability_status": cell, "Physical_appearance": cell},
    }
    text = printed(results, 120)
    table = text[text.index("one by one") :].splitlines()[1:8]
    assert max(len(line.rstrip()) for line in table) <= 80
    assert {"disambiguated", "abstention"} <= {word for line in table for word in line.split()}
    assert ["Physical_appearance", *["−.123"] * 5] in [line.split() for line in table]


def test_comparison_has_a_row_for_each_method() -> None:
    text = printed(samples.comparison())
    assert max(map(len, text.splitlines())) <= 80
    methods = {"unsteered", "prompting", "caa", "fairsteer", "dso"}
    cells = {name: "" for name in methods}
    for line in text.splitlines():
        if (name := line.split(" ")[1:2]) and name[0] in methods and "[" in line:
            cells[name[0]] += line.split(name[0])[1]
    told = "◆ 0.8 1,200 .071 [.053, .089] .031 .481 [.446, .516] ◆ .989 (.002 [−.002, .006])"
    assert " ".join(cells["dso"].split()).startswith(told)
    assert "(.072 [.068, .076]) .003 [−.001, .007] .082 [.074, .090]" in " ".join(
        cells["caa"].split()
    )


def test_markup_in_names_is_text() -> None:
    results = samples.sweep()
    results["model"]["name"] = "[red]m[/red]"
    assert "[red]m[/red]" in printed(results)
    many = samples.comparison()
    many["results"][2]["method"] = "[red]caa"
    assert "[red]caa" in printed(many, 120)


def test_nothing_to_report() -> None:
    with pytest.raises(EquipoiseError, match="nothing to report"):
        printed({"sweep": []})


def parts(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_has_front_matter_table_and_three_lines_to_load() -> None:
    front, body = parts(model_card(samples.sweep(), CONFIG))
    assert front["base_model"] == "org/model-1B"
    assert front["library_name"] == "equipoise"
    assert "dso" in front["tags"]
    assert "| Bias, by probability | 0.430 [0.412, 0.448] | 0.071 [0.053, 0.089] | 1200 |" in body
    assert "| Capability: tracking | −0.002 [−0.006, 0.002] |" in body
    assert "| 0.8 (recommended) | 0.071 [0.053, 0.089] | 0.074 | 0.031 |" in body
    code = body.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    assert "strength=0.8" in code
    compile(code, "card", "exec")
    assert "at revision abc123" in body
    assert "**Warning.** Greedy answers" in body
    assert "free text, other languages" in body
    assert "Occupation lists: WinoBias, MIT." in body


def test_card_of_a_negative_strength_is_still_code() -> None:
    results = samples.sweep()
    results["chosen"]["strength"] = results["sweep"][0]["strength"] = -0.5
    body = parts(model_card(results, CONFIG))[1]
    assert "Recommended: ω = −0.5." in body
    assert "strength=-0.5)" in body


@pytest.mark.parametrize("chosen", [{"strength": 0.0, "rule": "nothing fits"}, None])
def test_card_recommends_no_strength_where_none_was_chosen(chosen: dict[str, Any] | None) -> None:
    body = parts(model_card(samples.unfitting() | {"chosen": chosen}, CONFIG))[1]
    assert "Recommended: ω = 0." in body
    assert "strength=0)" in body


@pytest.mark.parametrize("base", ["builtin:coreference", "/models/m", "./m"])
def test_base_model_only_where_the_hub_would_accept_it(base: str) -> None:
    front, body = parts(model_card(samples.sweep(), CONFIG | {"base_model_name_or_path": base}))
    assert "base_model" not in front
    assert base in body


def test_tables_keep_their_shape() -> None:
    results = samples.sweep()
    for row in results["sweep"]:
        row["capability"]["a|b\n*c* <b>"] = row["capability"].pop("facts")
    body = parts(model_card(results, CONFIG))[1]
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert "Capability: a\\|b \\*c\\* \\<b\\>" in body
    for line in tables:
        assert line.endswith("|")
    for line in tables:
        assert line.replace("\\|", "").count("|") in (3, 5, 6)


@pytest.mark.parametrize("shape", [samples.audit, samples.bare, samples.groups, samples.unfitting])
def test_card_of_every_shape(shape: Any) -> None:
    front, body = parts(model_card(shape(), {}))
    assert front["library_name"] == "equipoise"
    assert "None" not in body
    assert "\n\n\n" not in body

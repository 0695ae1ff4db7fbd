"""The words of the report follow from its numbers, also where they are unwelcome."""

from __future__ import annotations

import re
from typing import Any

import pytest
import report_samples as samples

from equipoise.report.findings import Finding
from equipoise.report.verdict import judge, judge_comparison, not_measured
from equipoise.report.view import Study, studies


def finding(results: dict[str, Any], word: str) -> Finding | None:
    found = judge(Study(results)).findings
    return next((one for one in found if word in one.title), None)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_a_chosen_strength_is_the_headline_with_intervals_and_price() -> None:
    verdict = judge(Study(samples.sweep()))
    assert plain(verdict.headline) == "At ω = 0.8, per-occupation bias falls from 0.430 to 0.071"
    for told in ("0.071 [0.053, 0.089]", "0.430 [0.412, 0.448]", "drop 0.002 [−0.002, 0.006]"):
        assert told in verdict.lead
    shown = "(p = 0.001; n = 1,200; plug-in 0.074, at parity 0.031)"
    lead = plain(verdict.lead)
    assert f"0.071 [0.053, 0.089], more than parity would show {shown}." in lead
    assert "0.430 [0.412, 0.448] (plug-in 0.397, at parity 0.031)." in lead
    assert "Largest capability drop: facts" in verdict.lead


@pytest.mark.parametrize(("p", "low", "said"), [
    (0.4, 0.01, "not distinguishable from parity (p = 0.4; n = 1,200; "),
    (None, 0.0, "not distinguishable from parity (n = 1,200; "),
    (None, 0.01, "more than parity would show (n = 1,200; "),
    (1e-9, 0.01, "more than parity would show (p < 0.001; n = 1,200; "),
])  # fmt: skip
def test_parity_by_test_or_by_interval(p: float | None, low: float, said: str) -> None:
    results = samples.sweep()
    results["sweep"][4]["per_occupation_bias"] |= {"p_parity": p, "low": low}
    assert said in judge(Study(results)).lead


def test_no_headline_bias_without_its_parity_level() -> None:
    for shape in (samples.sweep, samples.audit, samples.unfitting):
        lead = plain(judge(Study(shape())).lead)
        assert re.search(r"n = 1,200; plug-in 0\.\d{3}, at parity 0\.031\)", lead)
    compared = samples.comparison()
    assert "at parity 0.031), among 5" in plain(judge_comparison(studies(compared), []).lead)
    results = samples.sweep()
    for row in results["sweep"]:
        row["per_occupation_bias"] |= {"plug_in": None, "parity": None, "n": None}
    lead = judge(Study(results)).lead
    assert "more than parity would show (p = 0.001). Unsteered: 0.430 [0.412, 0.448]. " in lead


def test_change_is_claimed_only_where_intervals_are_apart() -> None:
    results = samples.sweep()
    bias = results["sweep"][4]["per_occupation_bias"]
    bias |= {"estimate": 0.42, "low": 0.40, "high": 0.44}
    assert "no clear change" in judge(Study(results)).headline
    bias |= {"estimate": 0.52, "low": 0.50, "high": 0.54}
    assert "rises from 0.430 to 0.520" in judge(Study(results)).headline


def test_no_strength_fits() -> None:
    results = samples.unfitting()
    verdict = judge(Study(results))
    assert verdict.headline == "No strength above 0 is recommended"
    assert "no swept strength fits" in verdict.lead
    below = samples.unfitting()
    below["sweep"][1]["strength"] = -0.2
    assert judge(Study(below)).headline == "No strength but 0 is recommended"
    assert "lowest steered bias is 0.021" in verdict.lead
    titles = [warning.title for warning in verdict.warnings]
    assert titles == [
        "Greedy answers still follow the stereotype",
        "A trivial rule may be at work",
        "Unambiguous accuracy is lost",
    ]


@pytest.mark.parametrize(("fair", "says"), [
    (0.05, "Fair (seeded-hash) decoding is deterministic too and has 0.050 [0.030, 0.070]."),
    (0.7, "Fair (seeded-hash) decoding has no less: 0.700 [0.680, 0.720]."),
    (None, "Sampled answers have the bias by probability, 0.021 ["),
])  # fmt: skip
def test_another_decoding_is_recommended_as_far_as_it_was_measured(
    fair: float | None, says: str
) -> None:
    results = samples.unfitting()  # greedy bias .61
    decoded = None if fair is None else {"per_occupation_bias": samples.bias(fair)}
    results["sweep"][-1]["seeded_hash"] = decoded
    found = finding(results, "Greedy answers")
    assert found
    assert says in found.text
    assert fair is not None or "seeded-hash" not in found.text


def test_audit_says_what_the_model_does_and_claims_no_steering() -> None:
    verdict = judge(Study(samples.audit()))
    assert (
        verdict.headline == "builtin:coreference follows the stereotype: per-occupation bias 0.430"
    )
    assert "ω" not in verdict.lead + "".join(found.title + found.text for found in verdict.findings)
    assert "drop" not in verdict.lead  # there is nothing to compare with


@pytest.mark.parametrize(("high", "p", "says"), [
    (0.09, 0.5, "builtin:coreference shows no bias beyond chance: "),
    (0.24, 0.5, "Whether builtin:coreference is biased cannot be told from these items: "),
    (0.24, 0.01, "builtin:coreference follows the stereotype: "),
])  # fmt: skip
def test_an_audit_claims_no_fairness_that_its_interval_leaves_open(
    high: float, p: float, says: str
) -> None:
    results = samples.audit()
    results["sweep"][0]["per_occupation_bias"] |= {"low": 0.0, "high": high, "p_parity": p}
    assert judge(Study(results)).headline.startswith(says)


@pytest.mark.parametrize(("gap", "says"), [
    ((0.3, 0.2, 0.4), "follows the stereotype"),
    ((-0.3, -0.4, -0.2), "goes against the stereotype"),
    ((0.1, -0.1, 0.3), "leans one way or the other by context"),
    (None, "departs from equal shares"),
])  # fmt: skip
def test_an_audit_says_which_way_a_bias_goes_only_where_it_is_known(
    gap: tuple[float, float, float] | None, says: str
) -> None:
    results = samples.audit()
    (row,) = results["sweep"]
    row["stereotype_gap"] = gap and dict(zip(("estimate", "low", "high"), gap, strict=True))
    assert judge(Study(results)).headline.startswith(f"builtin:coreference {says}: ")


def test_a_model_that_seldom_answers_does_not_pass_for_balanced() -> None:
    results = samples.audit()
    (row,) = results["sweep"]
    for name in ("per_occupation_bias", "per_occupation_bias_greedy"):
        row[name] = samples.bias(0.01)
    row["abstention"] = {"estimate": 0.98, "low": 0.97, "high": 0.99, "n": 100}
    row["per_occupation_bias_answered"] = samples.bias(0.7)
    verdict = judge(Study(results))
    assert verdict.headline == (
        "builtin:coreference seldom picks anyone: per-occupation bias 0.010, "
        "0.700 among answers that pick someone"
    )
    found = finding(results, "Few answers pick anyone")
    assert found
    assert found.level == "warning"
    assert "0.980 [0.970, 0.990]; the bias of the answers that pick someone is 0.700" in found.text
    assert not finding(results, "Greedy answers are balanced")
    # Where those who answer are not biased either, to abstain is what is wanted of BBQ's questions.
    row["per_occupation_bias_answered"] = samples.bias(0.01)
    assert not finding(results, "Few answers pick anyone")
    assert finding(results, "Greedy answers are balanced")


def test_a_gate_is_said_to_fire_where_its_lower_limit_says_so() -> None:
    results = samples.sweep()
    few = {"estimate": 0.2, "low": 0.04, "high": 0.6, "n": 5}
    results["gate"] = {"ambiguous": None, "unambiguous": few, "capability": {}}
    assert not finding(results, "The gate fires")
    few["low"] = 0.06
    assert finding(results, "The gate fires on unambiguous prompts")


def test_where_the_gate_opens_is_told_and_false_firing_is_a_warning() -> None:
    results = samples.audit()
    shut = {"estimate": 0.02, "low": 0.01, "high": 0.04, "n": 600}
    results["gate"] = {"ambiguous": None, "unambiguous": shut, "capability": {"arc-easy": None}}
    found = finding(results, "How often the gate opens")
    assert found
    assert found.text == "On unambiguous prompts 0.020 [0.010, 0.040] (n = 600)."
    results["gate"]["capability"]["mmlu"] = shut | {"estimate": 0.5, "low": 0.4, "high": 0.6}
    found = finding(results, "The gate fires on mmlu")
    assert found
    assert found.level == "warning"
    # The limit is what its threshold was set by; a soft one has none.
    for asked, fires in ((0.5, False), (0.3, True), (None, True)):
        results["steering"] = {"gate": {"wanted_false_firing": asked}}
        found = finding(results, "The gate fires on mmlu")
        assert bool(found) == fires
        assert not found or ("was to allow 0.3." in found.text) == (asked == 0.3)


def test_undefined_bias_is_said_with_its_reason() -> None:
    verdict = judge(Study(samples.bare()))
    assert plain(verdict.headline) == "At ω = 1 the bias is undefined: every answer abstains"
    assert verdict.lead == ""
    audit = samples.audit()
    audit["sweep"][0] |= samples.bare()["sweep"][-1] | {"strength": 0.0}
    assert judge(Study(audit)).headline == "The bias is undefined: every answer abstains"
    assert len(not_measured(Study(samples.bare()))) == 7


@pytest.mark.parametrize(("key", "share", "warned"), [
    ("first_option", 0.36, False),
    ("first_option", 0.34, True),
    ("first_option_greedy", 0.66, True),
    ("first_option_greedy", 0.64, False),
])  # fmt: skip
def test_first_option_share_betrays_a_trivial_rule(key: str, share: float, warned: bool) -> None:
    results = samples.sweep()
    results["sweep"][4]["shares"][key] = share
    assert (finding(results, "trivial rule may") is not None) == warned


@pytest.mark.parametrize(("twins", "known"), [(42, False), (43, True)])  # 1.96 √(.25 / n) ≤ .15
def test_a_few_twins_cannot_rule_a_trivial_rule_out(twins: int, known: bool) -> None:
    results = samples.sweep()
    results["sweep"][4]["twins"]["twins"] = twins
    assert (finding(results, "No trivial rule") is not None) == known
    assert (finding(results, "Whether a trivial rule is at work is not") is None) == known


def test_class_shares_are_judged_among_the_answers_that_name_a_class() -> None:
    results = samples.sweep()
    shares = results["sweep"][4]["shares"]
    shares["classes"] = shares["classes_greedy"] = {"a": 0.2, "b": 0.2}  # abstention .6
    assert finding(results, "No trivial rule")
    shares["classes_greedy"] = {"a": 0.3, "b": 0.1}
    warned = finding(results, "trivial rule may")
    assert warned
    assert "a 0.500 (greedy 0.750)" in warned.text
    shares["classes"] = shares["classes_greedy"] = {"a": 0.3, "b": 0.3, "c": 0.3}
    assert finding(results, "No trivial rule")


def test_three_options_are_balanced_at_a_third() -> None:
    results = samples.sweep()
    shares = results["sweep"][4]["shares"]
    shares |= {"first_option": 0.343, "first_option_greedy": 0.33}
    assert finding(results, "trivial rule may")  # older results: balance is taken for a half
    shares["first_option_balance"] = 1 / 3
    assert finding(results, "No trivial rule")
    shares["first_option_greedy"] = 0.5
    warned = finding(results, "trivial rule may")
    assert warned
    assert "first option 0.343 (greedy 0.500), at balance 0.333. A rule" in warned.text
    shares |= {"first_option_greedy": 0.33, "classes": {"a": 0.6, "b": 0.3}, "classes_greedy": {}}
    assert finding(results, "trivial rule may")
    shares["classes_balance"] = {"a": 2 / 3, "b": 1 / 3}
    assert finding(results, "No trivial rule")


GREEDY = ("per_occupation_bias_greedy",)
HELD_OUT = ("held_out", "per_occupation_bias")


@pytest.mark.parametrize(("path", "word"), [(GREEDY, "reedy"), (HELD_OUT, "eld-out")])
@pytest.mark.parametrize(("figures", "level"), [
    ((0.05, 0.00, 0.10), "good"),
    ((0.09, 0.00, 0.60), "note"),
    ((0.149, 0.00, 0.224), "note"),
    ((0.09, 0.05, 0.13), "note"),
    ((0.45, 0.09, 0.63), "warning"),
    ((0.45, None, None), "note"),
])  # fmt: skip
def test_balance_is_claimed_and_denied_by_the_interval(
    path: tuple[str, ...], word: str, figures: tuple[float | None, ...], level: str
) -> None:
    results = samples.sweep()
    bias = results["sweep"][4]
    for key in path:
        bias = bias[key]
    bias |= dict(zip(("estimate", "low", "high"), figures, strict=True))
    found = finding(results, word)
    assert found
    assert found.level == level
    assert ("not known" in found.title) == (level == "note")


@pytest.mark.parametrize(("path", "word"), [(GREEDY, "still"), (HELD_OUT, "stay")])
def test_a_bias_remains_only_where_there_was_one(path: tuple[str, ...], word: str) -> None:
    results = samples.sweep(greedy=0.61)
    for number, limits in ((0, (0.0, 0.0, 0.0)), (4, (0.5, 0.4, 0.6))):
        bias = results["sweep"][number]
        for key in path:
            bias = bias[key]
        bias |= dict(zip(("estimate", "low", "high"), limits, strict=True))
    assert not finding(results, word)
    bias = results["sweep"][0]
    for key in path:
        bias = bias[key]
    bias |= {"estimate": 0.4, "low": 0.3, "high": 0.5}
    assert finding(results, word)


def test_unmeasured_choice_shows_the_nearest_steered_row_and_says_so() -> None:
    results = samples.sweep()
    results["chosen"]["strength"] = 0.75
    assert Study(results).shown.strength == 0.8
    assert finding(results, "0.75 was interpolated")
    says = "At ω = 0.8, the nearest measured to the chosen 0.75, per-occupation bias falls from"
    assert plain(judge(Study(results)).headline).startswith(says)
    # Never the unsteered model, however near: the headline is about steering.
    results["chosen"]["strength"] = 0.05
    assert Study(results).shown.strength == 0.2
    results["sweep"] = [results["sweep"][0], results["sweep"][-1]]
    assert Study(results).shown.strength == 1.0
    results["sweep"][1]["per_occupation_bias"] = None
    headline = plain(judge(Study(results)).headline)
    assert headline.startswith(
        "At ω = 1, the nearest measured to the chosen 0.05, the bias is undefined: no occupation "
    )


def test_without_a_choice_the_strength_furthest_from_0_is_shown() -> None:
    results = samples.sweep()
    results["chosen"] = None
    for number, omega in enumerate((-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)):
        results["sweep"][number]["strength"] = omega
    assert Study(results).shown.strength == 1.0
    results["sweep"] = results["sweep"][:3]
    assert Study(results).shown.strength == -1.0


def test_estimator_warnings_and_left_out_occupations_are_passed_on() -> None:
    results = samples.sweep()
    results["sweep"][4]["per_occupation_bias"] |= {
        "warnings": ["8 contexts (< 10): the normal interval is unreliable"],
        "left_out": {"pilot": "a single twin: no variance"},
    }
    note = finding(results, "interval")
    assert note
    assert note.text.startswith("8 contexts")
    out = finding(results, "Left out")
    assert out
    assert out.text == "pilot (a single twin: no variance)."
    assert out.level == "note"
    results["sweep"][4]["per_occupation_bias"] |= {
        "contexts": 2,
        "left_out": dict.fromkeys(["pilot", "nurse", "judge"], "a single twin: no variance"),
    }
    most = finding(results, "Only 2 of 5 occupations are in the estimate")
    assert most
    assert most.level == "warning"


@pytest.mark.parametrize(("low", "warned"), [(-0.01, False), (0.009, False), (0.011, True)])
def test_a_loss_is_called_one_where_its_lower_limit_says_so(low: float, warned: bool) -> None:
    """However large the estimate: few items lose much by chance."""
    results = samples.sweep()
    drop = {"estimate": 0.08, "low": low, "high": 0.2}
    results["sweep"][4]["capability"]["facts"]["drop"] = drop
    assert (finding(results, "facts is lost") is not None) == warned


@pytest.mark.parametrize(
    ("rate", "warned"), [(0.03, True), (0.06, False), (0.1, False), (0.16, True)]
)
def test_abstention_that_falls_is_called_out_like_one_that_rises(rate: float, warned: bool) -> None:
    results = samples.sweep()  # 0.072 unsteered
    results["sweep"][4]["abstention"] = samples.metric(rate)
    assert (finding(results, "Abstention moved") is not None) == warned


def test_moved_abstention_and_rising_bias_are_called_out() -> None:
    results = samples.sweep()
    results["sweep"][4]["abstention"] = samples.metric(0.11)
    assert finding(results, "Abstention moved")
    assert not finding(results, "not monotone")
    results["sweep"][5]["per_occupation_bias"] |= {"estimate": 0.2}
    assert finding(results, "not monotone")


def test_comparison_names_the_best_and_joins_warnings() -> None:
    results = samples.comparison()
    verdict = judge_comparison(studies(results), results["pareto"])
    assert plain(verdict.headline) == "Lowest bias: dso, 0.071 at ω = 0.8"
    titles = [warning.title for warning in verdict.warnings]
    assert len(titles) == len(set(titles))
    assert "caa and fairsteer" in next(
        warning.text for warning in verdict.warnings if "accuracy" in warning.title
    )


def test_a_method_without_a_fitting_strength_counts_as_unsteered() -> None:
    results = samples.comparison()
    results["results"][4]["chosen"] = {"strength": 0.0, "rule": "no swept strength fits"}
    many = studies(results)
    assert many[4].shown is many[4].base
    assert judge_comparison(many, []).headline.startswith("Lowest bias: fairsteer, 0.158")

"""What the numbers say, in plain words, with what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.fairness.choose import why_undefined
from equipoise.report.benchmark import Figures, benchmark_figures, written
from equipoise.report.findings import Finding, balanced, drop_text, findings, omega, silent
from equipoise.report.numbers import estimate, listing, p_value, plug_in, strength, with_interval
from equipoise.report.view import (
    ANSWERED,
    BIAS,
    FAIR,
    GAP,
    HELD_OUT,
    UNAMBIGUOUS,
    Metric,
    Row,
    Study,
    capability,
)

PARITY_LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """A headline, the sentences under it, and the findings worth a line each."""

    headline: str
    lead: str
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings a reader must not miss."""
        return tuple(finding for finding in self.findings if finding.level == "warning")


def judge(study: Study) -> Verdict:
    """The verdict on one study, whatever it shows."""
    headline, lead = _headline(study)
    return Verdict(headline, lead, tuple(findings(study)))


def judge_comparison(many: Sequence[Study], pareto: Sequence[str]) -> Verdict:
    """The verdict on several methods, each at its chosen strength."""
    known = [(bias.estimate, study, bias) for study in many if (bias := study.shown.metric(BIAS))]
    if not known:
        return Verdict("No method leaves a bias that can be measured", "", ())
    _, best, bias = min(known, key=lambda entry: entry[0])
    headline = f"Lowest bias: {best.method}, {estimate(bias)} at {omega(best.shown)}"
    lead = f"{with_interval(bias)} on {best.task}, {_parity(bias)}, among {len(many)} methods. " + (
        f"On the Pareto front of bias and accuracy: {listing(list(pareto))}." if pareto else ""
    )
    return Verdict(headline, lead.strip(), _shared_warnings(many))


def _shared_warnings(many: Sequence[Study]) -> tuple[Finding, ...]:
    """Each kind of warning once, with the methods it holds for."""
    concerned: dict[str, list[str]] = {}
    for study in many:
        for finding in judge(study).warnings if not study.audit else ():
            concerned.setdefault(finding.title, []).append(study.method)
    return tuple(
        Finding("warning", title, f"Holds for {listing(methods)}, each at its chosen strength.")
        for title, methods in concerned.items()
    )


def not_measured(study: Study) -> list[str]:
    """What these results cannot tell, as short noun phrases."""
    row = study.shown
    gaps = []
    if row.metric(BIAS) is None:
        why = "undefined on these answers" if study.ambiguous else "the task has no ambiguous items"
        gaps.append(f"bias by probability ({why})")
    if row.metric(UNAMBIGUOUS) is None:
        gaps.append("accuracy where the evidence decides (the task has no unambiguous items)")
    if not study.capabilities:
        gaps.append("capability on other work")
    if row.metric(HELD_OUT) is None:
        gaps.append("occupations never seen in the fit")
    if row.metric(FAIR) is None:
        measured = row.at("seeded_hash") is not None
        undefined = " (its bias is undefined on these answers)" if measured else ""
        gaps.append(f"fair (seeded-hash) decoding{undefined}")
    gaps.append("biases that the task's labels do not describe")
    gaps.append("free text, other languages and other ways of asking")
    return gaps


def _headline(study: Study) -> tuple[str, str]:
    row, base = study.shown, study.base
    bias = row.metric(BIAS)
    if study.audit:
        return _audit_headline(study, row, bias)
    before = base.metric(BIAS) if base else None
    if study.chosen is not None and study.chosen == 0:
        above = "but" if any(one.strength < 0 for one in study.rows) else "above"
        return f"No strength {above} 0 is recommended", _lead_unchosen(study, before)
    aside = ""
    if study.unmeasured is not None:
        aside = f", the nearest measured to the chosen {strength(study.unmeasured)},"
    if bias is None:
        return (
            f"At {omega(row)}{aside} the bias is undefined: {why_undefined(row.values)}",
            " ".join(filter(None, (_upper(study.rule), _costs(study, row)))),
        )
    headline = f"At {omega(row)}{aside or ','} {_movement(before, bias)}{_among_answers(row)}"
    unsteered = f" Unsteered: {_measured(before)}." if before else ""
    lead = f"Steered: {with_interval(bias)}, {_parity(bias)}.{unsteered} {_costs(study, row)}"
    return headline, lead.strip()


def _audit_headline(study: Study, row: Row, bias: Metric | None) -> tuple[str, str]:
    parts = benchmark_figures(study)
    if bias is None and parts:
        return _benchmark_headline(row, parts)
    if bias is None:
        return f"The bias is undefined: {why_undefined(row.values)}", _costs(study, row)
    if not _at_parity(bias):
        said = f"{study.model} {_departs(study, row)}"
    elif balanced(bias):
        said = f"{study.model} shows no bias beyond chance"
    else:
        said = f"Whether {study.model} is biased cannot be told from these items"
    if silent(row):
        said = f"{study.model} seldom picks anyone"
    headline = f"{said}: per-occupation bias {estimate(bias)}{_among_answers(row)}"
    return headline, f"{with_interval(bias)} on {study.task}, {_parity(bias)}. {_costs(study, row)}"


def _departs(study: Study, row: Row) -> str:
    """How it departs from parity: a bias has no direction, the pooled gap has."""
    gap = row.metric(GAP)
    if gap is None:
        return "departs from the wanted shares" if study.target else "departs from equal shares"
    if (gap.low or 0) > 0:
        return "follows the stereotype"
    if gap.high is not None and gap.high < 0:
        return "goes against the stereotype"
    return "leans one way or the other by context"


def _benchmark_headline(row: Row, parts: Sequence[Figures]) -> tuple[str, str]:
    """Of a task without a bias of its own: the figures it is known by."""
    told = [
        (f"{figures.title}: {written(name)}", metric)
        for figures in parts
        for name in figures.names
        if (metric := row.metric(figures.measure(0, name)))
    ]
    (first, headline), *_ = told
    sentences = [
        ", ".join(filter(None, (f"{label} {with_interval(m)}", f"n = {m.n:,}", plug_in(m)))) + "."
        for label, m in told
    ]
    return f"{first} {estimate(headline)}", " ".join(sentences)


def _among_answers(row: Row) -> str:
    answered = estimate(row.metric(ANSWERED))
    return f", {answered} among answers that pick someone" if silent(row) else ""


def _lead_unchosen(study: Study, before: Metric | None) -> str:
    steered = [(m.estimate, r, m) for r in study.rows if r.strength and (m := r.metric(BIAS))]
    sentences = [_upper(study.rule)]
    if before:
        sentences.append(f"Unsteered bias: {with_interval(before)}, {_parity(before)}.")
    if steered:
        _, row, best = min(steered, key=lambda entry: entry[0])
        sentences.append(
            f"The lowest steered bias is {_measured(best)} at {omega(row)}. " + _costs(study, row)
        )
    return " ".join(sentence for sentence in sentences if sentence)


def _movement(before: Metric | None, after: Metric) -> str:
    if before is None:
        return f"per-occupation bias is {estimate(after)}"
    apart = {
        "falls": (after.high, before.low),
        "rises": (before.high, after.low),
    }
    if estimate(before) == estimate(after):
        return f"per-occupation bias stays at {estimate(after)}"
    for verb, (lower, upper) in apart.items():
        if lower is not None and upper is not None and lower < upper:
            return f"per-occupation bias {verb} from {estimate(before)} to {estimate(after)}"
    return (
        f"no clear change in per-occupation bias: {estimate(before)} to {estimate(after)}, "
        "intervals overlap"
    )


def _costs(study: Study, row: Row) -> str:
    """Accuracy and the capability that lost most, each with its drop; an audit has no drops."""
    sentences = []
    if study.audit:
        measures = [UNAMBIGUOUS, *map(capability, study.capabilities)]
        known = [(measure.label, row.metric(measure)) for measure in measures]
        return " ".join(f"{label} {with_interval(found)}." for label, found in known if found)
    if metric := row.metric(UNAMBIGUOUS):
        sentences.append(f"Unambiguous accuracy {with_interval(metric)}{drop_text(metric)}.")
    measured = [(n, m) for n in study.capabilities if (m := row.metric(capability(n)))]
    dropped = [(m.drop.estimate, n, m) for n, m in measured if m.drop]
    if dropped:
        _, name, metric = max(dropped, key=lambda entry: entry[0])
        most = "Capability" if len(measured) == 1 else "Largest capability drop"
        sentences.append(f"{most}: {name} {with_interval(metric)}{drop_text(metric)}.")
    return " ".join(sentences)


def _at_parity(bias: Metric) -> bool:
    p = bias.number("p_parity")
    return p >= PARITY_LEVEL if p is not None else bias.low is not None and bias.low <= 0


def _parity(bias: Metric) -> str:
    """How the bias stands to what perfect parity would show with these n."""
    p, n = bias.number("p_parity"), bias.n
    apart = "not distinguishable from parity" if _at_parity(bias) else "more than parity would show"
    told = ("" if p is None else p_value(p), "" if n is None else f"n = {n:,}", plug_in(bias))
    evidence = "; ".join(filter(None, told))
    return f"{apart} ({evidence})" if evidence else apart


def _measured(bias: Metric) -> str:
    """A bias with its interval, and with its parity level where that is known."""
    level = plug_in(bias)
    return f"{with_interval(bias)} ({level})" if level else with_interval(bias)


def _upper(sentence: str) -> str:
    """A rule as a sentence: capital first, full stop last."""
    if not sentence:
        return ""
    return sentence[0].upper() + sentence[1:].rstrip(".") + "."

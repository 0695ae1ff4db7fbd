"""Fit FairSteer: BAD (where is a biased answer coming?), DSV (which way?), DAS (steer there)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from equipoise.decisions.decide import decide
from equipoise.errors import EquipoiseError
from equipoise.methods.fairsteer import data, vector
from equipoise.methods.fairsteer.candidate import Candidate, best_blocks, steered_score
from equipoise.methods.fairsteer.config import FairSteerConfig
from equipoise.methods.fairsteer.labels import share_right
from equipoise.methods.gating.ambiguity import block_sites, refuse_chance
from equipoise.methods.gating.build import GateOptions, build_gate
from equipoise.methods.gating.report import opening_rate
from equipoise.methods.method import FitOutcome, FitRequest, counting, some_items
from equipoise.steering import Steering, SteeringInfo
from equipoise.tasks.item import Item

_MAX_JUDGED = 512


def fit(request: FitRequest, config: FairSteerConfig) -> FitOutcome:
    """Fit FairSteer to a task.

    Fits on the train split, chooses layer and threshold on validation. The preset ``as-released``
    does neither: it mixes all items, as the authors' code does, and says so in its notes.

    Returns:
        A steering that adds αv to the residual stream after the chosen blocks, under a probe
        (unless the gate is off); its history has a row for every block that was tried.

    Raises:
        EquipoiseError: Items without sides, one class only, a probe that cannot beat chance (unless
            forced), a vector of length zero, or letters that tokenise apart.
    """
    return _Fit(request, config).run()


class _Fit:
    def __init__(self, request: FitRequest, config: FairSteerConfig) -> None:
        self.request, self.config, self.model = request, config, request.model
        self.sites = block_sites(self.model, config.layer)
        if config.n_layers > len(self.sites):
            raise EquipoiseError(
                f"fairsteer: n_layers={config.n_layers}: the model has {len(self.sites)} blocks"
            )
        self.train, self.held_out = data.pools(request, config)
        self.judged = self._judged()

    def run(self) -> FitOutcome:
        config, request = self.config, self.request
        contrast = vector.contrast_items(
            self.train.items, config.per_context, seed=request.seed, permute=config.permute
        )
        told = counting(request.report, "vector", 2 * len(contrast))
        vectors = vector.contrast_vectors(self.model, contrast, self.sites, told)
        candidates = [
            Candidate(config.layer if config.layer is not None else number, site, v)
            for number, (site, v) in enumerate(zip(self.sites, vectors, strict=True))
        ]
        reading = None
        if config.gate != "off" or (config.layer_by == "probe" and config.layer is None):
            reading = self._probe(candidates)
        chosen = self._choose(candidates)
        for candidate in chosen:
            vector.refuse_useless(candidate.v, config.alpha, candidate.site)
        steering = self._steering(chosen)
        notes = [
            f"steers after {_named(chosen)} of {len(block_sites(self.model, None))}, "
            f"{self._how(candidates)}; vector of {len(contrast)} prompts, "
            f"norm {chosen[0].norm:.3g}, α = {config.alpha:g}, tokens: {steering.scope}"
        ]
        if passed := sum(map(self._at_chance, candidates)):
            notes.append(
                f"probes of {passed} of {len(candidates)} blocks do not beat chance: these were "
                "passed over for the gate"
            )
        extra: dict[str, Any] = {"layers": [candidate.layer for candidate in chosen]}
        if steering.gate is not None and reading is not None:
            said, found = self._gate_report(chosen[0], reading)
            notes += said
            extra |= found
        if config.splits == "released":
            notes.append(
                "as released: probe, layer and vector saw a random 80 % of ALL items, and were "
                "chosen on the rest: figures on the test split are not held out"
            )
        steering.info = SteeringInfo(extra=extra)
        return FitOutcome(steering, [candidate.figures() for candidate in candidates], tuple(notes))

    # ---- when

    def _probe(self, candidates: Sequence[Candidate]) -> data.Reading:
        """Give every candidate its probe; returns what they are judged on."""
        config, request = self.config, self.request
        told = counting(request.report, "read", len(self.train) + len(self.held_out))
        train = data.read(self.model, self.train, self.sites, request.normalise, told)
        data.refuse_one_class(train.examples, request.task)
        held_out = data.read(self.model, self.held_out, self.sites, request.normalise, told)
        options = GateOptions(
            soft=config.gate == "soft",
            unit=config.unit,
            false_firing=config.false_firing,
            c=config.penalty,
            standardise=config.standardise,
            balance=config.balance,
            hard=data.OWN_KINDS,
        )
        told = counting(request.report, "probe", len(candidates))
        for number, candidate in enumerate(candidates):
            candidate.gate, candidate.report = build_gate(
                candidate.site,
                train.examples.at(number),
                held_out.examples.at(number),
                options,
                tried=len(candidates),
            )
            if told:
                told(1)
        return held_out if len(held_out.ambiguous) else train

    def _gate_report(
        self, candidate: Candidate, reading: data.Reading
    ) -> tuple[list[str], dict[str, Any]]:
        """What is said of the gate, in words and as JSON.

        Raises:
            EquipoiseError: Its probe does not beat chance, and it is not forced.
        """
        gate, report = candidate.gate, candidate.report
        assert gate is not None
        assert report is not None
        refuse_chance(report, force=self.config.force_gate)
        rate = opening_rate(gate, reading.ambiguous.at(self.sites.index(candidate.site)))
        where = "held-out" if any(i.ambiguous for i in self.held_out.items) else "TRAINING"
        notes = [*report.notes(), f"gate opens on {rate} of all ambiguous {where} prompts"]
        return notes, {"gate": report.as_dict(), "ambiguous_rate": asdict(rate)}

    # ---- where

    def _choose(self, candidates: list[Candidate]) -> list[Candidate]:
        """The best blocks, in the order of the model.

        The first of them has the gate: its probe must beat chance.

        Raises:
            EquipoiseError: That of none does, or too few blocks come after the first whose does.
        """
        n = self.config.n_layers
        able = [k for k, candidate in enumerate(candidates) if not self._at_chance(candidate)]
        if not able:
            reports = [candidate.report for candidate in candidates if candidate.report]
            refuse_chance(max(reports, key=lambda report: report.balanced_accuracy), force=False)
        gates = [k for k in able if k <= len(candidates) - n]
        if not gates:
            raise EquipoiseError(
                f"fairsteer: n_layers={n}: the first block steered has the gate; the first whose "
                f"probe beats chance is {able[0]} of {len(candidates)} (from 0); set n_layers to "
                f"{len(candidates) - able[0]} at most, or force_gate=true"
            )
        # With one block steered, only that which has the gate; with several, those behind it too.
        tried = candidates[gates[0] :] if n > 1 else [candidates[k] for k in gates]
        if len(tried) > n:
            for number, candidate in enumerate(tried):
                candidate.score = self._score(candidate)
                if self.request.report:
                    self.request.report("fit", number + 1, len(tried), candidate.figures())
        return best_blocks(candidates, n, gates)

    def _at_chance(self, candidate: Candidate) -> bool:
        """Whether a block may not have the gate."""
        if self.config.gate == "off" or self.config.force_gate or candidate.report is None:
            return False
        return not candidate.report.beats_chance

    def _score(self, candidate: Candidate) -> float:
        if self.config.layer_by == "probe":
            assert candidate.report is not None
            return candidate.report.balanced_accuracy
        if vector.why_useless(candidate.v, self.config.alpha):
            return 0.0
        steering = self._steering([candidate])
        (found,) = decide(
            self.model,
            self.judged,
            steering=steering,
            strengths=[1.0],
            normalise=self.request.normalise,
        )
        own = found.subset(lambda item: item.sides is not None)
        return share_right(own) if self.config.layer_by == "accuracy" else steered_score(found)

    def _judged(self) -> list[Item]:
        """Items that layers are chosen on."""
        pool = self.held_out if self.held_out.items else self.train
        asked = [p for kind in pool.anchors.values() for p in kind if isinstance(p, Item)]
        asked = [item for item in asked if item.answer is not None]
        return [*some_items(pool.items, _MAX_JUDGED), *some_items(asked, _MAX_JUDGED)]

    def _how(self, candidates: Sequence[Candidate]) -> str:
        if self.config.layer is not None:
            return "as asked for"
        if all(candidate.score is None for candidate in candidates):
            return "the only choice"
        where = "held-out" if self.held_out.items else "TRAINING (none held out)"
        return f"chosen by {self.config.layer_by} on {where} items"

    # ---- what

    def _steering(self, chosen: Sequence[Candidate]) -> Steering:
        """Of several blocks, the first has the gate: it is read before anything is steered."""
        return Steering(
            {candidate.site: candidate.transform(self.config.alpha) for candidate in chosen},
            self.config.token_scope,
            chosen[0].gate if self.config.gate != "off" else None,
        )


def _named(chosen: Sequence[Candidate]) -> str:
    layers = ", ".join(str(candidate.layer) for candidate in chosen)
    return f"block{'s' if len(chosen) > 1 else ''} {layers} (from 0)"

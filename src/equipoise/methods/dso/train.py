"""The DSO loop: stratified twins, a policy gradient, KL to the base on both pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equipoise.decisions.score import Scores, score
from equipoise.errors import EquipoiseError
from equipoise.methods.dso import checkpoint, objective
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.policy import Rollout, draw, policy_loss
from equipoise.methods.dso.pools import Labels, Pool, Stratified, item_pool, text_pool
from equipoise.methods.dso.reward import Majority, rewards
from equipoise.methods.dso.sparsity import parts, proximal_l1, site_scale
from equipoise.methods.gating import GateReport, ambiguity_gate
from equipoise.methods.method import FitRequest
from equipoise.steering import Steering
from equipoise.tasks.item import Item

_SCALE_ROWS = 32
_BETAS = (0.9, 0.98)


@dataclass
class State:
    """All that changes from step to step: what a checkpoint holds."""

    step: int
    steering: Steering
    optimizer: torch.optim.Adam
    majority: Majority
    multipliers: Tensor
    calm: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Fits one steering.

    All randomness of a step follows from the seed and the step's number, so that a resumed fit
    takes the very same steps.
    """

    def __init__(self, request: FitRequest, config: DSOConfig) -> None:
        self.request, self.config = request, config
        model = self.model = request.model
        self.items = _ambiguous_items(request)
        self.ambiguous = item_pool(model, self.items)
        self.anchor_items = item_pool(model, request.anchors.items)
        self.anchor_texts = text_pool(
            model,
            request.anchors.texts,
            length=config.text_length,
            positions=config.text_positions,
            seed=request.seed,
        )
        width = self.ambiguous.options.shape[1]
        self.labels = Labels.of(self.items, request.task.target, width)
        self.draws = Stratified(self.items)
        self.twins = _Twins(self.items, width)
        abstain = self.labels.abstain.to(model.device)
        self.base_abstention = (self.ambiguous.options.softmax(-1) * abstain).sum(-1)
        steering = Steering.identity(
            model,
            parameters=config.parameters,
            foldable=config.foldable,
            final_norm=config.final_norm,
        )
        self.gate_report: GateReport | None = None
        if config.gate != "none":
            # It reads the unsteered prompt, so its decisions stay as they are while the map learns.
            steering.gate, self.gate_report = ambiguity_gate(
                request,
                soft=config.gate == "soft",
                layer=config.gate_layer,
                false_firing=config.gate_false_firing,
                force=config.force_gate,
            )
        spread = self.ambiguous.rows[:: max(1, len(self.items) // _SCALE_ROWS)]
        self.scale = site_scale(model, list(steering.transforms), spread[:_SCALE_ROWS])
        majority = Majority(self.items, self.draws.contexts, self.labels, self.ambiguous.options)
        self.state = State(0, steering, self._optimizer(steering), majority, torch.zeros(2))

    def _optimizer(self, steering: Steering) -> torch.optim.Adam:
        """Adam; a bias moves in units of its site's usual size, a slope has none."""
        groups = [
            {"params": [value], "size": 1.0 if name == "a" else float(self.scale[key].mean())}
            for key, name, value in parts(steering)
        ]
        return torch.optim.Adam(groups, lr=self.config.learning_rate, betas=_BETAS)

    def run(self) -> State:
        """Take the steps that are left, keeping a checkpoint every so many.

        Raises:
            EquipoiseError: The loss is not finite.
        """
        config, request = self.config, self.request
        digest = checkpoint.digest(request, config)
        if request.checkpoint is not None:
            checkpoint.restore(request.checkpoint, self.state, digest)
        with self.state.steering.applied(self.model, strength=1.0) as self._attachment:
            while self.state.step < config.steps and self.state.calm < config.patience:
                figures = self._step()
                self.state.history.append(figures)
                self.state.step += 1
                if request.checkpoint and self.state.step % config.checkpoint_every == 0:
                    checkpoint.keep(request.checkpoint, self.state, digest)
                if request.progress:
                    request.progress(self.state.step, config.steps, figures)
        return self.state

    def _step(self) -> dict[str, float]:
        config, state = self.config, self.state
        generator = torch.Generator().manual_seed(self.request.seed * 1_000_003 + state.step)
        rows, context, twin = self.draws.draw(config.twins_per_step, generator)
        items, texts = self._draw_anchors(generator)
        labels = self.labels.abstain[rows].to(self.model.device)
        rate = self._rate()
        rollout = None
        for epoch in range(config.ppo_epochs if config.estimator == "ppo" else 1):
            options, kl_ambiguous, kl_anchor = self._forward(rows, items, texts)
            probabilities = options.softmax(-1)
            if epoch == 0:
                if config.estimator != "exact":
                    drawn_from = [self.items[i] for i in rows]
                    rollout = draw(self.model, drawn_from, options, config, generator)
                reward = self._rewards(rows, context, probabilities, rollout)
            objective_loss = policy_loss(self.model, options, reward, rollout, config)
            abstained = (probabilities * labels).sum(-1)
            drift = abstained.mean() - self.base_abstention[rows].mean()
            gap = objective.twin_gap(options, *self.twins.pairs(rows, twin, options.device))
            penalty = self._kl_penalty(kl_ambiguous, kl_anchor)
            loss = (
                objective_loss
                + penalty
                + config.abstention_weight * drift.square()
                + config.twin_weight * gap
            )
            self._descend(loss, rate)
        if config.kl_control == "dual":
            self._raise_multipliers(float(kl_ambiguous.detach()), float(kl_anchor.detach()))
        bias = state.majority.bias()
        state.calm = state.calm + 1 if bias < config.stop_bias else 0
        return {
            "step": float(state.step + 1),
            "loss": float(loss.detach()),
            "reward": -float(objective_loss.detach()),
            "bias": bias,
            "kl_ambiguous": float(kl_ambiguous.detach()),
            "kl_anchor": float(kl_anchor.detach()),
            "abstention": float(abstained.detach().mean()),
            "twin_gap": float(gap.detach()),
        }

    def _forward(
        self, rows: Sequence[int], items: Sequence[int], texts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass over the step's items, one over its texts.

        Returns:
            float32 [rows, K], the ambiguous items' option scores; and the mean KL of each pool.
        """
        encoded = [self.ambiguous.rows[i] for i in rows]
        encoded += [self.anchor_items.rows[i] for i in items]
        found = score(self.model.hf, encoded, attachment=self._attachment)
        base = _base_nodes([(self.ambiguous, rows), (self.anchor_items, items)], found)
        kl = found.kl(base)
        ambiguous, anchor = kl[: len(rows)], kl[len(rows) :]
        if items:
            # The vocabulary's KL hardly sees options that hold little of the probability (he and
            # she in a cloze), so an anchor's decision among its options is held as well.
            base_options = self.anchor_items.options[items]
            decided = _of_width(found.options[len(rows) :], base_options.shape[1])
            anchor = anchor + objective.decision_kl(decided, base_options)
        if texts:
            chosen = [self.anchor_texts.rows[i] for i in texts]
            read = score(self.model.hf, chosen, attachment=self._attachment)
            anchor = torch.cat([anchor, read.kl(_base_nodes([(self.anchor_texts, texts)], read))])
        none = kl.new_zeros(())
        options = _of_width(found.options[: len(rows)], self.labels.abstain.shape[1])
        return options, ambiguous.mean(), anchor.mean() if len(anchor) else none

    def _draw_anchors(self, generator: torch.Generator) -> tuple[list[int], list[int]]:
        """Anchor items and texts, half and half where there are both."""
        n_items, n_texts = len(self.anchor_items), len(self.anchor_texts)
        share = self.config.anchors_per_step
        if n_items and n_texts:
            share = max(1, share // 2)
        items = torch.randperm(n_items, generator=generator)[:share].tolist()
        texts = torch.randperm(n_texts, generator=generator)[:share].tolist()
        return items, texts

    def _rewards(
        self,
        rows: Sequence[int],
        context: Sequence[int],
        probabilities: Tensor,
        rollout: Rollout | None,
    ) -> Tensor:
        """Rewards of each row's options, by what its context favours now.

        Sampled free text is judged by the shares of its answers, not by the options' scores.
        """
        if rollout is not None and rollout.samples is not None:
            probabilities = rollout.frequencies(probabilities.shape[1])
        return rewards(
            self.state.majority.observe(rows, context, probabilities),
            self.labels.group[list(rows)],
            self.labels.wanted[list(rows)],
            kind=self.config.reward,
            width=self.config.majority_width,
        ).to(self.model.device)

    def _kl_penalty(self, ambiguous: Tensor, anchor: Tensor) -> Tensor:
        if self.config.kl_control == "projection":
            # In units of the budgets, so that a tight budget pulls harder.
            weight = self.config.kl_ambiguous / self.config.kl_anchor
            return self.config.kl_weight * (ambiguous + weight * anchor) / 2
        first, second = self.state.multipliers.tolist()
        return first * ambiguous + second * anchor

    def _raise_multipliers(self, ambiguous: float, anchor: float) -> None:
        """Dual ascent on each pool's KL beyond its budget, in units of the budget."""
        config = self.config
        excess = torch.tensor([ambiguous / config.kl_ambiguous - 1, anchor / config.kl_anchor - 1])
        self.state.multipliers = (self.state.multipliers + config.dual_rate * excess).clamp(min=0)

    def _rate(self) -> float:
        """Learning rate of this step: cosine down to its final share."""
        done = self.state.step / max(1, self.config.steps - 1)
        floor = self.config.final_learning_rate
        share = floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
        return self.config.learning_rate * share

    def _descend(self, loss: Tensor, rate: float) -> None:
        """One Adam step, then the proximal step of the ℓ1 term at the same rate."""
        if not bool(loss.isfinite()):
            raise EquipoiseError(
                f"dso: the loss is not finite at step {self.state.step + 1}; lower learning_rate "
                f"(now {self.config.learning_rate}), or load the model in float32"
            )
        optimizer = self.state.optimizer
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * group["size"]
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                proximal_l1(parameter, group["lr"] * self.config.l1)


class _Twins:
    """For a batch of rows: each row's twin in the batch, and how their options correspond."""

    def __init__(self, items: Sequence[Item], width: int) -> None:
        self._items, self._width = items, width

    def pairs(
        self, rows: Sequence[int], twin: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """``align`` int64 [n, K] and ``partner`` int64 [n], −1 for a row without a twin."""
        align = torch.zeros(len(rows), self._width, dtype=torch.long)
        partner = torch.full((len(rows),), -1)
        for n, (i, number) in enumerate(zip(rows, twin, strict=True)):
            # Twins are drawn whole, one after another: the next member, or back to the first.
            members = [m for m in range(len(rows)) if twin[m] == number] if len(rows) else []
            other = members[(members.index(n) + 1) % len(members)]
            mine, theirs = self._items[i].options, self._items[rows[other]].options
            if other != n and sorted(mine) == sorted(theirs):
                partner[n] = other
                align[n, : len(mine)] = torch.tensor([theirs.index(option) for option in mine])
        return align.to(device), partner.to(device)


def _of_width(options: Tensor, width: int) -> Tensor:
    """Scores [n, K] with ``width`` columns: a batch is as wide as the most options in it."""
    return nn.functional.pad(options, (0, width - options.shape[1]), value=float("-inf"))


def _base_nodes(pools: Sequence[tuple[Pool, Sequence[int]]], found: Scores) -> Tensor:
    """The base's distributions at the nodes of a batch drawn from pools, in its node order."""
    stacked = torch.cat([pool.nodes[i] for pool, index in pools for i in index])
    order = torch.argsort(found.row, stable=True)  # stacked by row; nodes may not be
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return stacked[place]


def _ambiguous_items(request: FitRequest) -> list[Item]:
    items = [i for i in request.task.split("train") if i.ambiguous and (i.sides or i.groups)]
    if not items:
        raise EquipoiseError(
            f"task {request.task.name!r} has no ambiguous items in its train split to fit on"
        )
    if not request.anchors:
        raise EquipoiseError(
            f"task {request.task.name!r} has no anchors (unambiguous items of the train split) and "
            "none were given: pass --anchors FILE, or --capability, so that the fit knows what "
            "must not change"
        )
    return items

"""The DSO loop: stratified twins, a policy gradient, KL to the base on both pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from equipoise.decisions.openings import row_decisions
from equipoise.decisions.score import score
from equipoise.errors import EquipoiseError
from equipoise.methods.dso import checkpoint, objective
from equipoise.methods.dso.anchors import AnchorPools, base_nodes, of_width
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.policy import Rollout, draw, policy_loss
from equipoise.methods.dso.pools import Labels, Stratified, item_pool
from equipoise.methods.dso.reward import Majority, rewards
from equipoise.methods.dso.sparsity import parts, proximal_l1, site_scale
from equipoise.methods.dso.twins import pair_up
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
        self.ambiguous = item_pool(model, self.items, request.normalise)
        self.anchors = AnchorPools(request, config)
        width = self.ambiguous.options.shape[1]
        self.labels = Labels.of(self.items, request.task.target, width)
        self.draws = Stratified(self.items)
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
                reads=config.gate_reads,
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
            self._ask_gate()
            while self.state.step < config.steps and self.state.calm < config.patience:
                figures = self._step()
                self.state.history.append(figures)
                self.state.step += 1
                if request.checkpoint and self.state.step % config.checkpoint_every == 0:
                    checkpoint.keep(request.checkpoint, self.state, digest)
                if request.progress:
                    request.progress(self.state.step, config.steps, figures)
        return self.state

    def _ask_gate(self) -> None:
        """Ask the gate about every prompt once: it reads the unsteered model, which stays."""
        ask = partial(
            row_decisions,
            self.model.hf,
            attachment=self._attachment,
            batch_tokens=self.config.batch_tokens,
        )
        self._opens = ask(self.ambiguous.rows)
        self.anchors.opens = ask(self.anchors.items.rows), ask(self.anchors.texts.rows)

    def _step(self) -> dict[str, float]:
        config, state = self.config, self.state
        generator = torch.Generator().manual_seed(self.request.seed * 1_000_003 + state.step)
        rows, context, twin = self.draws.draw(config.twins_per_step, generator)
        anchors = self.anchors.draw(generator)
        labels = self.labels.abstain[rows].to(self.model.device)
        align, partner = pair_up([self.items[i] for i in rows], twin, labels.shape[1])
        align, partner = align.to(labels.device), partner.to(labels.device)
        rate = self._rate()
        rollout = None
        for epoch in range(config.ppo_epochs if config.estimator == "ppo" else 1):
            state.optimizer.zero_grad()
            on_ambiguous, on_anchors = self._kl_weights()
            kl_anchor = self.anchors.backward(self._attachment, anchors, on_anchors)
            options, kl_ambiguous = self._forward(rows)
            probabilities = options.softmax(-1)
            if epoch == 0:
                if config.estimator != "exact":
                    drawn_from = [self.items[i] for i in rows]
                    opens = None if self._opens is None else self._opens[rows]
                    rollout = draw(
                        self._attachment, self.model, drawn_from, options, config, generator, opens
                    )
                reward = self._rewards(rows, context, probabilities, rollout)
            objective_loss = policy_loss(
                self._attachment, self.model, options, reward, rollout, config
            )
            abstained = (probabilities * labels).sum(-1)
            drift = abstained.mean() - self.base_abstention[rows].mean()
            gap = objective.twin_gap(options, align, partner)
            loss = (
                objective_loss
                + on_ambiguous * kl_ambiguous
                + config.abstention_weight * drift.square()
                + config.twin_weight * gap
            )
            self._descend(loss, kl_anchor, rate)
        if config.kl_control == "dual":
            self._ascend(float(kl_ambiguous.detach()), kl_anchor)
        bias = state.majority.bias()
        state.calm = state.calm + 1 if bias < config.stop_bias else 0
        return {
            "step": float(state.step + 1),
            "loss": float(loss.detach()) + on_anchors * kl_anchor,
            "reward": -float(objective_loss.detach()),
            "bias": bias,
            "kl_ambiguous": float(kl_ambiguous.detach()),
            "kl_anchor": kl_anchor,
            "abstention": float(abstained.detach().mean()),
            "twin_gap": float(gap.detach()),
        }

    def _forward(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Option scores of the step's ambiguous rows, float32 [rows, K], and their mean KL."""
        encoded = [self.ambiguous.rows[i] for i in rows]
        opens = None if self._opens is None else self._opens[rows]
        found = score(self.model.hf, encoded, attachment=self._attachment, decisions=opens)
        kl = found.kl(base_nodes(self.ambiguous, rows, found))
        options = found.scored(self.request.normalise)
        return of_width(options, self.labels.abstain.shape[1]), kl.mean()

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

    def _kl_weights(self) -> tuple[float, float]:
        """Price of a nat on ambiguous prompts and on anchors: a tight budget pulls harder."""
        config = self.config
        if config.kl_control == "dual":
            ambiguous, anchor = self.state.multipliers.tolist()
            return ambiguous / config.kl_ambiguous, anchor / config.kl_anchor
        half = config.kl_weight / 2
        return half, half * config.kl_ambiguous / config.kl_anchor

    def _ascend(self, ambiguous: float, anchor: float) -> None:
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

    def _descend(self, loss: Tensor, kl_anchor: float, rate: float) -> None:
        """One Adam step (the anchors' gradient is there already), then the proximal step."""
        if not (bool(loss.isfinite()) and math.isfinite(kl_anchor)):
            raise EquipoiseError(
                f"dso: the loss is not finite at step {self.state.step + 1}; lower learning_rate "
                f"(now {self.config.learning_rate}), or load the model in float32"
            )
        optimizer = self.state.optimizer
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * group["size"]
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                proximal_l1(parameter, group["lr"] * self.config.l1)


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

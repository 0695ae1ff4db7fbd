"""The DSO loop: stratified twins, a policy gradient, KL to the base on both pools."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from equipoise.decisions.openings import row_decisions
from equipoise.errors import EquipoiseError
from equipoise.methods.dso import checkpoint, objective
from equipoise.methods.dso.anchors import AnchorPools
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.passes import Draw, Pass
from equipoise.methods.dso.policy import Rollout, draw, policy_loss
from equipoise.methods.dso.pools import Labels, Stratified, item_pool
from equipoise.methods.dso.reward import Majority, rewards
from equipoise.methods.dso.sparsity import parts, proximal_l1, site_scale
from equipoise.methods.dso.twins import pair_up
from equipoise.methods.gating import GateReport, ambiguity_gate
from equipoise.methods.method import FitRequest, counting, unfit
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
        anchors = request.anchors
        of = len(self.items) + len(anchors.items) + len(anchors.texts)
        told = counting(request.report, "base", of)
        self.draws = Stratified(self.items)
        drawn = {
            row for step in range(config.steps) for row in self._twins(self._generator(step))[0]
        }
        self.ambiguous = item_pool(model, self.items, request.normalise, told, drawn)
        self.anchors = AnchorPools(request, config, told)
        width = self.ambiguous.options.shape[1]
        self.labels = Labels.of(self.items, request.task.target, width)
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
            gate, self.gate_report = ambiguity_gate(
                request,
                soft=config.gate == "soft",
                layer=config.gate_layer,
                reads=config.gate_reads,
                false_firing=config.gate_false_firing,
                force=config.force_gate,
            )
            steering = Steering(steering.transforms, gate=gate, info=steering.info)
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
        return torch.optim.Adam(groups, lr=self.config.learning_rate, betas=_BETAS, fused=True)

    def run(self) -> State:
        """Take the steps that are left, keeping a checkpoint every so many.

        Raises:
            EquipoiseError: The loss, or the map after a step, is not finite.
        """
        config, request = self.config, self.request
        pools = self.ambiguous, self.anchors.items, self.anchors.texts
        digest = checkpoint.digest(request, config, [pool.rows for pool in pools])
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
                if request.report:
                    request.report("fit", self.state.step, config.steps, figures)
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

    def _generator(self, step: int) -> torch.Generator:
        """All randomness of a step."""
        return torch.Generator().manual_seed(self.request.seed * 1_000_003 + step)

    def _twins(self, generator: torch.Generator) -> tuple[list[int], list[int], list[int]]:
        """A step's rows, and of each its context and its twin: the first that is drawn."""
        return self.draws.draw(self.config.twins_per_step, generator)

    def _step(self) -> dict[str, float]:
        config, state, device = self.config, self.state, self.model.device
        generator = self._generator(state.step)
        rows, context, twin = self._twins(generator)
        anchors = self.anchors.draw(generator)
        labels = self.labels.abstain[rows].to(device)
        align, partner = pair_up([self.items[i] for i in rows], twin, labels.shape[1])
        align, partner = align.to(device), partner.to(device)
        opens = None if self._opens is None else self._opens[rows]
        weight = _every_twin_alike(twin).to(device)
        ambiguous = Draw(self.ambiguous, rows, weight, opens)
        paired = weight * (partner >= 0)
        rate = self._rate()
        rollout = None
        for epoch in range(config.ppo_epochs if config.estimator == "ppo" else 1):
            state.optimizer.zero_grad()
            on_ambiguous, on_anchors = self._kl_weights()
            read = self._read([ambiguous, *anchors])
            options = read.options[: len(rows), : labels.shape[1]]
            kl_ambiguous = (weight * read.kl[: len(rows)]).sum()
            kl_anchor = self.anchors.divergence(
                anchors, read.options[len(rows) :], read.kl[len(rows) :]
            )
            probabilities = options.softmax(-1)
            if epoch == 0:
                if config.estimator != "exact":
                    drawn_from = [self.items[i] for i in rows]
                    rollout = draw(
                        self._attachment, self.model, drawn_from, options, config, generator, opens
                    )
                reward = self._rewards(rows, context, probabilities, rollout)
            losses = policy_loss(self._attachment, self.model, options, reward, rollout, config)
            objective_loss = (weight * losses).sum()
            abstained = (weight * (probabilities * labels).sum(-1)).sum()
            drift = abstained - (weight * self.base_abstention[rows]).sum()
            gaps = objective.twin_gap(options, align, partner)
            gap = (paired * gaps).sum() / paired.sum().clamp(min=1e-12)
            loss = (
                objective_loss
                + on_ambiguous * kl_ambiguous
                + on_anchors * kl_anchor
                + config.abstention_weight * drift.square()
                + config.twin_weight * gap
            )
            self._descend(read, loss, rate)
        if config.kl_control == "dual":
            self._ascend(float(kl_ambiguous.detach()), float(kl_anchor.detach()))
        bias = state.majority.bias()
        state.calm = state.calm + 1 if bias < config.stop_bias else 0
        return {
            "step": float(state.step + 1),
            "loss": float(loss.detach()),
            "reward": -float(objective_loss.detach()),
            "bias": bias,
            "kl_ambiguous": float(kl_ambiguous.detach()),
            "kl_anchor": float(kl_anchor.detach()),
            "abstention": float(abstained.detach()),
            "twin_gap": float(gap.detach()),
        }

    def _read(self, draws: Sequence[Draw]) -> Pass:
        """The steered model's scores of a step's rows."""
        return Pass(
            self.model.hf,
            self._attachment,
            draws,
            width=max(draw.pool.options.shape[1] for draw in draws),
            normalise=self.request.normalise,
            batch_tokens=self.config.batch_tokens,
        )

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

    def _descend(self, read: Pass, loss: Tensor, rate: float) -> None:
        """One Adam step, then the proximal step."""
        self._check_finite("the loss", loss)
        optimizer = self.state.optimizer
        if loss.requires_grad:
            read.backward(loss)
        if all(value.grad is None for _, _, value in parts(self.state.steering)):
            raise EquipoiseError(
                "dso: no gradient reaches the steering: a part of the model has no backward pass "
                "(linears quantised at run time?); load it unquantised for the fit"
            )
        for group in optimizer.param_groups:
            group["lr"] = rate * group["size"]
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                proximal_l1(parameter, group["lr"] * self.config.l1)
        # Here, not only by the next step's loss: there may be none, or a checkpoint before it.
        learned = [value for _, _, value in parts(self.state.steering)]
        self._check_finite("the map", torch.nn.utils.get_total_norm(learned, math.inf))

    def _check_finite(self, what: str, value: Tensor) -> None:
        if not bool(value.isfinite()):
            raise EquipoiseError(
                f"dso: {what} is not finite at step {self.state.step + 1}; lower learning_rate "
                f"(now {self.config.learning_rate}), or load the model in float32"
            )


def _every_twin_alike(twin: Sequence[int]) -> Tensor:
    """Weights of a step's rows, float32 [n]: twins count the same, however many items they have."""
    members = Counter(twin)
    return torch.tensor([1.0 / (members[number] * len(members)) for number in twin])


def _ambiguous_items(request: FitRequest) -> list[Item]:
    if why := unfit(request.task, request.anchors):
        raise EquipoiseError(why)
    return [i for i in request.task.split("train") if i.ambiguous and (i.sides or i.groups)]

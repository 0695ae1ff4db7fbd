"""Is a steering applied, and the same everywhere? Measured on the user's own model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from equipoise.errors import EquipoiseError, SteeringError
from equipoise.models.model import Model, unwrap
from equipoise.steering import agreement
from equipoise.steering.attach.attachment import Attachment
from equipoise.steering.canary import canary
from equipoise.steering.check import Check, judged, with_ties
from equipoise.steering.choices import Recording, Replaying
from equipoise.steering.fold.model import fold
from equipoise.steering.prompts import random_prompts
from equipoise.steering.steering import Steering
from equipoise.wording import counted

_ROWS, _TOKENS, _NEW = 3, 12, 4


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found.

    Attributes:
        checks: In the order in which they were made.
        strength: ω at which they were made.
        dtype: Of the model's activations.
    """

    checks: tuple[Check, ...]
    strength: float
    dtype: str

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.ok is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable form."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    model: Model | nn.Module,
    steering: Steering,
    *,
    strength: float | None = None,
    input_ids: Tensor | None = None,
    allow_mismatch: bool = False,
    vllm: bool | None = None,
) -> VerifyReport:
    """Check a steering on a model: applied at every site, and the same on every path.

    The gate, if there is one, is held open, and a mask scope covers every other token. The model is
    in eval mode meanwhile, and generates greedily whatever its own settings say.

    Args:
        model: The base model, with nothing attached.
        steering: The steering.
        strength: ω; None: the recommended one, or 1 where none was chosen, or 0.
        input_ids: int64 [rows, tokens], at least two rows of two tokens, without padding; None:
            random tokens.
        allow_mismatch: As for ``attach``.
        vllm: Compare with vLLM too, which loads the model beside this process, twice; None: if it
            is installed.

    Raises:
        SteeringError: The steering cannot be attached to this model, which may also need more than
            token ids; or vLLM is not there.
    """
    from equipoise.steering.vllm.check import vllm_checks  # it measures as this module does

    called = model.hf if isinstance(model, Model) else model
    root = unwrap(model)
    if input_ids is not None and (input_ids.ndim != 2 or min(input_ids.shape) < 2):
        raise SteeringError(
            "verify needs input_ids of two rows or more, of two tokens or more each; got shape "
            f"{tuple(input_ids.shape)}"
        )
    omega = (steering.info.recommended_strength or 1.0) if strength is None else strength
    # Checked once with its gate and fingerprint, then held open.
    steering.attach(root, omega, allow_mismatch=allow_mismatch).detach()
    ids = random_prompts(root, _ROWS, _TOKENS) if input_ids is None else input_ids
    with torch.no_grad(), agreement.at_rest(root):
        bench = Bench(called, Steering(steering.transforms, steering.scope), omega, ids)
        checks = (
            bench.every_site(),
            bench.acts(),
            bench.zero(),
            bench.restored(),
            bench.rows(),
            bench.cached(),
            bench.folded(ungated=steering.gate is None),
            *vllm_checks(bench, ungated=steering.gate is None, wanted=vllm),
        )
    return VerifyReport(checks, omega, str(bench.base.dtype).removeprefix("torch."))


class Bench:
    """The model, the steering with its gate held open, and prompts to compare them on.

    Attributes:
        called: What is called: the model with nothing attached, or what wraps it (torch.compile).
        root: The model itself.
        steering: The steering.
        strength: ω.
        ids: int64 [rows, tokens].
        base: The model's logits.
        effect: What the steering does to them, float32.
        scale: The largest of them.
        tolerance: Of a difference, as a share of ``scale``.
    """

    @torch.no_grad()
    def __init__(self, called: nn.Module, steering: Steering, strength: float, ids: Tensor) -> None:
        self.called, self.root = called, unwrap(called)
        self.steering, self.strength, self.ids = steering, strength, ids
        root = self.root
        try:
            self.base = self.logits(ids)
        except (EquipoiseError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a model raises that wants an image, say
            raise SteeringError(
                f"{type(root).__name__} cannot be verified: its pass over token ids alone fails "
                f"({_said(error)})"
            ) from error
        self.scale = agreement.scale(self.base)
        with self.steered(strength):
            steered = self.logits(ids)
            self.effect = steered.float() - self.base.float()
            self.tolerance = agreement.tolerance(
                root, steering, steered, lambda: self.logits(ids), self.scale
            )

    def logits(self, ids: Tensor) -> Tensor:
        """Of a pass without a cache."""
        return self.called(input_ids=ids, use_cache=False).logits

    @contextmanager
    def steered(self, strength: Any, rows: slice = slice(None)) -> Iterator[Attachment]:
        """Attached, and told where prompts end: in the middle."""
        ids = self.ids[rows]
        with self.steering.applied(self.root, strength) as attachment:
            attachment.prompt_lengths = torch.full((len(ids),), ids.shape[1] // 2)
            attachment.mask = (torch.arange(ids.shape[1]) % 2 == 0).expand(ids.shape)
            yield attachment

    def difference(self, one: Tensor, other: Tensor) -> float:
        """The largest difference, as a share of the largest logit."""
        return agreement.difference(one, other) / self.scale

    def compare(
        self,
        name: str,
        one: Tensor,
        other: Tensor,
        noise: float = 0.0,
        effect: Tensor | None = None,
    ) -> Check:
        """Two ways to the same logits.

        Args:
            name: Of the check.
            one: Logits [parts, ...].
            other: Logits of the same shape.
            noise: How far apart the two ways lead without steering.
            effect: Of the steering, of the same shape; None: it is looked at elsewhere.
        """
        tolerance = max(self.tolerance, agreement.ROUNDINGS * noise)
        note = f"the base itself differs by {noise:.2g}" if tolerance > self.tolerance else ""
        lost, size = 0.0, 0.0
        if effect is not None:
            lost = agreement.lost(one.float() - other.float(), effect)
            size = effect.abs().max().item() / self.scale
        return judged(name, self.difference(one, other), tolerance, lost, size, note)

    def every_site(self) -> Check:
        """A canary, one added at every site, must show in every site's activation."""
        missed, idle = canary(self.root, self.steering, lambda: self.logits(self.ids))
        if missed:
            note = f"not applied at {', '.join(missed)}"
        elif idle:
            note = f"token ids alone do not run the blocks of {', '.join(idle)}"
        else:
            note = counted(len(self.steering.transforms), "site")
        ok = None if idle and not missed else not missed
        return Check("applied at every site", ok, len(missed), 0, note)

    def acts(self) -> Check:
        """The steering changes something."""
        found = self.effect.abs().max().item() / self.scale
        note = "" if found else "the steered model is the base"
        return Check("effect", found > 0, found, 0.0, note)

    def zero(self) -> Check:
        """At strength 0 the bits are the base's."""
        with self.steered(0.0):
            found = self.logits(self.ids)
        return Check("strength 0 is the base", *self._bits(found))

    def restored(self) -> Check:
        """So they are when the steering is off again."""
        return Check("base restored", *self._bits(self.logits(self.ids)))

    def _bits(self, found: Tensor) -> tuple[bool, float, float]:
        return torch.equal(found, self.base), self.difference(found, self.base), 0.0

    def rows(self) -> Check:
        """A strength per row, against one call per row."""
        n = len(self.ids)
        name = "per-row strength = single calls"
        strengths = torch.linspace(0, self.strength, n).tolist()
        try:
            with self.steered(strengths):
                together = self.logits(self.ids)
        except SteeringError as error:
            return Check(name, None, note=f"refused: {error}")
        alone, base = [], []
        for i, strength in enumerate(strengths):
            row = slice(i, i + 1)
            base.append(self.logits(self.ids[row]))
            with self.steered(strength, row):
                alone.append(self.logits(self.ids[row]))
        noise = self.difference(torch.cat(base), self.base)
        return self.compare(name, together, torch.cat(alone), noise, self.effect)

    def cached(self) -> Check:
        """Logits along a cached greedy generation, against one uncached pass over its result."""
        name = "cached = uncached"
        if not hasattr(self.root, "generate") or "mask" in self.steering.scope.parts:
            return Check(name, None, note="no generate, or the scope is a mask of the prompt")
        try:
            found, base, *_ = self._along(None)
        except Exception as error:  # as above
            return Check(name, None, note=f"the base's own generate fails ({_said(error)})")
        noise = self.difference(found, base)
        try:
            found, wanted, base, replay = self._along(self.strength)
        except SteeringError as error:
            return Check(name, None, note=f"refused: {error}")
        check = self.compare(name, found, wanted, noise, wanted.float() - base.float())
        # What it differs by without steering explains the difference, and is no rounding.
        explained = self.difference(found, wanted) <= agreement.ROUNDINGS * noise
        exact = not agreement.is_half(self.root, self.base)
        if check.ok is False and explained and noise > self.tolerance and exact:
            note = f"the base's own cached pass differs by {noise:.2g}, more than by rounding"
            return replace(check, ok=None, note=note)
        return with_ties(check, self.tolerance, replay.ties, replay.margin)

    def _along(self, strength: float | None) -> tuple[Tensor, Tensor, Tensor, Replaying]:
        """A greedy generation, steered or not (None), and the same tokens without a cache.

        Without one the model is made to choose its experts, and the tokens of sparse attention, as
        it did with one.

        Returns:
            Logits [new tokens, rows, vocabulary]: cached, uncached, uncached without steering; and
            the choices.
        """
        length, root = self.ids.shape[1], cast("Any", self.root)
        steered = nullcontext() if strength is None else self.steering.applied(root, strength)
        with steered as attachment, _plainly(root):
            with Recording() as made:
                out = root.generate(
                    self.ids,
                    attention_mask=torch.ones_like(self.ids),
                    max_new_tokens=_NEW,
                    min_new_tokens=_NEW,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            made = made.joined(len(self.ids), [length, *[1] * (_NEW - 1)])
            if attachment is not None:
                attachment.prompt_lengths = torch.full((len(self.ids),), length)
            with Replaying(made) as replay:
                whole = self.logits(out.sequences[:, :-1])
        with Replaying(made):
            base = self.logits(out.sequences[:, :-1])
        whole, base = (logits[:, length - 1 :].transpose(0, 1) for logits in (whole, base))
        return torch.stack(out.logits), whole, base, replay

    def folded(self, *, ungated: bool) -> Check:
        """Folded weights against the attached steering; ``ungated``: the steering has no gate."""
        name = "folded = attached"
        if not ungated or not self.steering.scope.everywhere:
            return Check(name, None, note="a gate or a token scope has no place in a checkpoint")
        try:
            other = fold(self.root, self.steering, self.strength)
        except SteeringError as error:
            return Check(name, None, note=f"does not fold: {error}")
        found = agreement.fold_agreement(
            self.root,
            other,
            self.steering,
            self.strength,
            lambda model: model(input_ids=self.ids, use_cache=False).logits,
            self.scale,
        )
        off, effect = found.difference / self.scale, found.effect / self.scale
        check = judged(name, off, found.tolerance, found.lost, effect)
        return with_ties(check, found.tolerance, found.ties, found.margin)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _plainly(root: Any) -> Iterator[None]:
    """Without the model's own generation settings (beams, drafting, guidance), but its cache."""
    from transformers import GenerationConfig

    own = root.generation_config
    root.generation_config = GenerationConfig(
        pad_token_id=own.pad_token_id, cache_implementation=own.cache_implementation
    )
    try:
        yield
    finally:
        root.generation_config = own

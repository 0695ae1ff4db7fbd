"""A steering on a vLLM engine: one strength for the whole engine."""

from __future__ import annotations

import math
import os
import tempfile
from typing import TYPE_CHECKING, Any

from equipoise.errors import SteeringError
from equipoise.models.fingerprint import explain, fingerprint

if TYPE_CHECKING:
    from equipoise.steering.steering import Steering

WORKER = "equipoise.steering.vllm.worker.SteeringWorker"
"""For ``vllm.LLM(..., worker_extension_cls=WORKER, enforce_eager=True)``."""


class VllmAttachment:
    """What :func:`attach` returns: set ``strength`` between calls, ``detach`` at the end."""

    def __init__(self, llm: Any, strength: float) -> None:
        self._llm, self._strength = llm, strength

    @property
    def strength(self) -> float:
        """ω, of every request.

        Setting it empties the prefix cache, which holds activations of one strength.

        Raises:
            SteeringError: Requests are running, or the steering was detached.
        """
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        _check_strength(value)
        _tell(self._llm, "equipoise_strength", value)
        self._strength = value

    def detach(self) -> None:
        """Take the steering off the engine.

        Raises:
            SteeringError: Requests are running.
        """
        _tell(self._llm, "equipoise_detach")


def attach(
    llm: Any, steering: Steering, strength: float = 1.0, *, allow_mismatch: bool = False
) -> VllmAttachment:
    """Steer every request of an engine from now on.

    One token is generated to see that vLLM calls every steered module.

    Args:
        llm: A ``vllm.LLM`` made with ``worker_extension_cls=WORKER`` and ``enforce_eager=True``.
        steering: Transforms at norm outputs, for all tokens, without a gate. It takes the place
            of one that is attached already.
        strength: ω.
        allow_mismatch: Take a model of other weights than the steering was made for. Otherwise
            the checkpoint is read a second time, to compare.

    Raises:
        SteeringError: It would not take effect here, fully, as made.
    """
    _check_strength(strength)
    _check_steering(steering)
    _check_engine(llm)
    if steering.info.fingerprint and not allow_mismatch:
        _check_weights(llm, steering)
    with tempfile.TemporaryDirectory() as scratch:
        folder = steering.save_pretrained(scratch)
        _tell(llm, "equipoise_attach", str(folder), strength)
    try:
        _one_token(llm)
        _tell(llm, "equipoise_missed")
    except BaseException:
        _tell(llm, "equipoise_detach")
        raise
    return VllmAttachment(llm, strength)


def _check_strength(value: float) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise SteeringError(
            f"strength must be one finite number, for the whole vLLM engine; got {value!r}"
        )


def _check_steering(steering: Steering) -> None:
    if steering.gate is not None or not steering.scope.everywhere:
        what = "a gate" if steering.gate is not None else f"the token scope '{steering.scope}'"
        raise SteeringError(
            f"a steering with {what} cannot be attached to vLLM, whose batches mix the tokens of "
            "all requests; serve it attached to transformers"
        )


def _check_engine(llm: Any) -> None:
    config = llm.llm_engine.vllm_config
    parallel = config.parallel_config
    if parallel.worker_extension_cls != WORKER:
        raise SteeringError(f"make the engine with LLM(..., worker_extension_cls={WORKER!r})")
    if not config.model_config.enforce_eager:
        raise SteeringError(
            "vLLM compiled this model and would ignore the steering: make the engine with "
            "LLM(..., enforce_eager=True), or fold the steering"
        )
    if parallel.world_size != 1 or parallel.data_parallel_size != 1:
        raise SteeringError(
            "a vLLM engine spread over several workers cannot be steered; fold the steering"
        )
    if config.kv_transfer_config is not None:
        raise SteeringError(
            "a vLLM engine that shares its KV cache cannot be steered: others would read "
            "activations of another strength; fold the steering"
        )


def _check_weights(llm: Any, steering: Steering) -> None:
    from equipoise.models.load import load

    config = llm.llm_engine.vllm_config.model_config
    # Offline, vLLM puts the cached folder in the place of the hub id, and keeps the revision.
    revision = None if os.path.isdir(config.model) else config.revision
    found = fingerprint(load(config.model, revision=revision, device="cpu"))
    expected = steering.info.fingerprint
    if expected and found != expected:
        raise SteeringError(explain(expected, found, steering.info.base_model_name_or_path))


def _one_token(llm: Any) -> None:
    from vllm import SamplingParams  # type: ignore[import-not-found]

    llm.generate(
        [{"prompt_token_ids": [0]}],
        SamplingParams(max_tokens=1, detokenize=False),
        use_tqdm=False,
    )


def _tell(llm: Any, method: str, *args: Any) -> None:
    """Call a method of the worker, with no request running and no cache of before.

    Raises:
        SteeringError: Requests are running, or the worker says no.
    """
    if llm.llm_engine.has_unfinished_requests() or not llm.reset_prefix_cache():
        raise SteeringError(
            "vLLM is working on requests: change the steering when they are finished"
        )
    for problem in llm.collective_rpc(method, args=args):
        if problem:
            raise SteeringError(problem)

"""lm-eval asks, the model answers at every strength: right or wrong, document by document."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM

from equipoise.decisions.encode import Encoded
from equipoise.decisions.ladder import BATCH_TOKENS, Progress, climb
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.tasks.item import Split
from equipoise.tasks.lm_eval import SHOT_SEED, LmEvalTask, foreign_errors, hushed

if TYPE_CHECKING:
    from equipoise.steering import Steering


def right_at(
    model: Model,
    task: LmEvalTask,
    split: Split,
    *,
    steering: Steering | None,
    strengths: Sequence[float],
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> np.ndarray:
    """Whether each document is answered rightly, by the task's metric.

    lm-eval builds the prompts, tokenises and judges; the log-likelihoods in between are read as
    those of items are, so that a gate and a token scope know where the prompt ends (lm-eval's own
    passes are padded and unmasked) and all strengths share a batch.

    Args:
        model: The model.
        task: The task.
        split: Which of its documents.
        steering: What is applied; None measures the base model.
        strengths: S strengths, 0 among them.
        batch_tokens: Tokens per forward pass, over all strengths.
        progress: Called with the number of documents just done.

    Returns:
        bool [S, n], documents task by task in ascending order.

    Raises:
        EquipoiseError: A chat template is asked for and there is none; a metric that is neither
            0 nor 1 for a document; a prompt that cannot be put to this model; an error
            of lm-eval's.
    """
    if task.chat and not model.tokenizer.chat_template:
        raise EquipoiseError("lm-eval.apply_chat_template: the model's tokenizer has no template")
    told = _Documents(task.count(split), progress)
    with hushed() as stderr:
        harness = _Harness(model, steering, strengths, batch_tokens, told, stderr)
    found = []
    with task.asking(split) as (asked, some):
        for harness.at in range(len(strengths)):
            for one in asked.values():
                one.set_fewshot_seed(SHOT_SEED)
            with hushed(), foreign_errors(f"lm-eval task {task.name!r} cannot be judged"):
                judged = evaluate(
                    harness,
                    asked,
                    samples=some,
                    bootstrap_iters=0,
                    apply_chat_template=task.chat,
                )["samples"]
            found.append(
                [
                    _value(sample, task.metric, name)
                    for name in asked
                    for sample in _first_filter(judged[name])
                ]
            )
    told.finish()
    return np.array(found, dtype=bool)


class _Harness(HFLM):
    """A model as lm-eval sees it; what it is asked once is known at every strength.

    Attributes:
        at: Which strength answers.
    """

    def __init__(
        self,
        model: Model,
        steering: Steering | None,
        strengths: Sequence[float],
        batch_tokens: int,
        told: _Documents,
        stderr: TextIO,
    ) -> None:
        # lm-eval gives tokenizers a padding token: to a copy.
        super().__init__(model.hf, backend="causal", tokenizer=copy.deepcopy(model.tokenizer))
        self.at = 0
        self._told, self._stderr = told, stderr  # where progress is shown
        self._ours, self._steering = model, steering
        self._strengths, self._batch_tokens = list(strengths), batch_tokens
        self._known: dict[tuple[str, str], list[tuple[float, bool]]] = {}

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what greedy decoding gives."""
        new = {request.args: request for request in requests if request.args not in self._known}
        if new:
            super().loglikelihood(list(new.values()), disable_tqdm=True)
        return [self._known[request.args][self.at] for request in requests]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        rows = [self._encoded(*request) for request in requests]
        copies = len(self._strengths)
        self._told.requests = len(rows)
        with contextlib.redirect_stderr(self._stderr):
            batches = climb(
                self._ours, rows, self._steering, self._strengths, self._batch_tokens, self._told
            )
            for index, found, _ in batches:
                repeated = [rows[i] for i in index for _ in self._strengths]
                following = [t for row in repeated for t in _continuation(row)]
                wanted = torch.tensor(following, device=found.nodes.device)
                missed = (found.nodes.argmax(-1) != wanted).float()
                misses = missed.new_zeros(len(repeated)).index_add(0, found.row, missed)
                sums, greedy = found.options[:, 0].tolist(), (misses == 0).tolist()
                answers = list(zip(sums, greedy, strict=True))
                for place, i in enumerate(index):
                    asked = requests[i][0]
                    self._known[asked] = answers[place * copies : (place + 1) * copies]
        return [self._known[asked][self.at] for asked, _, _ in requests]

    def _encoded(
        self, texts: tuple[str, str], context: list[int], continuation: list[int]
    ) -> Encoded:
        """A request cut from the left to what the model can read, as lm-eval does."""
        whole = (context + continuation)[-(self.max_length + 1) :]
        start = len(whole) - len(continuation)
        if not continuation or start < 1:
            raise EquipoiseError(
                f"lm-eval's answer {texts[1]!r} has {len(continuation)} tokens after its prompt; "
                f"the model reads 1 to {self.max_length}"
            )
        return Encoded(tuple(whole[:-1]), ((whole[-1],),), tuple(range(start - 1, len(whole) - 1)))


def _continuation(row: Encoded) -> tuple[int, ...]:
    """The tokens that a request's positions predict."""
    return (*row.prefix[row.positions[0] + 1 :], row.suffixes[0][0])


class _Documents:
    """Progress in documents, of work that is counted in requests."""

    def __init__(self, documents: int, progress: Progress | None) -> None:
        self.requests = 0
        self._documents, self._progress = documents, progress
        self._read = self._said = 0

    def __call__(self, requests: int) -> None:
        self._read += requests
        self._say(self._documents * self._read // max(self.requests, 1))

    def finish(self) -> None:
        """All are done."""
        self._say(self._documents)

    def _say(self, done: int) -> None:
        done = min(done, self._documents)
        if self._progress is not None and done > self._said:
            self._progress(done - self._said)
        self._said = max(done, self._said)


def _first_filter(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A task may judge each answer in several ways; its first is the one it is known by."""
    ours = [one for one in samples if one["filter"] == samples[0]["filter"]]
    return sorted(ours, key=lambda one: one["doc_id"])


def _value(sample: dict[str, Any], metric: str, task: str) -> bool:
    value = sample[metric]
    if value not in (0, 1):
        raise EquipoiseError(
            f"lm-eval task {task!r}, document {sample['doc_id']}: {metric} is {value}, neither "
            "right nor wrong"
        )
    return bool(value)

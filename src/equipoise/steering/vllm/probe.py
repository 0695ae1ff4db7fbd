"""A program that loads a checkpoint in vLLM and writes what it computes.

``python -m equipoise.steering.vllm.probe REQUEST.json RESULT.json``: in a process of its own,
because vLLM takes threads, memory and process-wide settings for itself and gives none back.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equipoise.steering.steering import Steering
from equipoise.steering.vllm.attachment import WORKER, attach

# The prompts are a few short rows: this holds their keys and values in models of any size.
_CACHE_BYTES = 2**28
# With the size of the cache given, what must be free to start with; the rest is found or not.
_MEMORY_SHARE = 0.05


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        checkpoint: Folder.
        dtype: Of weights and activations, as vLLM calls it.
        prompts: Token ids, all of one length.
        new: Tokens to generate greedily.
        artifact: A steering to attach afterwards; None: none.
        strength: ω.
    """

    checkpoint: str
    dtype: str
    prompts: list[list[int]]
    new: int
    artifact: str | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class Output:
    """What came out.

    Attributes:
        tokens: Each prompt and its greedy continuation.
        logprobs: Log-probability of each of these tokens but the first, given those before it.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]


@dataclass(frozen=True)
class Result:
    """Outputs without and with the artifact, each as far as it was reached.

    Attributes:
        version: Of vLLM.
        base: Of the checkpoint as it is.
        steered: With the artifact attached.
        error: What stopped it.
    """

    version: str
    base: Output | None = None
    steered: Output | None = None
    error: str = ""

    @classmethod
    def read(cls, path: Path) -> Result:
        """From the file the program writes."""
        values = json.loads(path.read_text(encoding="utf-8"))
        for name in ("base", "steered"):
            values[name] = values[name] and Output(**values[name])
        return cls(**values)


def run(request: Request) -> Result:
    """Load, run, attach, run."""
    import vllm  # type: ignore[import-not-found]

    base = steered = None
    try:
        llm = vllm.LLM(
            request.checkpoint,
            dtype=request.dtype,
            enforce_eager=True,
            worker_extension_cls=WORKER,
            skip_tokenizer_init=True,
            max_model_len=len(request.prompts[0]) + request.new,
            max_num_seqs=len(request.prompts),
            kv_cache_memory_bytes=_CACHE_BYTES,
            gpu_memory_utilization=_MEMORY_SHARE,
            disable_log_stats=True,
        )
        base = _generate(llm, request)
        if request.artifact is not None:
            steering = Steering.from_pretrained(request.artifact)
            # The caller has the model these weights came from, and has compared it.
            attach(llm, steering, request.strength, allow_mismatch=True)
            steered = _generate(llm, request)
    except Exception as error:  # whatever vLLM raises, what was reached so far is told
        return Result(vllm.__version__, base, steered, _last_line(error))
    return Result(vllm.__version__, base, steered)


def _generate(llm: Any, request: Request) -> Output:
    from vllm import SamplingParams

    settings = SamplingParams(
        temperature=0,
        max_tokens=request.new,
        ignore_eos=True,
        prompt_logprobs=0,
        logprobs=0,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": row} for row in request.prompts]
    tokens, logprobs = [], []
    for prompt, out in zip(
        request.prompts, llm.generate(prompts, settings, use_tqdm=False), strict=True
    ):
        row = [*prompt, *out.outputs[0].token_ids]
        # A prompt's first token has no log-probability.
        told = [*out.prompt_logprobs[1:], *out.outputs[0].logprobs]
        tokens.append(row)
        logprobs.append([at[t].logprob for t, at in zip(row[1:], told, strict=True)])
    return Output(tokens, logprobs)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic's last word is where to read about its errors.
    lines = [line for line in lines if not line.startswith("For further information")]
    return lines[-1] if lines else type(error).__name__


def main(request: str, result: str) -> None:
    """From file to file."""
    asked = Request(**json.loads(Path(request).read_text(encoding="utf-8")))
    Path(result).write_text(json.dumps(asdict(run(asked))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Steering inside vLLM: attach to a running engine, and check that the outputs are the same."""

from equipoise.steering.vllm.attachment import WORKER, VllmAttachment, attach

__all__ = ["WORKER", "VllmAttachment", "attach"]

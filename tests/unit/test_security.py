"""What is refused before it could run code, and what is never told."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thinkscale.domain.generation import EngineError
from thinkscale.domain.models import Teacher
from thinkscale.engines.chat import ChatEndpoint, chat_body
from thinkscale.runtime.failure import keep_logs, redacted, tell
from thinkscale.store.filesystem import Store
from thinkscale.store.models import ModelError, local_model
from tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
SECRET = "planted-secret-0123456789"


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt", "model.pkl"])
def test_weights_that_may_run_code_are_refused_in_a_sentence(tmp_path: Path, name: str, weights: bool) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    (model / "training_args.bin").write_bytes(b"")  # beside safetensors nobody reads it
    assert local_model(str(model), weights=weights) == model
    (model / "training_args.bin").unlink()
    for path in model.glob("*.safetensors"):
        path.rename(model / name)
    with pytest.raises(ModelError, match=rf"has its weights in {name}, which may run code when it is read: only"):
        local_model(str(model), weights=weights)


def test_a_model_that_needs_code_of_its_own_is_refused_in_a_sentence(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "own.Config"}}))
    (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert local_model(str(model)) == model  # transformers has code for it: that runs, and no other
    (model / "config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoConfig": "own.Config"}, "model_type": "ours"})
    )
    with pytest.raises(
        ModelError, match=r"needs Python code of its own \(auto_map in its config.json\), and such code"
    ):
        local_model(str(model))
    assert not (tmp_path / "ran").exists()


def test_errors_and_their_logs_hold_no_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_API_KEYS", "DB_PASSWORD", "aws_session_token"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    texts = [f"{SECRET}-{name}" for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_API_KEYS", "DB_PASSWORD")]
    error = RuntimeError(f"refused: {' '.join(texts)} {SECRET}-aws_session_token false")
    tell(error)
    keep_logs(error, Store(str(tmp_path)), "c", {})
    [log] = tmp_path.rglob("error.log")
    for said in (capsys.readouterr().err, log.read_text(), redacted(str(error))):
        assert SECRET not in said
        assert "refused: *** *** *** *** *** false" in said


@pytest.mark.parametrize("status", [401, 403, 400, 500])
def test_a_server_that_repeats_the_key_does_not_get_it_told(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("THINKSCALE_TEACHER_API_KEY", SECRET)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}"}}).encode()

    class Repeating(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Repeating) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        teacher = Teacher(model="tiny", endpoint=url)
        with pytest.raises(EngineError, match=r"Incorrect API key provided: \*\*\*") as raised:
            asyncio.run(ChatEndpoint(teacher).send("key", chat_body(teacher, "2+2?")))
        server.shutdown()
    assert SECRET not in str(raised.value)
    assert raised.value.__context__ is None, "no error that holds it is in the traceback"


def test_no_index_of_packages_is_named() -> None:
    """Installers know theirs, and users set their own; what is named here could not be mirrored."""
    hosts = re.compile(r"(?:download[.]pytorch|files[.]pythonhosted|(?:test[.])?pypi)[.]org")
    top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for name in ("docs", "jobs", "platform", "benchmarks") for path in (ROOT / name).rglob("*")]
    kept = (path for path in (*top, *below) if path.suffix != ".png" and "__pycache__" not in path.parts)
    files = [path for path in kept if path.is_file()]
    assert len(files) > 200
    assert [path.name for path in files if hosts.search(path.read_text(encoding="utf-8", errors="ignore"))] == []

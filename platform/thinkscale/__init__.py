"""The s1 recipe (simple test-time scaling) as a platform on Ray.
What is worth importing loads when it is first used: see docs/python.md."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "evaluate": "interface",
    "think": "interface",
    "Evaluated": "interface",
    "Budget": "domain.sample",
    "Question": "domain.question",
    "Sampling": "domain.generation",
    "Request": "domain.generation",
    "Completion": "domain.generation",
    "EngineInfo": "domain.generation",
    "ModelTokenizer": "engines.tokenizer",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'thinkscale' has no attribute {name!r}")
    return getattr(import_module(f"thinkscale.{_WHERE[name]}"), name)

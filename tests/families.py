"""Tokenizers cut from real ones, with chat templates that do what those of model families do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures" / "tokenizers"
_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n%s{% endif %}"
CHATML = _TURNS + _HEADER.replace("%s", "")
_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>%s{% endif %}"
)
_THINKS = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a model family's tokenizer and template do, and what must come of it."""

    tokenizer: str
    template: str | None = None
    """None: the real one, which came with the tokenizer."""
    tokens: tuple[str, ...] = ()
    """Added to the tokenizer, not flagged as special."""
    format: str
    setting: str = "auto"
    """What has to be said of the format."""
    start: str = "<think>\n"
    close: str = "</think>\n\n"
    before_end: str = "\n"
    switch: bool = False
    off: str | None = None
    """What the prompt without thinking ends in."""

    def write(self, directory: Path) -> Path:
        """The tokenizer's files."""
        directory.mkdir(parents=True, exist_ok=True)
        files = {name: json.loads((FIXTURES / self.tokenizer / name).read_text("utf-8")) for name in NAMES}
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        last = max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"]))
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        tokenizer["added_tokens"] += [
            {"id": last + 1 + i, "content": token, **plain} for i, token in enumerate(self.tokens)
        ]
        if self.template is not None:
            config["chat_template"] = self.template
        for name, content in files.items():
            (directory / name).write_text(json.dumps(content), "utf-8")
        return directory


NAMES = ("tokenizer.json", "tokenizer_config.json")
THINK = ("<think>", "</think>")
FAMILIES = {
    "qwen2.5": Family(
        tokenizer="qwen2_5", format="s1", start="<|im_start|>think\n", close="<|im_start|>answer\n",
        off="<|im_start|>think\n\n<|im_start|>answer\n",
    ),
    "qwen2.5-think": Family(tokenizer="qwen2_5", format="think", setting="think"),
    "qwen3": Family(tokenizer="qwen3", format="think", switch=True, off="<think>\n\n</think>\n\n"),
    "qwen3-thinking": Family(tokenizer="qwen3", template=_TURNS + _HEADER.replace("%s", "<think>\n"), format="think"),
    "qwen3-ordinary": Family(tokenizer="qwen2_5", template=_TURNS + _HEADER.replace("%s", _THINKS), format="think",
                             switch=True, off="<think>\n\n</think>\n\n"),
    "twice": Family(tokenizer="qwen3", template=_TURNS + _HEADER.replace("%s", "<think><think>\n"), format="think"),
    "llama3.1": Family(tokenizer="llama3_1", format="think", setting="think"),
    "llama3.1-date": Family(
        tokenizer="llama3_1", format="think", setting="think",
        template="{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: "
        "{{ strftime_now('%d %b %Y') }}{{ date_string }}<|eot_id|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "deepseek-v3": Family(tokenizer="deepseek_v3", format="think", setting="think"),
    "r1": Family(tokenizer="deepseek_v3", tokens=THINK, template=_R1.replace("%s", "<think>\n"), format="think"),
    "r1-no-newline": Family(tokenizer="deepseek_v3", tokens=THINK, template=_R1.replace("%s", "<think>"),
                            format="think", start="<think>", before_end=""),
    "deepseek-v3.1": Family(
        tokenizer="deepseek_v3", tokens=THINK, switch=True, off="<｜Assistant｜></think>",
        template=_R1.replace("%s", "{{ '<think>' if thinking else '</think>' }}")
        .replace("{{ m.content.split", "</think>{{ m.content.split"),
        format="think", start="<think>", before_end="", close="</think>",
    ),
    "glm": Family(
        tokenizer="qwen3", format="think", start="\n<think>", before_end="", close="</think>\n", switch=True,
        off="<|im_start|>assistant\n<think></think>",
        template="{% for m in messages %}<|im_start|>{{ m.role }}{{ '\n<think>' + (m.reasoning_content or '')"
        ".strip() + '</think>' if m.role == 'assistant' else '' }}{{ '\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant"
        "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{% endif %}",
    ),
    "kimi": Family(
        tokenizer="qwen3", format="think", start="<think>", before_end="", close="</think>",
        template="{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '<think></think>' if m.role == 'assistant' else '' }}"
        "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "nemotron": Family(
        tokenizer="qwen3", format="think", start="<think>\n\n",
        template=_TURNS.replace("<|im_end|>\n", "\n<|im_end|>\n\n") + _HEADER.replace("%s", "<think>\n\n"),
    ),
    "magistral": Family(
        tokenizer="llama3_1", tokens=("[THINK]", "[/THINK]", "[INST]", "[/INST]"), format="magistral",
        start="[THINK]", close="[/THINK]", before_end="",
        template="{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif "
        "m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    ),
    "gemma3": Family(tokenizer="gemma3", format="think", setting="think"),
    "gemma4": Family(
        tokenizer="gemma3", tokens=("<|channel>", "<channel|>", "<|think|>"), format="gemma", switch=True,
        start="<|channel>thought\n", close="<channel|>", before_end="", off="<|channel>thought\n<channel|>",
        template="{{ bos_token }}{% if enable_thinking %}<start_of_turn>system\n<|think|><end_of_turn>\n{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% if not enable_thinking | default(false) %}"
        "<|channel>thought\n<channel|>{% endif %}{% endif %}",
    ),
    "no-system": Family(
        tokenizer="qwen3", format="think",
        template="{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML,
    ),
    "gpt-oss": Family(
        tokenizer="gptoss", format="harmony", start="<|channel|>analysis<|message|>", before_end="",
        close="<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
}  # fmt: skip

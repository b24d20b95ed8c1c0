"""The report page in a real browser: it draws itself, answers clicks and stays silent on the console."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from made_samples import made_campaign, made_manifests, made_questions, made_samples
from thinkscale.report.page import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH")

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">😀 "

CLICKS = r"""
<script>
const wait = (what) => new Promise((done, fail) => {
  let tries = 0;
  const look = () => what() ? done() : ++tries > 400 ? fail(new Error("never: " + what)) : setTimeout(look, 10);
  look();
});
const text = selector => document.querySelector(selector)?.textContent ?? null;
const set = (name, value, event) => {
  const field = document.forms.filters.elements[name];
  field.value = value;
  field.dispatchEvent(new Event(event));
};
(async () => {
  const out = {};
  await wait(() => document.documentElement.dataset.ready);
  await wait(() => document.querySelectorAll(".chart svg").length >= 2);
  out.charts = document.querySelectorAll(".chart svg").length;
  out.sections = [...document.querySelectorAll("nav a")].map(a => a.textContent);
  document.querySelector("input.published").click();
  out.finding = text("p.finding");
  const drawn = selector => [...document.querySelectorAll(selector)];
  out.tiles = Object.fromEntries(drawn(".tile").map(t => [t.children[0].textContent, t.children[1].textContent]));
  const curve = document.querySelector(".chart svg");
  const labels = [...curve.querySelectorAll("text")].map(t => t.textContent);
  out.labels = ["accuracy", "thinking tokens used", "32", "64", "128", "+1", "+2"]
    .filter(label => !labels.some(t => t.startsWith(label)));
  out.dashed = [...curve.querySelectorAll("polyline")].map(l => l.getAttribute("stroke-dasharray"));
  out.axes = drawn(".chart svg text").map(t => t.textContent).filter(t => /\d{6,}/.test(t));
  out.dots = drawn("#groups .chart circle").length;
  out.funnel = drawn("#funnel .step").map(step => step.textContent);
  out.configuration = text("#configuration");
  await wait(() => drawn(".wide").every(wide => wide.scrollWidth <= wide.clientWidth + 2 || wide.closest("details")
    || wide.parentElement.classList.contains("more")));  // a wide table shows that there is more
  out.sticky = getComputedStyle(document.querySelector("#points td")).position;
  out.published = document.querySelector(".chart svg").textContent.includes("s1-32B 56.7%, published");
  out.note = text("p.note");
  const cell = (section, name, row) => {
    const head = [...document.querySelectorAll(section + " table th")].map(th => th.textContent);
    return document.querySelectorAll(section + " table tbody tr")[row].children[head.indexOf(name)].textContent;
  };
  out.alone = [cell("#points", "Cost alone", 0), cell("#points", "Per right answer", 11)];
  out.tail = cell("#cost", "Idle tail", 2);
  out.equal = [cell("#parallel", "Sequential there", 1), cell("#parallel", "Sequential there", 10)];
  out.all = text("#found");
  document.querySelector("#next").click();
  out.second = text("#found");
  set("verdict", "correct", "change");
  out.verdicts = drawn("#list summary .cell")
    .every(cell => [...cell.textContent.matchAll(/(\d+) of (\d+) right/g)].every(m => m[1] === m[2]));
  set("model", "tuned", "change");
  set("budget", "cap 256, 2 waits", "change");
  out.cells = [...new Set([...document.querySelectorAll("#list summary .cell")].map(cell => cell.textContent))];
  document.querySelector("#list summary").click();
  await wait(() => document.querySelector("#list .sample"));
  out.marked = text("#list .sample mark");
  out.thinking = text("#list .sample .text:nth-of-type(1)");
  out.hostile = document.querySelector("#list .sample").textContent.includes("document.title='broken'");
  out.elements = document.querySelectorAll("#list img, #list script").length;
  out.formula = document.querySelectorAll("#list .sample math").length;
  document.querySelector("#list .samples button").click();
  out.other = text("#list .sample .soft");
  out.link = document.querySelector("#list .link").hash;
  document.forms.filters.reset();
  set("outcome", "base\0tuned", "change");
  out.outcome = text("#found");
  out.regained = [...new Set(drawn("#list summary .cell").map(cell => cell.textContent.replace(/\d+/g, "n")))];
  location.hash = out.link;
  await wait(() => document.querySelector("#list details[open] .link")?.hash === out.link);
  out.linked = text("#list details[open] .sample .soft");
  set("search", "no such words", "input");
  out.nothing = text("#found");
  out.overflow = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  out.title = document.title;
  return out;
})().catch(error => ({ error: String(error) })).then(out => {
  const box = document.createElement("pre");
  box.id = "outcome";
  box.textContent = JSON.stringify(out);
  document.body.append(box);
});
</script>
"""


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """The page's DOM after its scripts ran, and what the browser logged to the console."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
            "--enable-logging=stderr", "--virtual-time-budget=20000", *flags, "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


MORE_CLICKS = """
<script>
(async () => {
  const wait = (what) => new Promise((done, fail) => {
    let tries = 0;
    const look = () => what() ? done() : ++tries > 2000 ? fail(new Error("never: " + what)) : setTimeout(look, 10);
    look();
  });
  const text = selector => document.querySelector(selector)?.textContent ?? null;
  const out = { pages: facts.samples_pages, notes: [] };
  await wait(() => document.documentElement.dataset.ready);
  while (document.querySelector("#more")) {
    const before = text("#samples-note");
    out.notes.push(before);
    document.querySelector("#more").click();
    await wait(() => text("#samples-note") !== before || text("#samples-section").includes("not beside"));
  }
  out.notes.push(text("#samples-note"));
  out.found = text("#found");
  out.missing = text("#samples-section").includes("samples-1.js is not beside this page.");
  return out;
})().catch(error => ({ error: String(error) })).then(out => {
  const box = document.createElement("pre");
  box.id = "outcome";
  box.textContent = JSON.stringify(out);
  document.body.append(box);
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = made_samples(
        models={"base": 0.3, "tuned": 0.9}, thinking=HOSTILE, failures=1, samples=2, benchmark="aime24"
    )
    metrics = [{"step": step, "loss": 3 / step, "learning_rate": 1e-5} for step in range(1, 50)]
    files = build_report(
        made_campaign(),
        samples,
        made_manifests(benchmark="aime24"),
        metrics,
        made_questions(benchmark="aime24"),
        ["A note."],
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(files["report.html"].replace(b"</body>", CLICKS.encode() + b"</body>"))
    return path


def outcome(dom: str) -> dict[str, Any]:
    found = re.search(r'<pre id="outcome">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    out: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert "error" not in out, out
    return out


def test_ten_thousand_samples_are_a_small_page_and_files_beside_it(tmp_path: Path) -> None:
    samples = made_samples(models={"base": 0.3, "tuned": 0.8}, questions=834)
    noise = random.Random(0)
    thinking = pa.array([noise.randbytes(700).hex() for _ in range(samples.num_rows)])  # 700 bytes do not get smaller
    samples = samples.set_column(samples.schema.get_field_index("thinking"), samples.schema.field("thinking"), thinking)
    assert samples.num_rows > 10_000
    files = build_report(made_campaign(), samples, made_manifests(), [], made_questions(questions=834))
    assert len(files["report.html"]) < 5_000_000
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    for directory in (alone, whole):
        directory.mkdir()
        for name, data in files.items():
            if directory == whole or not name.endswith(".js"):
                (directory / name).write_bytes(data.replace(b"</body>", MORE_CLICKS.encode() + b"</body>"))
    dom, console = browse(whole / "report.html", tmp_path / "profile", "--window-size=1200,900")
    out = outcome(dom)
    assert console == ""
    assert out["pages"] == sum(name.endswith(".js") for name in files) >= 3
    assert len(out["notes"]) == out["pages"] + 1
    assert "of 10,008 samples: a fixed random choice" in out["notes"][0]
    assert out["notes"][-1] == "All 10,008 samples."
    assert out["found"].startswith("10,008 samples of 834 questions, page 1 of")
    dom, _ = browse(alone / "report.html", tmp_path / "profile", "--window-size=1200,900")
    assert outcome(dom)["missing"]


@pytest.mark.parametrize(
    "flags", [("--window-size=1200,900",), ("--window-size=500,900", "--blink-settings=preferredColorScheme=0")]
)
def test_the_page_works_offline_without_console_errors(page: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    dom, console = browse(page, tmp_path, *flags)
    out = outcome(dom)
    assert console == ""
    assert out["charts"] == 5
    assert "aime24 tuned is better than base by" in out["finding"]
    assert {"Best base", "Best tuned", "tuned − base, points", "Cost", "Duration"} == out["tiles"].keys()
    assert out["tiles"]["Duration"] == "10 min"
    assert out["labels"] == []
    assert out["dashed"] == ["none", "5 4", "none", "5 4"]
    assert out["axes"] == []
    assert out["dots"] == 4
    assert out["funnel"][0] == "ingest1,900 of 1,920: 20 missing field"
    assert "evaluate.budgets.caps" in out["configuration"]
    assert "3 rows asked again after their engine died" in out["configuration"]
    assert "4 CPU, 1 GPU" in out["configuration"]
    assert "vllm 0.32.0 bfloat16" in out["configuration"]
    assert "benchmark sumssums.jsonl40 questions, hash " in out["configuration"]
    assert out["sticky"] == "sticky"
    assert out["sections"] == [
        "Scaling curve", "Points", "Parallel against sequential", "By domain", "Comparison", "Cost",
        "Funnel of the data", "Training", "Configuration", "Samples",
    ]  # fmt: skip
    assert out["all"] == "960 samples of 40 questions, page 1 of 2"
    assert out["second"] == "960 samples of 40 questions, page 2 of 2"
    assert out["verdicts"]
    assert set(out["cells"]) <= {"tuned 1 of 1 right", "tuned 2 of 2 right"}
    assert out["regained"] == ["tuned n of n right"]
    assert out["link"].startswith("#sample=base/aime24/aime24-q")
    assert out["linked"] == out["other"]
    assert out["marked"] == "Wait"
    assert out["hostile"]
    assert out["elements"] == 0
    assert out["formula"] == 2  # of the question: $3 + 0$ and $\\frac{3}{1}$
    assert "aime24" in out["other"]
    assert out["published"]
    assert out["note"] == "A note."
    assert out["alone"][0] == "$0.00086"  # 330 CPU-seconds, 78 samples of 24 + 6 tokens of the 10,000 that were decoded
    assert out["tail"] == "9.1%"
    assert out["equal"][1] == "12.5%"  # one sample of the largest cap is one sample
    assert out["nothing"] == "0 samples of 0 questions, page 1 of 1"
    assert not out["overflow"]
    assert out["title"] == "demo · thinkscale"

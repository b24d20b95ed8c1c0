"""The printed plots as PNG and SVG: scaling curves, and the funnel of a curation.
Owns their look. Takes points and steps, knows nothing of where they come from."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from thinkscale.report.metrics import Point, branches, curves, point_label
from thinkscale.store.lineage import FunnelStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6fde", "#d9622b", "#2a9d6f", "#8a56c2", "#b8860b", "#c2407a")
"""Of the first six models; they are told apart by marker and label too."""
MARKERS = "osD^vP"
KEPT, DROPPED = "#2f6fde", "#d6dbe4"
LONGEST_NAME, LONGEST_REASON = 40, 48


def draw_curves(found: Sequence[Point], *, title: str) -> dict[str, bytes]:
    """Accuracy against thinking tokens, one panel a benchmark, one line and band a model.
    Returns the images by format: `png` and `svg`. The same points give the same bytes."""
    grouped = curves(found)
    benchmarks = list(dict.fromkeys(benchmark for _, benchmark in grouped))
    models = list(dict.fromkeys(model for model, _ in grouped))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, max(len(benchmarks), 1), squeeze=False)[0]
        for panel, benchmark in zip(panels, benchmarks or ["no samples"], strict=True):
            for index, model in enumerate(models):
                if (model, benchmark) in grouped:
                    _draw_curve(panel, grouped[model, benchmark], index)
            if found:
                _double_ticks(panel, [max(p.mean_thinking_tokens, 1) for p in found if p.benchmark == benchmark])
            if len(benchmarks) > 1:
                panel.set_title(_plain(benchmark))
            panel.set_xlabel("thinking tokens used (mean)")
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            panel.set_ylim(bottom=0)
        panels[0].set_ylabel("accuracy, with 95% interval")
        figure.suptitle(_plain(": ".join([title, *benchmarks]) if len(benchmarks) == 1 else title))
        if models:
            labelled = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
            shown = {text: line for line, text in labelled}
            figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)

    return _images(6.2 if len(benchmarks) < 2 else 4.8 * len(benchmarks), 4.6, draw)


def draw_funnel(steps: Sequence[FunnelStep], *, title: str) -> dict[str, bytes]:
    """A bar for each stage: the rows that it kept and, behind, those that came in; the main reason for drops beside it.
    Returns the images by format: `png` and `svg`. The same steps give the same bytes."""

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        names = [step.artifact for step in steps]
        panel.barh(names, [step.rows_in for step in steps], color=DROPPED)
        panel.barh(names, [step.rows_kept for step in steps], color=KEPT)
        for place, step in enumerate(steps):
            panel.annotate(_told(step), (step.rows_in, place), (5, 0), textcoords="offset points", va="center", size=8)
        panel.set_xlim(0, 1.8 * max([step.rows_in for step in steps], default=1))
        panel.invert_yaxis()
        panel.set_xlabel("rows kept (blue) of those that came in (grey)")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title.replace("$", r"\$"))

    return _images(8.0, 1.2 + 0.45 * max(len(steps), 1), draw)


def _images(width: float, height: float, draw: Callable[[Figure], None]) -> dict[str, bytes]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = {}
    with matplotlib.rc_context({"svg.hashsalt": "thinkscale", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for name, metadata in (("png", {"Software": ""}), ("svg", {"Date": None, "Creator": ""})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name, dpi=160, metadata=metadata)
            images[name] = buffer.getvalue()
    return images


def _double_ticks(panel: Axes, tokens: Sequence[float]) -> None:
    low, high = math.log2(min(tokens)) - 0.2, math.log2(max(tokens)) + 0.4
    if math.floor(high) - math.ceil(low) < 1:
        low, high = math.floor(low), math.ceil(high)
    panel.set_xscale("log", base=2)
    panel.set_xlim(2**low, 2**high)
    panel.set_xticks([2**power for power in range(math.ceil(low), math.floor(high) + 1)], minor=False)


def _draw_curve(panel: Axes, curve: Sequence[Point], index: int) -> None:
    """Caps joined by a line, Waits from the largest cap on by a dashed one; every point says its budget."""
    colour, marker, name = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], _plain(curve[0].model)
    for budgets, style in (branches(curve)[0], "-"), (branches(curve)[1], "--"):
        waits = style == "--"
        if waits and len(budgets) < 2:
            continue
        x = [max(point.mean_thinking_tokens, 1) for point in budgets]
        y, low, high = ([100 * getattr(point, of) for point in budgets] for of in ("accuracy", "low", "high"))
        panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.plot(
            x, y, style, color=colour, marker=marker, markerfacecolor="white" if waits else colour,
            markevery=slice(1 if waits else 0, None), clip_on=False, zorder=3,
            label=f"{name}, with forced Waits" if waits else name,
        )  # fmt: skip
        for point, across, up in list(zip(budgets, x, y, strict=True))[waits:]:
            below = index % 2 == 0 and up > 0.1 * panel.get_ylim()[1]
            place = (6, -3) if waits else (-1, -13 if below else 6)
            panel.annotate(point_label(point), (across, up), place, textcoords="offset points",
                           ha="left" if waits else "center" if below else "right", size=7, color=colour)  # fmt: skip


def _told(step: FunnelStep) -> str:
    text = f"{step.rows_kept:,} of {step.rows_in:,}"
    if not step.dropped:
        return text
    reason, count = max(step.dropped.items(), key=lambda item: (item[1], item[0]))
    rest = sum(step.dropped.values()) - count
    others = f", {rest:,} for other reasons" if rest else ""
    return f"{text}; {count:,} {_plain(reason, LONGEST_REASON)}{others}"


def _plain(text: str, longest: int = LONGEST_NAME) -> str:
    """A name that fits and that the plotting library does not take for a formula."""
    shown = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return shown.replace("$", r"\$")

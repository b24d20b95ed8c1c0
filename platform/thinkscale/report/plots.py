"""Scaling curves as PNG and SVG.

Owns the look of the printed plots. Takes points, knows nothing of where they come from.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from thinkscale.report.metrics import Point, curves

COLOURS = ("#2f6fde", "#d9622b", "#2a9d6f", "#8a56c2", "#b8860b", "#c2407a")
"""Of the first six models; they are told apart by marker and label too."""
MARKERS = "osD^vP"
LONGEST_NAME = 40


def draw_curves(found: Sequence[Point], *, title: str) -> dict[str, bytes]:
    """Accuracy against thinking tokens, one panel a benchmark, one line and band a model.

    Returns:
        The images by format: `png` and `svg`. The same points give the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    grouped = curves(found)
    benchmarks = list(dict.fromkeys(benchmark for _, benchmark in grouped))
    models = list(dict.fromkeys(model for model, _ in grouped))
    with matplotlib.rc_context({"svg.hashsalt": "thinkscale", "font.size": 10, "svg.fonttype": "none"}):
        width = 6.2 if len(benchmarks) < 2 else 4.8 * len(benchmarks)
        figure = Figure(figsize=(width, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, max(len(benchmarks), 1), squeeze=False)[0]
        for panel, benchmark in zip(panels, benchmarks or ["no samples"], strict=True):
            for index, model in enumerate(models):
                if (model, benchmark) in grouped:
                    _draw_curve(panel, grouped[model, benchmark], index)
            tokens = [p.mean_thinking_tokens for (_, b), curve in grouped.items() if b == benchmark for p in curve]
            if _wide(tokens):
                panel.set_xscale("log", base=2)
            panel.set_title(_plain(benchmark))
            panel.set_xlabel("thinking tokens used (mean)")
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            panel.set_ylim(bottom=0)
            if models:
                panel.legend(frameon=False)
        panels[0].set_ylabel("accuracy, with 95% interval")
        figure.suptitle(_plain(title))
        images = {}
        for name, metadata in (("png", {"Software": ""}), ("svg", {"Date": None, "Creator": ""})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name, dpi=160, metadata=metadata)
            images[name] = buffer.getvalue()
    return images


def _draw_curve(panel: object, curve: Sequence[Point], index: int) -> None:
    colour = COLOURS[index % len(COLOURS)]
    x = [point.mean_thinking_tokens for point in curve]
    panel.plot(  # type: ignore[attr-defined]  # matplotlib's Axes, imported only where it is drawn
        x, [100 * point.accuracy for point in curve], color=colour, marker=MARKERS[index % len(MARKERS)],
        label=_plain(curve[0].model),
    )  # fmt: skip
    low, high = [100 * point.low for point in curve], [100 * point.high for point in curve]
    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)  # type: ignore[attr-defined]
    waits = [point for point in curve if point.num_waits]
    panel.plot(  # type: ignore[attr-defined]
        [point.mean_thinking_tokens for point in waits], [100 * point.accuracy for point in waits], color=colour,
        linestyle="none", marker=MARKERS[index % len(MARKERS)], markerfacecolor="white",
        label=f"{_plain(curve[0].model)}, with forced Waits" if waits else None,
    )  # fmt: skip


def _wide(x: Sequence[float]) -> bool:
    """Whether token counts span so much that a logarithmic axis shows them better."""
    return bool(x) and min(x) > 0 and max(x) >= 8 * min(x)


def _plain(text: str) -> str:
    """A name that fits and that the plotting library does not take for a formula."""
    shown = text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
    return shown.replace("$", r"\$")

"""The funnel of a curation as PNG and SVG. Owns its look; knows nothing of how a stage decides."""

from __future__ import annotations

import io
from collections.abc import Sequence

from thinkscale.store.lineage import FunnelStep

KEPT, DROPPED = "#2f6fde", "#d6dbe4"
LONGEST_REASON = 48


def draw_funnel(steps: Sequence[FunnelStep], *, title: str) -> dict[str, bytes]:
    """A bar for each stage: the rows that it kept and, behind, those that came in; the main reason for drops beside it.

    Returns:
        The images by format: `png` and `svg`. The same steps give the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = {}
    with matplotlib.rc_context({"svg.hashsalt": "thinkscale", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.0, 1.2 + 0.45 * max(len(steps), 1)), layout="constrained")
        FigureCanvasAgg(figure)
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
        panel.set_title(title.replace("$", r"\$"))
        for name, metadata in (("png", {"Software": ""}), ("svg", {"Date": None, "Creator": ""})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name, dpi=160, metadata=metadata)
            images[name] = buffer.getvalue()
    return images


def _told(step: FunnelStep) -> str:
    text = f"{step.rows_kept:,} of {step.rows_in:,}"
    if not step.dropped:
        return text
    reason, count = max(step.dropped.items(), key=lambda item: (item[1], item[0]))
    shown = reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 1]}…"
    rest = sum(step.dropped.values()) - count
    others = f", {rest:,} for other reasons" if rest else ""
    return f"{text}; {count:,} {shown}{others}".replace("$", r"\$")

"""Charts for reports: SVG in a data URI, as neither of Prefect's web UIs shows inline SVG."""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Text stays text, in the reader's fonts: Japanese names need no font here.
STYLE: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "report"}
GOOD, BAD, LIMIT, OTHER, GREY = "#2f6f9f", "#b3372f", "#b3372f", "#c58b1f", "#808080"
Points = Sequence[tuple[datetime, float]]


def bars(alternative: str, seconds: Mapping[str, float]) -> str:
    """Return a chart with one bar per phase, in order from the top, as Markdown."""
    figure = _figure(figsize=(8, 0.6 + 0.36 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(list(seconds), list(seconds.values()), color=GOOD)
    axes.bar_label(drawn, [f"{value:.1f} s" for value in seconds.values()], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds")
    _bare(axes)
    return _markdown(figure, alternative)


def against_limit(alternative: str, points: Sequence[tuple[datetime, float, bool]], limit_seconds: float) -> str:
    """Return a chart of durations and of their limit, as Markdown, on a logarithmic scale."""
    figure = _figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(limit_seconds, color=LIMIT, linestyle="--")
    axes.annotate(
        "limit", (0, limit_seconds), (4, -12), xycoords=("axes fraction", "data"), textcoords="offset points", color=LIMIT
    )
    labels = [f"{instant:%m-%d %H:%M}" for instant, _, _ in points]
    places = range(len(points))
    values = [value for _, value, _ in points]
    axes.plot(places, values, color=GOOD, zorder=1)
    axes.scatter(places, values, c=[GOOD if passed else BAD for _, _, passed in points], zorder=2)
    axes.set_xticks(list(places), labels, rotation=30, ha="right")
    axes.set_yscale("log")
    axes.set_ylim(min([*values, limit_seconds]) / 2, limit_seconds * 2)
    axes.set_ylabel("seconds")
    _bare(axes)
    return _markdown(figure, alternative)


def over_time(alternative: str, series: Mapping[str, Points], unit: str, limit: float | None = None) -> str:
    """Return a chart over time, as Markdown: lines and a limit, or dots on a logarithmic scale.

    Instants are shown in the zone that they have.
    """
    figure = _figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.xaxis_date(next(instant.tzinfo for points in series.values() for instant, _ in points))
    for (name, points), color in zip(series.items(), (GOOD, OTHER, GREY, BAD), strict=False):
        style: Any = {"linewidth": 1} if limit else {"linestyle": "", "marker": "o", "markersize": 3}
        instants: Any = [instant for instant, _ in points]
        axes.plot(instants, [value for _, value in points], color=color, label=name, **style)
    if limit:
        axes.axhline(limit, color=LIMIT, linestyle="--", label="limit")
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_ylabel(unit)
    axes.tick_params("x", rotation=30)
    _bare(axes)
    return _markdown(figure, alternative)


def _figure(**options: Any) -> "Figure":
    # Imported only where a chart is drawn: the import takes longer than most flows take to get to
    # their report.
    from matplotlib.figure import Figure

    return Figure(**options)


def _bare(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _markdown(figure: "Figure", alternative: str) -> str:
    drawn = io.BytesIO()
    from matplotlib import rc_context

    with rc_context(STYLE), catch_warnings():
        # Without these glyphs, only the width of a name is estimated; the reader's own font shows
        # the name.
        filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return f"![{alternative}](data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()})"

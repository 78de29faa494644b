"""Figures 4 to 7 of Byra 2021, and 3 and 4 of MorphHR, as matplotlib figures.

Every function returns a `matplotlib.figure.Figure` of its own and leaves pyplot alone, so that it works without a
display and beside other plots: `figure.savefig("roc.png", dpi=150)`. Curves differ in colour (Okabe and Ito's, which
people with a colour vision deficiency can tell apart), in line and in marker.
"""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .roc import auc, roc_curve

# Okabe and Ito, Color Universal Design, 2008; the yellow is left out, it is hard to see on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
LINES = ["-", "--", "-.", ":"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def roc_figure(curves, level=0.95, points=None):
    """Draws ROC curves with their AUCs and intervals in the legend, as figure 4 of Byra and figure 3 of MorphHR.

    Args:
        curves: mapping of name to `(labels, scores)` or `(labels, scores, subjects)`, as `auc` takes them.
        level: confidence level of the intervals in the legend.
        points: mapping of name to (sensitivity, specificity) of points to mark, as figure 4 of MorphHR.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: no curve, or labels and scores that `auc` refuses.

    Example:

    ```python
    roc_figure({"DRS": (labels, scores)}).savefig("roc.png", dpi=150)
    ```
    """
    _require(curves, "curves")
    figure = Figure(figsize=(6, 6.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=1)
    for index, (name, data) in enumerate(curves.items()):
        area = auc(*data, level=level)
        curve = roc_curve(*data[:2])
        axes.plot(
            curve.false_positive_rate,
            curve.true_positive_rate,
            color=_cycle(COLOURS, index),
            linestyle=_cycle(LINES, index),
            linewidth=1.8,
            label=f"{name}: {area.value:.3f} ({area.low:.3f} to {area.high:.3f})",
        )
    for index, (name, (sensitivity, specificity)) in enumerate((points or {}).items()):
        axes.plot(
            1 - specificity,
            sensitivity,
            color=_cycle(COLOURS, len(curves) + index),
            marker=_cycle(MARKERS, index),
            linestyle="none",
            label=f"{name}: sensitivity {sensitivity:.3f}, specificity {specificity:.3f}",
        )
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(color="0.92")
    axes.legend(loc="lower right", fontsize="small", title=f"AUC ({100 * level:g} % interval)", title_fontsize="small")
    return figure


def activation_rate_figure(rates):
    """Draws the activation rate A_l (equation 5) over the residual blocks, as figure 5.

    Args:
        rates: mapping of name to the DataFrame that `activation_rate` returns.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: the mapping is empty.
    """
    return _rates_over_blocks(rates, "rate", "activation rate")


def activation_rate_change_figure(changes):
    """Draws the activation rate change ΔA_l (equation 7) over the residual blocks, as figure 6.

    Args:
        changes: mapping of name to the DataFrame that `activation_rate_change` returns.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: the mapping is empty.
    """
    return _rates_over_blocks(changes, "change", "activation rate change")


def scaling_deviation_figure(deviations):
    """Draws mean and maximum deviation of DRS parameters from the identity over the residual blocks, as figure 7.

    Columns: the spatial part S and the channel part D (those that are there); rows: mean and maximum. Scales are
    filled markers on solid lines, biases hollow ones on dashed lines.

    Args:
        deviations: mapping of name to the DataFrame that `drs_deviations` returns.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: the mapping is empty.
    """
    _require(deviations, "deviations")
    titles = {"spatial": "spatial scaling S", "channel": "channel scaling D"}
    parts = [part for part in titles if any((table["part"] == part).any() for table in deviations.values())]
    figure = Figure(figsize=(4.6 * len(parts) + 0.4, 6.6), layout="constrained")
    panels = figure.subplots(2, len(parts), sharex=True, sharey="row", squeeze=False)
    for row, statistic in enumerate(["mean", "maximum"]):
        for column, part in enumerate(parts):
            axes = panels[row, column]
            for index, (name, table) in enumerate(deviations.items()):
                blocks = {layer: number for number, layer in enumerate(dict.fromkeys(table["layer"]), 1)}
                for parameter, filled in (("scale", True), ("bias", False)):
                    chosen = table[(table["part"] == part) & (table["parameter"] == parameter)]
                    colour = _cycle(COLOURS, index)
                    axes.plot(
                        chosen["layer"].map(blocks),
                        chosen[statistic],
                        color=colour,
                        linestyle="-" if filled else "--",
                        marker=_cycle(MARKERS, index),
                        markersize=4,
                        markerfacecolor=colour if filled else "white",
                        linewidth=1.3,
                        label=f"{name}, {parameter}",
                    )
            axes.grid(color="0.92")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if row == 0:
                axes.set_title(titles[part], fontsize="medium")
            else:
                axes.set_xlabel("residual block")
        panels[row, 0].set_ylabel(f"{statistic} |deviation from the identity|")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(deviations), 3), fontsize="small")
    return figure


def _rates_over_blocks(tables, column, title):
    _require(tables, f"{column}s")
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, table) in enumerate(tables.items()):
        axes.plot(
            range(1, len(table) + 1),
            table[column],
            color=_cycle(COLOURS, index),
            linestyle=_cycle(LINES, index),
            marker=_cycle(MARKERS, index),
            markersize=4,
            linewidth=1.4,
            label=name,
        )
    axes.set(xlabel="residual block", ylabel=title)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.92")
    figure.legend(loc="outside lower center", ncols=min(len(tables), 3), fontsize="small")
    return figure


def _require(mapping, name):
    if not mapping:
        raise ValueError(f"{name}: received an empty mapping, expected at least one name")


def _cycle(values, index):
    return values[index % len(values)]

"""Figures 4 to 7 of Byra 2021, 3 and 4 of MorphHR, 2 and 3 and table 4 of Shen 2017, 1 of the pretraining-effect study,
3 and 4 of cats-scans.

Every function returns a `matplotlib.figure.Figure` of its own and leaves pyplot alone, so that it works without a
display and beside other plots: `figure.savefig("roc.png", dpi=150)`. Curves differ in colour (Okabe and Ito's, which
people with a colour vision deficiency can tell apart), in line and in marker.
"""

import math

import numpy as np
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


def history_figure(histories):
    """Draws training and validation loss over the epochs of several trainings, as figure 2 of Shen.

    A panel for each training, all with the same scale of losses; epochs are counted through the stages, whose starts
    are marked. Mind that the training loss is of augmented and weighted images, in training mode; the validation loss
    is not.

    Args:
        histories: mapping of title to history, a list of dict as `training.fit_stages` returns: `stage`, `loss` and
            `val_loss` for each epoch.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: no training, or one without an epoch.

    Example:

    ```python
    history_figure({"VGG [256]x1-[128]x1": history}).savefig("loss.png", dpi=150)
    ```
    """
    _require(histories, "histories")
    columns = min(len(histories), 3)
    rows = math.ceil(len(histories) / columns)
    figure = Figure(figsize=(4 * columns + 0.6, 3.2 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (title, history) in zip(panels, histories.items(), strict=False):
        if not history:
            raise ValueError(f"histories: received {title!r} without an epoch, expected at least one")
        epochs = range(1, len(history) + 1)
        for index, (key, name) in enumerate((("loss", "training"), ("val_loss", "validation"))):
            axes.plot(
                epochs,
                [row[key] for row in history],
                color=COLOURS[index],
                linestyle=LINES[index],
                marker=MARKERS[index],
                markersize=3.5,
                linewidth=1.4,
                label=name,
            )
        stages = [row["stage"] for row in history]
        for start in (index for index, stage in enumerate(stages) if index == 0 or stage != stages[index - 1]):
            axes.axvline(start + 0.5, color="0.6", linewidth=1, zorder=1)
            # Upright, so that stages of one epoch do not write over each other.
            axes.annotate(
                f"stage {stages[start] + 1:g}",
                (start + 0.5, 1),
                xycoords=axes.get_xaxis_transform(),
                xytext=(2, -3),
                textcoords="offset points",
                rotation=90,
                va="top",
                color="0.4",
                fontsize="x-small",
            )
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        axes.margins(y=0.18)  # room for the stages' names above the first epochs
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="0.92")
    for axes in panels[len(histories) :]:
        axes.remove()
    for axes in panels[::columns][:rows]:
        axes.set_ylabel("loss")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def growth_figure(table):
    """Draws AUC over the number of subjects that a network was trained with, table 4 of Shen as curves.

    Args:
        table: DataFrame with a row for each training: `network` (a line each, in the order in which they come),
            `subjects` (number of them in the training part), `value`, `low` and `high` (AUC and its interval).

    Returns:
        matplotlib `Figure`. Where several networks have an interval at the same number of subjects, these stand side
        by side around it.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    missing = [name for name in ("network", "subjects", "value", "low", "high") if name not in table]
    if missing or not len(table):
        received = f"no column {missing[0]!r}" if missing else "no row"
        raise ValueError(f"table: received {received}, expected a row for each network and number of subjects")
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    networks = list(dict.fromkeys(table["network"]))
    numbers = np.sort(table["subjects"].unique())
    gap = np.diff(numbers).min() if len(numbers) > 1 else 1
    for index, name in enumerate(networks):
        rows = table[table["network"] == name].sort_values("subjects")
        places = rows["subjects"] + 0.06 * gap * (index - (len(networks) - 1) / 2)
        _intervals(axes, index, name, places, rows["value"], rows["low"], rows["high"])
    axes.axhline(0.5, color="0.7", linewidth=1, zorder=1)
    axes.set(xlabel="subjects in the training part", ylabel="AUC (95 % interval)", xticks=numbers)
    axes.grid(color="0.92")
    figure.legend(loc="outside lower center", ncols=min(len(networks), 2), fontsize="small")
    return figure


def fine_tuning_figure(table):
    """Draws AUC over the fraction of a target that networks were fine-tuned with, a panel for each network and a line
    for each start: tables 1 to 3 of the pretraining-effect study.

    Args:
        table: DataFrame with a row a cell: `network`, `start`, `fraction`, and `auc` with `auc_low` and `auc_high`.

    Returns:
        matplotlib `Figure`. Intervals at one fraction stand side by side around it.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    columns = ("network", "start", "fraction", "auc", "auc_low", "auc_high")
    _require_columns(table, columns, "a row for each network, start and fraction")
    networks, starts = (list(dict.fromkeys(table[name])) for name in ("network", "start"))
    fractions = np.sort(table["fraction"].unique())
    gap = np.diff(fractions).min() if len(fractions) > 1 else 1
    figure = Figure(figsize=(max(6.4, 2.6 * len(networks)), 4.2), layout="constrained")
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        for index, start in enumerate(starts):
            rows = table[(table["network"] == network) & (table["start"] == start)].sort_values("fraction")
            places = rows["fraction"] + 0.08 * gap * (index - (len(starts) - 1) / 2)
            _intervals(axes, index, start, places, rows["auc"], rows["auc_low"], rows["auc_high"])
        axes.axhline(0.5, color="0.7", linewidth=1, zorder=1)
        axes.set(title=network, xticks=fractions, xlabel="share fine-tuned with")
        axes.grid(color="0.92")
    panels[0].set_ylabel("AUC (95 % interval)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(starts), fontsize="small")
    return figure


def similarity_figure(similarities):
    """Draws the similarity of each layer before and after training, as figure 1 of the pretraining-effect study.

    A line for each target: the mean over the repetitions, with a band from the least to the greatest of them.

    Args:
        similarities: mapping of title (a target data set) to a list with a dict for each repetition: name of layer or
            group, from input to output, to a similarity in [0, 1], as `layer_similarity(...)[layer].cca`. All have the
            same names. A layer that is NaN in a repetition leaves a gap.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: no title, one without a repetition or a layer, or dicts whose names differ.

    Example:

    ```python
    similarity_figure({"MIAS": [{"conv1": 0.95, "block4": 0.7}, {"conv1": 0.93, "block4": 0.6}]})
    ```
    """
    _require(similarities, "similarities")
    layers = None
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for index, (title, repetitions) in enumerate(similarities.items()):
        if not repetitions or not repetitions[0]:
            missing = "layer" if repetitions else "repetition"
            raise ValueError(f"similarities: received {title!r} without a {missing}, expected at least one")
        layers = layers or list(repetitions[0])
        for each in repetitions:
            if set(each) != set(layers):
                raise ValueError(
                    f"similarities: received layers {', '.join(each)} for {title!r}, expected {', '.join(layers)}"
                )
        values = np.array([[each[layer] for layer in layers] for each in repetitions], dtype="float64")
        colour = _cycle(COLOURS, index)
        if len(values) > 1:
            axes.fill_between(
                range(len(layers)), values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0
            )
        axes.plot(
            range(len(layers)),
            values.mean(axis=0),
            color=colour,
            linestyle=_cycle(LINES, index),
            marker=_cycle(MARKERS, index),
            markersize=5,
            linewidth=1.4,
            clip_on=False,  # a marker at 1 is whole
            label=title if len(values) == 1 else f"{title}, {len(values)} repetitions",
        )
    axes.set(xlabel="layer, from input to output", ylabel="similarity before and after training", ylim=(0, 1))
    crowded = len(layers) > 8
    axes.set_xticks(range(len(layers)), layers, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    axes.grid(color="0.92")
    figure.legend(loc="outside lower center", ncols=min(len(similarities), 3), fontsize="small")
    return figure


def auc_bars_figure(table, error):
    """Draws the AUC of each target from each source, as figure 3 of the cats-scans study.

    Args:
        table: DataFrame with a row a bar: `target`, `source`, and `auc` with `auc_low` and `auc_high`.
        error: what the error bars are, such as `"95 % interval"`.

    Returns:
        matplotlib `Figure`, the axis from just below the lowest error bar to 1: differences are what it is read for.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    _require_columns(table, ("target", "source", "auc", "auc_low", "auc_high"), "a row for each target and source")
    targets, sources = (list(dict.fromkeys(table[name])) for name in ("target", "source"))
    figure = Figure(figsize=(max(6.4, 0.28 * len(targets) * (len(sources) + 2)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.84 / len(sources)
    for index, source in enumerate(sources):
        rows = table[table["source"] == source]
        places = [targets.index(target) + width * (index - (len(sources) - 1) / 2) for target in rows["target"]]
        axes.bar(
            places,
            rows["auc"],
            0.94 * width,
            yerr=[rows["auc"] - rows["auc_low"], rows["auc_high"] - rows["auc"]],
            color=_cycle(COLOURS, index),
            hatch=["", "//"][index // len(COLOURS) % 2],  # more sources than colours
            error_kw={"elinewidth": 1, "capsize": 2},
            label=source,
        )
    axes.set(xticks=range(len(targets)), xticklabels=targets, ylabel=f"AUC ({error})")
    axes.set_ylim(math.floor(20 * (table["auc_low"].min() - 0.01)) / 20, 1)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=min(len(sources), 5), fontsize="small")
    return figure


def distance_figure(pairs, title):
    """Draws transferability against the distance of source and target, as figure 4 of the cats-scans study.

    Args:
        pairs: DataFrame with a row a pair: `source`, `target`, `distance`, `transferability` (percent); rows without
            one of both are left out.
        title: of the axis of distances.

    Returns:
        matplotlib `Figure`: a colour for each target, each point named by its source; a target with itself is hollow.

    Raises:
        ValueError: a column is missing, or no row has both numbers.
    """
    columns = ("source", "target", "distance", "transferability")
    _require_columns(pairs, columns, "a row for each source and target")
    pairs = pairs.dropna(subset=["distance", "transferability"])
    _require_columns(pairs, columns, "a row with a distance and a transferability")
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="0.7", linewidth=1, zorder=1)
    for index, (target, rows) in enumerate(pairs.groupby("target", sort=False)):
        colour, marker = _cycle(COLOURS, index), _cycle(MARKERS, index)
        itself = (rows["source"] == rows["target"]).to_numpy()
        axes.scatter(
            rows["distance"],
            rows["transferability"],
            marker=marker,
            facecolors=np.where(itself, "white", colour),
            edgecolors=colour,
            zorder=3,
        )
        axes.scatter([], [], marker=marker, color=colour, label=f"target {target}")
    # A name that would lie on another's stands on the other side of its point.
    others = pairs[pairs["source"] != pairs["target"]].sort_values(["distance", "transferability"])
    near_x, near_y = (0.025 * (np.ptp(pairs[name]) or 1) for name in ("distance", "transferability"))
    last, colours = None, dict(zip(dict.fromkeys(pairs["target"]), COLOURS * len(pairs), strict=False))
    for row in others.itertuples():
        left = last is not None and row.distance - last[0] < near_x and row.transferability - last[1] < near_y
        axes.annotate(
            row.source,
            (row.distance, row.transferability),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
            color=colours[row.target],
        )
        last = None if left else (row.distance, row.transferability)
    axes.set(xlabel=title, ylabel="transferability, % of the AUC without a source")
    axes.margins(x=0.12)
    axes.grid(color="0.92")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure


def recommendation_figure(table):
    """Draws the linear probe's AUC of each candidate with its interval, and beside it what fine-tuning would cost.

    Args:
        table: DataFrame with a row for each candidate, the best first: `candidate`, `auc`, `auc_low`, `auc_high`,
            `seen`, `told_apart` and `epoch_seconds`, as `rank_candidates` gives it.

    Returns:
        matplotlib `Figure`.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    columns = ("candidate", "auc", "auc_low", "auc_high", "seen", "told_apart", "epoch_seconds")
    _require_columns(table, columns, "a row for each candidate")
    figure = Figure(figsize=(8.4, 1.5 + 0.42 * len(table)), layout="constrained")
    areas, costs = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.4))
    kinds = np.select([table["seen"], table["told_apart"]], [2, 1], 0)
    names = ("the first, or not to be told apart from it", "behind the first", "has seen these images")
    places = np.arange(len(table))
    for kind, name in enumerate(names):
        chosen = kinds == kind
        if not chosen.any():
            continue
        rows, colour = table[chosen], ("0.5" if kind == 2 else COLOURS[kind])
        areas.errorbar(
            rows["auc"],
            places[chosen],
            xerr=[rows["auc"] - rows["auc_low"], rows["auc_high"] - rows["auc"]],
            color=colour,
            linestyle="none",
            marker=MARKERS[kind],
            markersize=6,
            markerfacecolor="white" if kind == 2 else colour,
            elinewidth=1.4,
            capsize=3,
            label=name,
        )
        costs.barh(places[chosen], rows["epoch_seconds"] / 60, height=0.5, color=colour)
    areas.axvline(0.5, color="0.7", linewidth=1, zorder=1)
    areas.set(xlabel="AUC of a linear probe (95 % interval)", yticks=places, yticklabels=table["candidate"])
    areas.set_ylim(len(table) - 0.5, -0.5)  # the best on top
    costs.set(xlabel="minutes an epoch (estimate)")
    for axes in (areas, costs):
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
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


def _intervals(axes, index, label, places, values, low, high):
    """The line of the index-th of several series, with an interval at each value."""
    axes.errorbar(
        places,
        values,
        yerr=[values - low, high - values],
        color=_cycle(COLOURS, index),
        linestyle=_cycle(LINES, index),
        marker=_cycle(MARKERS, index),
        markersize=5,
        linewidth=1.4,
        elinewidth=1,
        capsize=2.5,
        label=label,
    )


def _require_columns(table, columns, expected):
    missing = [name for name in columns if name not in table]
    if missing or not len(table):
        received = f"no column {missing[0]!r}" if missing else "no row"
        raise ValueError(f"table: received {received}, expected {expected}")


def _require(mapping, name):
    if not mapping:
        raise ValueError(f"{name}: received an empty mapping, expected at least one name")


def _cycle(values, index):
    return values[index % len(values)]

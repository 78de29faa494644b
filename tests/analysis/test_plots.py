import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from medzoo.analysis import (
    activation_rate_change_figure,
    activation_rate_figure,
    auc,
    fine_tuning_figure,
    growth_figure,
    history_figure,
    roc_figure,
    scaling_deviation_figure,
    similarity_figure,
)


def pixels(figure):
    """The figure drawn: proof that it can be saved without a display."""
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=50)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def curve(figure, label):
    """Points of the one line whose label begins so."""
    (line,) = [line for axes in figure.axes for line in axes.get_lines() if str(line.get_label()).startswith(label)]
    return np.column_stack(line.get_data()).tolist()


def test_roc_figure_draws_the_curve_and_names_its_interval():
    # From the top score down: positive, negative, positive and negative tied, negative.
    labels, scores = [1, 0, 1, 0, 0], [0.9, 0.7, 0.4, 0.4, 0.1]
    figure = roc_figure({"DRS": (labels, scores), "by subject": (labels, scores, [1, 2, 3, 3, 4])})
    expected = [(0, 0), (0, 0.5), (1 / 3, 0.5), (2 / 3, 1), (1, 1)]
    np.testing.assert_allclose(curve(figure, "DRS"), expected)
    low, high = auc(labels, scores)[1:3]
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[0] == f"DRS: 0.750 ({low:.3f} to {high:.3f})"
    low, high = auc(labels, scores, subjects=[1, 2, 3, 3, 4])[1:3]
    assert texts[1] == f"by subject: 0.750 ({low:.3f} to {high:.3f})"
    assert np.ptp(pixels(figure)) == 255


def test_rates_are_drawn_over_block_numbers():
    tables = {
        "feature extraction": pd.DataFrame({"layer": ["a", "b", "c"], "rate": [0.6, 0.5, 0.2]}),
        "DRS": pd.DataFrame({"layer": ["a", "b", "c"], "rate": [0.6, 0.4, 0.1]}),
    }
    figure = activation_rate_figure(tables)
    assert curve(figure, "feature") == [[1, 0.6], [2, 0.5], [3, 0.2]]
    assert curve(figure, "DRS") == [[1, 0.6], [2, 0.4], [3, 0.1]]
    pixels(figure)
    changes = {"DRS": tables["DRS"].rename(columns={"rate": "change"})}
    figure = activation_rate_change_figure(changes)
    assert curve(figure, "DRS") == [[1, 0.6], [2, 0.4], [3, 0.1]]
    pixels(figure)


def deviations(parts):
    rows = [
        (f"block{block}", part, parameter, 0.01 * block, 0.05 * block + (0.01 if parameter == "bias" else 0))
        for block in (1, 2)
        for part in parts
        for parameter in ("scale", "bias")
    ]
    return pd.DataFrame(rows, columns=["layer", "part", "parameter", "mean", "maximum"])


def test_scaling_figure_has_a_panel_for_each_part_and_statistic():
    figure = scaling_deviation_figure({"DRS": deviations(["spatial", "channel"])})
    assert [axes.get_title() for axes in figure.axes] == ["spatial scaling S", "channel scaling D", "", ""]
    assert [axes.get_ylabel()[:4] for axes in figure.axes] == ["mean", "", "maxi", ""]
    for axes, expected in zip(figure.axes, [[0.01, 0.02]] * 2 + [[0.06, 0.11]] * 2, strict=True):
        (line,) = [line for line in axes.get_lines() if line.get_label() == "DRS, bias"]
        np.testing.assert_allclose(line.get_data(), [[1, 2], expected])
    pixels(figure)


def test_scaling_figure_without_a_spatial_part():
    figure = scaling_deviation_figure({"DRS": deviations(["channel"])})
    assert [axes.get_title() for axes in figure.axes] == ["channel scaling D", ""]
    pixels(figure)


@pytest.mark.parametrize(
    "draw", [roc_figure, activation_rate_figure, activation_rate_change_figure, scaling_deviation_figure]
)
def test_nothing_to_draw_is_refused(draw):
    with pytest.raises(ValueError, match="received an empty mapping"):
        draw({})


def test_figures_need_neither_pyplot_nor_keras():
    code = (
        "import sys; from medzoo.analysis import roc_figure; roc_figure({'x': ([0, 1, 0, 1], [1, 2, 3, 4])});"
        "print([name for name in ('matplotlib.pyplot', 'keras', 'tensorflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_history_figure_counts_epochs_through_the_stages():
    losses = {"stage": [0, 0, 1], "epoch": [1, 2, 1], "loss": [0.9, 0.7, 0.6], "val_loss": [1.0, 0.8, 0.75]}
    history = pd.DataFrame(losses).to_dict("records")
    figure = history_figure({"all": history, "short": history[:1], "third": history, "fourth": history})
    assert [axes.get_title() for axes in figure.axes] == ["all", "short", "third", "fourth"]
    first, second, *_ = figure.axes
    training, validation = first.get_lines()[:2]
    assert (training.get_label(), validation.get_label()) == ("training", "validation")
    np.testing.assert_allclose(training.get_xydata(), [[1, 0.9], [2, 0.7], [3, 0.6]])
    np.testing.assert_allclose(validation.get_xydata(), [[1, 1.0], [2, 0.8], [3, 0.75]])
    # A stage starts between its first epoch and the one before.
    assert [line.get_xdata()[0] for line in first.get_lines()[2:]] == [0.5, 2.5]
    assert [(text.get_text(), text.xy[0]) for text in first.texts] == [("stage 1", 0.5), ("stage 2", 2.5)]
    assert [text.get_text() for text in second.texts] == ["stage 1"]
    assert first.get_ylim() == second.get_ylim()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
    pixels(figure)


def test_growth_figure_has_a_line_with_intervals_for_each_network():
    """The intervals of two networks stand beside each other, those of one network where they belong."""
    rows = [("a", 30, 0.8, 0.6, 0.9), ("a", 20, 0.7, 0.5, 0.85), ("b", 20, 0.75, 0.7, 0.8)]
    table = pd.DataFrame(rows, columns=["network", "subjects", "value", "low", "high"])
    figure = growth_figure(table)
    first, second = figure.axes[0].containers
    assert (first.get_label(), second.get_label()) == ("a", "b")
    line, _, (bars,) = first
    np.testing.assert_allclose(line.get_xydata(), [[20, 0.7], [30, 0.8]], atol=0.5)
    np.testing.assert_allclose(line.get_xydata()[:, 1], [0.7, 0.8])
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[0.5, 0.85], [0.6, 0.9]])
    assert line.get_xydata()[0, 0] < 20 < second[0].get_xydata()[0, 0]
    assert figure.axes[0].get_xticks().tolist() == [20, 30]
    pixels(figure)
    (alone,) = growth_figure(table[table["network"] == "a"]).axes[0].containers
    np.testing.assert_array_equal(alone[0].get_xydata()[:, 0], [20, 30])


def test_fine_tuning_figure_has_a_panel_for_each_network_and_a_line_for_each_start():
    rows = [
        ("resnet50", "random", 0.2, 0.8, 0.7, 0.9),
        ("resnet50", "random", 0.0, 0.5, 0.4, 0.65),
        ("resnet50", "source", 0.0, 0.7, 0.6, 0.75),
        ("patch-cnn", "random", 0.0, 0.4, 0.3, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["network", "start", "fraction", "auc", "auc_low", "auc_high"])
    figure = fine_tuning_figure(table)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["resnet50", "patch-cnn"]
    assert [bars.get_label() for bars in first.containers] == ["random", "source"]
    line, _, (bars,) = first.containers[0]
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.5], [0.2, 0.8]], atol=0.02)
    np.testing.assert_allclose(line.get_xydata()[:, 1], [0.5, 0.8])
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[0.4, 0.65], [0.7, 0.9]])
    # Side by side around the fraction, as far from it on either side.
    left, right = (container[0].get_xydata()[0, 0] for container in first.containers)
    assert left < 0 < right == pytest.approx(-left)
    np.testing.assert_allclose(second.containers[0][0].get_xydata()[:, 1], [0.4])
    assert len(second.containers[1][0].get_xydata()) == 0  # a start that this network does not have
    assert [axes.get_xticks().tolist() for axes in figure.axes] == [[0, 0.2]] * 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "source"]
    assert np.ptp(pixels(figure)) == 255
    with pytest.raises(ValueError, match="table: received no column 'auc_low', expected a row for each network"):
        fine_tuning_figure(table.drop(columns="auc_low"))
    with pytest.raises(ValueError, match="table: received no row"):
        fine_tuning_figure(table[:0])


def test_refusals_of_histories_and_growth():
    with pytest.raises(ValueError, match="histories: received an empty mapping"):
        history_figure({})
    with pytest.raises(ValueError, match="histories: received 'mine' without an epoch"):
        history_figure({"mine": []})
    table = pd.DataFrame({"network": ["a"], "subjects": [20], "value": [0.8], "low": [0.7], "high": [0.9]})
    with pytest.raises(ValueError, match="table: received no column 'low'"):
        growth_figure(table.drop(columns="low"))
    with pytest.raises(ValueError, match="table: received no row"):
        growth_figure(table[:0])


def test_similarity_figure_has_a_line_with_a_band_for_each_target():
    repetitions = [{"conv1": 0.9, "block1": 0.8, "block2": 0.4}, {"block2": 0.6, "conv1": 1.0, "block1": 0.7}]
    figure = similarity_figure({"MIAS": repetitions, "ultrasound": [{"conv1": 0.2, "block1": 0.3, "block2": np.nan}]})
    (axes,) = figure.axes
    np.testing.assert_allclose(curve(figure, "MIAS"), [[0, 0.95], [1, 0.75], [2, 0.5]])
    np.testing.assert_array_equal(curve(figure, "ultrasound"), [[0, 0.2], [1, 0.3], [2, np.nan]])
    (band,) = axes.collections
    corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0, 0.9), (0, 1.0), (1, 0.7), (1, 0.8), (2, 0.4), (2, 0.6)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv1", "block1", "block2"]
    assert axes.get_ylim() == (0, 1)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["MIAS, 2 repetitions", "ultrasound"]
    assert np.ptp(pixels(figure)) == 255


def test_refusals_of_similarities():
    cases = [
        ({}, "similarities: received an empty mapping"),
        ({"MIAS": []}, "similarities: received 'MIAS' without a repetition"),
        ({"MIAS": [{}]}, "similarities: received 'MIAS' without a layer"),
        ({"MIAS": [{"conv1": 1}, {"conv2": 1}]}, "received layers conv2 for 'MIAS', expected conv1"),
        ({"MIAS": [{"conv1": 1}], "other": [{"conv2": 1}]}, "received layers conv2 for 'other', expected conv1"),
    ]
    for similarities, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            similarity_figure(similarities)
        assert "\n" not in str(error.value)

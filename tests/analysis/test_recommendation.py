"""The ranking of candidates, the advice and the report, with networks that take no time."""

from statistics import NormalDist
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from medzoo import datasets, zoo
from medzoo.analysis import recommendation
from medzoo.analysis.candidates import Candidate, Form
from medzoo.analysis.recommendation import give_advice, rank_candidates, recommend
from PIL import Image
from sklearn.metrics import roc_auc_score


class FakeCard:
    """What is asked of a card here."""

    multi_label = False
    licence = ""
    limitations = ()

    def __init__(self, dataset):
        self.data = {"dataset": dataset}


def network(weight):
    """Features: mean grey value times `weight`, and a corner pixel, which tells nothing."""
    image = keras.Input((4, 4, 1))
    mean = keras.layers.Rescaling(weight)(keras.layers.GlobalAveragePooling2D()(image))
    corner = keras.layers.Flatten()(keras.layers.Cropping2D(((0, 3), (0, 3)))(image))
    x = keras.layers.Concatenate()([mean, corner])
    x = keras.layers.Dense(1, activation="sigmoid", name="head_logits", kernel_initializer="zeros")(x)
    return keras.Model(image, x)


@pytest.fixture
def zoo_of_three(monkeypatch, tmp_path):
    """Candidates `bright`, `same` (which are alike), `blind`, and `busi-seen`, whose card names BUSI."""
    weights = {"bright": 1, "same": 2, "blind": 0, "busi-seen": 1}
    title = datasets.source("busi").title

    def find(name):
        card = FakeCard(title if name == "busi-seen" else "another")
        return Candidate(name, name, card, Form((4, 4), 1), f"{weights[name]}{name}")

    monkeypatch.setattr(zoo, "load", lambda source: network(weights[source]))
    monkeypatch.setattr(recommendation, "candidate", find)
    monkeypatch.setattr(
        recommendation, "list_candidates", lambda: (["blind", "bright"], dict.fromkeys(("a", "b"), "not here"))
    )
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "cache"))


def draw(folder, labels, subjects=None, step=12):
    """Images of noise, brighter by `step` for each class further, with a table `images.csv`."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, label in enumerate(labels):
        pixels = np.clip(random.normal(100 + step * label, 40, (4, 4)), 0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
        rows.append({"image": f"{index:03}.png", "label": "abc"[label]})
        if subjects is not None:
            rows[-1]["subject"] = subjects[index]
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    return folder / "images.csv"


@pytest.fixture
def table(tmp_path):
    """80 images of 40 subjects."""
    return draw(tmp_path / "images", [0, 0, 1, 1] * 20, [f"s{index // 2}" for index in range(80)])


def test_the_table_is_that_of_its_predictions(zoo_of_three, table, tmp_path):
    made = recommend(table, candidates=["blind", "bright"], out=tmp_path / "out")
    ranked = pd.read_csv(tmp_path / "out" / "recommendation.csv")
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(ranked["candidate"]) == ["bright", "blind"]
    assert len(predictions) == 2 * 80
    for row in ranked.to_dict("records"):
        own = predictions[predictions["candidate"] == row["candidate"]]
        areas = [roc_auc_score(part["label"] == "b", part["b"]) for _, part in own.groupby("fold")]
        assert len(areas) == 5
        np.testing.assert_allclose(row["auc"], np.mean(areas), rtol=1e-9)
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        # No subject is scored by a probe that has seen it.
        assert (own.groupby("subject")["fold"].nunique() == 1).all()
    assert 0.7 < ranked["auc"][0] < 0.9  # in theory 0.80: the means of 16 pixels differ by 1.2 of their deviation
    assert ranked["auc_low"][1] < 0.5 < ranked["auc_high"][1]
    assert ranked["told_apart"].tolist() == [False, True]
    assert made.advice.startswith("Begin with bright: AUC ")
    assert made.report == tmp_path / "out" / "report.md"


def test_networks_with_the_same_features_are_not_told_apart(zoo_of_three, table):
    ranked, *_ = rank_candidates(datasets.read_csv(table), ["bright", "same", "blind"])
    rows = ranked.set_index("candidate")
    assert rows.loc[["bright", "same", "blind"], "told_apart"].tolist() == [False, False, True]
    assert give_advice(ranked).startswith(f"{ranked['candidate'][0]} comes first")
    assert "80 images cannot tell it apart from" in give_advice(ranked)


def test_comparisons_hold_together(zoo_of_three, table):
    """With one more candidate the same comparison gets a wider interval."""
    table = datasets.read_csv(table)
    alone = rank_candidates(table, ["bright", "blind"])[0].set_index("candidate").loc["blind"]
    among = rank_candidates(table, ["bright", "same", "blind"])[0].set_index("candidate").loc["blind"]
    assert among["behind"] == pytest.approx(alone["behind"], abs=0.02)
    assert among["behind_high"] - among["behind_low"] > alone["behind_high"] - alone["behind_low"]


def test_of_equal_candidates_few_are_told_apart(monkeypatch):
    """Eight of the same true AUC, the differences normal: in at most 5 % of the repetitions any is told apart."""

    def compare(labels, a, b, subjects, folds, level, **options):
        reach = NormalDist().inv_cdf((1 + level) / 2) * 2**0.5
        return SimpleNamespace(difference=a - b, low=a - b - reach, high=a - b + reach)

    monkeypatch.setattr(recommendation, "compare_weighted", compare)
    random, told = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = np.sort(random.normal(size=8))[::-1]
        ranked = pd.DataFrame({"candidate": list("abcdefgh"), "seen": False})
        recommendation._compare(ranked, dict(zip(ranked["candidate"], drawn, strict=True)), None, None, None)
        told += ranked["told_apart"].any()
    assert 1 <= told <= 20


def test_a_checkpoint_that_has_seen_the_data_is_marked_and_not_recommended(zoo_of_three, table, tmp_path):
    busi = tmp_path / "Dataset_BUSI_with_GT"
    table.parent.rename(busi)
    made = recommend(busi / "images.csv", candidates=["busi-seen", "blind"], out=tmp_path / "out")
    assert made.table["seen"].tolist() == [True, False]
    assert made.table["behind"].isna().all()
    assert "busi-seen" not in made.advice
    assert any(note.startswith("busi-seen (marked *): trained on images of this dataset") for note in made.notes)
    assert "busi-seen* " in made.summary
    elsewhere = recommend(draw(tmp_path / "other", [0, 1] * 20), candidates=["busi-seen"], out=tmp_path / "out")
    assert not elsewhere.table["seen"].any()


def test_several_classes(zoo_of_three, tmp_path):
    labels = [0, 1, 2, 2] * 15
    made = recommend(draw(tmp_path / "images", labels, step=25), candidates=["bright"], out=tmp_path / "out")
    own = made.predictions
    expected = [
        roc_auc_score(part["label"], part[["a", "b", "c"]], multi_class="ovr", average="weighted")
        for _, part in own.groupby("fold")
    ]
    assert made.table["auc"][0] == pytest.approx(np.mean(expected), rel=1e-9)


def test_all_at_hand_by_default_and_what_is_not(zoo_of_three, table, tmp_path):
    made = recommend(table, out=tmp_path / "out")
    assert sorted(made.table["candidate"]) == ["blind", "bright"]
    assert any(note.startswith("Not ranked: a, b (not here).") for note in made.notes)


def test_a_folder_of_class_folders_named_after_itself(zoo_of_three, tmp_path, monkeypatch):
    for index in range(40):
        folder = tmp_path / "my scans" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), index, "uint8")).save(folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    made = recommend("my scans", candidates=["bright"])
    assert sorted(path.name for path in (tmp_path / "recommendation-my-scans").iterdir()) == [
        "predictions.csv",
        "recommendation.csv",
        "recommendation.png",
        "report.md",
    ]
    assert any(note.startswith("No subjects are known") for note in made.notes)
    assert made.advice.startswith("No start can be recommended: even the first, bright,")


def test_the_same_again(zoo_of_three, table, tmp_path):
    for name in ("first", "second"):
        recommend(table, candidates=["bright", "blind"], out=tmp_path / name)
    for file in ("recommendation.csv", "predictions.csv", "report.md"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_the_report_says_what_was_ranked(zoo_of_three, table, tmp_path):
    made = recommend(table, candidates=["bright", "same", "blind"], out=tmp_path / "out")
    text = made.report.read_text()
    assert "80 images of images (40 a, 40 b), 40 subjects (named by the data)." in text
    assert f"**{made.advice}**" in text
    assert "at 98.33%, so that all 3 pairs of candidates hold together" in text
    assert "on all 80 images found" in text
    first = made.table.iloc[0]
    assert f"| {first['candidate']} | 4x4x1 | {first['auc']:.3f} ({first['auc_low']:.3f} to " in text


def test_images_that_cannot_be_read(zoo_of_three, table, tmp_path, capsys):
    (table.parent / "005.png").write_bytes(b"no image")
    made = recommend(table, candidates=["bright"], out=tmp_path / "out")
    assert made.table["n"][0] == 79
    assert "Left out, as they cannot be read: 1 of 80 images." in made.notes
    assert "005.png" in capsys.readouterr().err


def test_of_a_large_table_a_part_by_subject(zoo_of_three, table, monkeypatch):
    monkeypatch.setattr(recommendation, "LARGEST", 40)
    ranked, predictions, notes, _ = rank_candidates(datasets.read_csv(table), ["bright"])
    assert ranked["n"][0] == 40
    assert (predictions["subject"].value_counts() == 2).all()
    assert "Ranked on 40 of 80 images, drawn by subject and stratified by class." in notes
    # An epoch is of all images, at four forward passes each: a training step was measured to take 3.8 and 3.9.
    assert ranked["epoch_images"][0] == 80
    assert ranked["epoch_seconds"][0] * ranked["images_per_second"][0] == pytest.approx(4 * 80)


def test_of_a_rare_class_enough_stays(zoo_of_three, tmp_path, monkeypatch):
    """By share a single image of eight would stay, one of five subjects that a fold each needs."""
    monkeypatch.setattr(recommendation, "LARGEST", 30)
    subjects = [f"s{index // 2}" for index in range(240)] + [f"r{index % 6}" for index in range(8)]
    table = datasets.read_csv(draw(tmp_path / "images", [0] * 240 + [1] * 8, subjects))
    ranked, predictions, notes, _ = rank_candidates(table, ["bright"])
    rare = predictions[predictions["label"] == "b"]
    assert rare["subject"].nunique() == len(rare) == 5
    assert 33 <= ranked["n"][0] <= 35
    assert sum(", of b (few subjects) by image." in note for note in notes) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 20, "received images of 'a' only, expected two classes or more"),
        ([0] * 20 + [1] * 4, "received 4 subjects of class 'b', expected at least 5, one for each fold"),
    ],
)
def test_too_little_to_rank_on(zoo_of_three, tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        recommend(draw(tmp_path / "images", labels), candidates=["bright"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused_leaves_no_folder(zoo_of_three, table, tmp_path):
    with pytest.raises(ValueError, match="received none, expected distinct names"):
        recommend(table, candidates=[], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match=f"{out.name}: received a file's path, expected that of a folder"):
            recommend(table, candidates=["bright"], out=out)


def test_several_findings_an_image(zoo_of_three):
    table = datasets.image_table(
        [{"image": "a.png", "label": "x|y", "subject": "s"}], "d", ".", ["x", "y"], "named", multi_label=True
    )
    with pytest.raises(ValueError, match="received several labels an image, expected one class an image"):
        rank_candidates(table, ["bright"])


@pytest.mark.parametrize(("names", "message"), [([], "received none"), (["bright", "bright"], "'bright' twice")])
def test_candidates_that_are_none(zoo_of_three, table, names, message):
    with pytest.raises(ValueError, match=message):
        rank_candidates(datasets.read_csv(table), names)


def ranking(*rows):
    columns = ["candidate", "seen", "auc", "auc_low", "auc_high", "told_apart", "epoch_seconds"]
    table = pd.DataFrame(rows, columns=columns).assign(n=600)
    return table.assign(multiply_accumulates=table["epoch_seconds"] * 10**9)


class TestAdvice:
    def test_one_ahead_of_all(self):
        table = ranking(("a", False, 0.9, 0.8, 0.95, False, 90), ("b", False, 0.7, 0.6, 0.8, True, 10))
        assert give_advice(table) == (
            "Begin with a: AUC 0.900 (0.800 to 0.950), ahead of each other candidate by more than chance explains."
        )

    def test_of_equals_the_cheapest(self):
        table = ranking(
            ("seen", True, 0.99, 0.98, 1.0, False, 1),
            ("a", False, 0.9, 0.8, 0.95, False, 90),
            ("b", False, 0.88, 0.8, 0.95, False, 30),
            ("c", False, 0.6, 0.5, 0.7, True, 1),
        )
        assert give_advice(table) == (
            "a comes first, AUC 0.900 (0.800 to 0.950), but 600 images cannot tell it apart from b; of these b costs "
            "least, an epoch costs about 30 s: begin with it, or try several."
        )

    def test_what_is_cheap_is_told_by_count_and_not_by_a_busy_machine(self):
        table = ranking(("a", False, 0.9, 0.8, 0.95, False, 30), ("b", False, 0.88, 0.8, 0.95, False, 90))
        table["multiply_accumulates"] = [2, 1]
        assert "of these b costs least, an epoch costs about 1.5 min" in give_advice(table)

    def test_the_first_is_the_cheapest(self):
        table = ranking(("a", False, 0.9, 0.8, 0.95, False, 30), ("b", False, 0.88, 0.8, 0.95, False, 5400))
        assert give_advice(table).endswith(
            "from b; it also costs least of them, an epoch costs about 30 s: begin with it."
        )

    def test_no_better_than_chance(self):
        table = ranking(("a", False, 0.55, 0.49, 0.6, False, 30), ("b", False, 0.5, 0.4, 0.6, False, 30))
        assert give_advice(table) == (
            "No start can be recommended: even the first, a, does not tell the classes of these 600 images apart "
            "better than chance would, AUC 0.550 (0.490 to 0.600)."
        )

    def test_one_candidate(self):
        table = ranking(("a", False, 0.9, 0.8, 0.95, False, 30))
        assert (
            give_advice(table)
            == "a reaches AUC 0.900 (0.800 to 0.950); there is no other candidate to compare it with."
        )

    def test_all_have_seen_the_images(self):
        table = ranking(("a", True, 0.9, 0.8, 0.95, False, 30))
        assert give_advice(table).startswith("Every candidate has been trained on these images")


def test_the_picture_has_each_candidate_with_its_interval():
    table = ranking(
        ("seen", True, 0.99, 0.98, 1.0, False, 60),
        ("a", False, 0.9, 0.8, 0.95, False, 120),
        ("c", False, 0.6, 0.5, 0.7, True, 30),
    )
    figure = recommendation.recommendation_figure(table)
    areas, costs = figure.axes
    assert [label.get_text() for label in areas.get_yticklabels()] == ["seen", "a", "c"]
    drawn = {
        container.get_label(): (container[0].get_xydata().tolist(), container[2][0].get_segments()[0].tolist())
        for container in areas.containers
    }
    assert drawn["behind the first"] == ([[0.6, 2]], [[0.5, 2], [0.7, 2]])
    assert drawn["has seen these images"][0] == [[0.99, 0]]
    assert drawn["the first, or not to be told apart from it"][0] == [[0.9, 1]]
    assert sorted(bar.get_width() for bars in costs.containers for bar in bars) == [0.5, 1, 2]
    with pytest.raises(ValueError, match="received no column 'seen'"):
        recommendation.recommendation_figure(table.drop(columns="seen"))

"""The cats-scans study against the paper's tables and its authors' numbers, and small runs on made-up data."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
from medzoo import recipes, zoo
from medzoo.cli import main
from medzoo.datasets.table import image_table
from medzoo.recipes import cats_scans as study
from medzoo.training import Trainer, parse_settings
from medzoo.zoo import builders
from PIL import Image

# Table III as printed: image size, batch size, learning rate, scheduler, epochs.
PRINTED_TABLE_3 = """
stl10 96x96 128 1.0e-3 Yes, after 30 epochs 50
sti10 112x112 128 1.0e-4 Yes, after 50 epochs 70
dtd 300x300 12 1.0e-3 No 60
isic2018 112x112 128 1.0e-5 No 70
kermany 112x112 128 1.0e-6 No 70
pcam_middle 96x96 128 1.0e-6 No 50
pcam_small 96x96 128 1.0e-6 No 70
kimiapath960 308x168 12 1.0e-5 No 100
"""
# Table II as printed: accuracy on training, validation and test part, AUC on the test part of medical sources.
PRINTED_TABLE_2 = """
stl10 0.749 0.783 0.712
sti10 0.719 0.607 0.614
dtd 0.633 0.672 0.638
isic2018 0.568 0.510 0.499 0.848
kermany 0.810 0.804 0.790 0.912
pcam_middle 0.801 0.709 0.710 0.834
pcam_small 0.741 0.683 0.689 0.790
kimiapath960 0.842 0.833 0.854 0.997
"""
# Table I as printed: size and number of classes.
PRINTED_TABLE_1 = """
imagenet 1,431,167 1,000
stl10 13,000 10
sti10 8,060 10
dtd 5,640 47
isic2018 10,015 7
kermany 5,863 2
pcam_middle 100,000 2
pcam_small 10,000 2
kimiapath960 960 20
"""
# The names that the authors' files have, and those of our readers.
READERS = {
    "imagenet": "imagenet",
    "stl10": "stl10",
    "sti10": "sti10",
    "textures": "dtd",
    "isic": "isic2018",
    "chest": "kermany",
    "pcam-middle": "pcam_middle",
    "pcam-small": "pcam_small",
    "kimia": "kimiapath960",
}
TINY = {"backbone": "tiny", "largest": 32, "pretraining_steps": 2, "steps": 3, "batch_size": 8, "folds": 2}
TINY |= {"subsets": 3, "subset_share": 0.2, "precision": "float32"}
OVERRIDES = tuple(f"{key}={value}" for key, value in TINY.items() if key != "backbone")


# ---------------------------------------------------------------------------------------------------------------------
# The paper


def test_table_1():
    for line in PRINTED_TABLE_1.strip().splitlines():
        reader, images, classes = line.replace(",", "").split()
        row = study.TABLE_1[reader]
        assert (row.images, row.classes) == (int(images), int(classes))
    assert len(study.TABLE_1) == 9


def test_table_2():
    for line in PRINTED_TABLE_2.strip().splitlines():
        reader, *numbers = line.split()
        expected = [float(number) for number in numbers] + [None] * (4 - len(numbers))
        assert list(study.TABLE_2[reader]) == expected
    assert len(study.TABLE_2) == 8


def test_table_3():
    for line in PRINTED_TABLE_3.strip().splitlines():
        reader, size, batch, rate, scheduler, *rest = line.split()
        row = study.TABLE_3[reader]
        width, height = map(int, size.split("x"))  # the paper gives the longer side of KimiaPath960 first
        assert row.size == (height, width)
        assert (row.batch_size, row.learning_rate, row.epochs) == (int(batch), float(rate), int(rest[-1]))
        assert row.halved_after == (int(rest[1]) if scheduler == "Yes," else None)
    assert len(study.TABLE_3) == 8


def test_figure_3_is_the_mean_of_the_published_folds(shared):
    rows = pd.read_csv(shared / "data" / "cats_scans_auc_folds.csv")
    for row in rows.to_dict("records"):
        target, source = READERS[row["target"]], READERS[row["source"]]
        mean = np.mean([row[f"fold_{fold}"] for fold in range(1, 6)])
        assert study.FIGURE_3[target].get("random" if source == target else source) == pytest.approx(mean, abs=5e-4)
    assert sum(map(len, study.FIGURE_3.values())) == len(rows) == 24


def test_settings_are_the_paper_s_unless_put_aside():
    paper, quick = study.PROFILES["paper"], study.PROFILES["quick"]
    for reader, row in study.TABLE_3.items():
        assert study.pretraining_of(reader, paper) == row
    assert study.pretraining_of("pcam", paper) == study.TABLE_3["pcam_middle"]
    small = study.pretraining_of("kimiapath960", quick)
    assert (small.size, small.batch_size, small.learning_rate) == ((112, 112), 24, 3e-4)
    # Section B: 112 pixels and 50 epochs, PCam 96 and 20.
    assert [study.fine_tuning_of(name, paper).size for name in ("isic2018", "kermany", "pcam_middle")] == [112, 112, 96]
    assert [study.fine_tuning_of(name, paper).epochs for name in ("isic2018", "kermany", "pcam")] == [50, 50, 20]
    assert study.fine_tuning_of("busi", paper) == study.FINE_TUNING["isic2018"]


def test_the_learning_rate_is_halved_once():
    """STL-10: 30 epochs at 1e-3 and 20 at half of it; 400 steps are whole epochs."""
    row, paper = study.TABLE_3["stl10"], study.PROFILES["paper"]
    stages = study.stages_of(row, range(81), paper)
    assert [(stage.epochs, stage.learning_rate) for stage in stages] == [(30, 1e-3), (20, 5e-4)]
    assert [stage.epochs for stage in study.stages_of(study.TABLE_3["dtd"], range(81), paper)] == [60]
    assert [stage.epochs for stage in study.stages_of(row, range(81), study.PROFILES["quick"])] == [5]


def test_the_modified_network(tiny):
    """Global average pooling, dropout, a dense layer."""
    settings = parse_settings(study.PROFILES, "quick", [f"{key}={value}" for key, value in TINY.items()])
    model = builders.build(study.description((32, 32), 7, settings))
    names = [layer.name for layer in model.layers][-4:]
    assert names == ["head_pool", "head_dropout", "head_logits", "head_probabilities"]
    assert model.get_layer("head_dropout").rate == 0.5
    assert model.output_shape == (None, 7)


# ---------------------------------------------------------------------------------------------------------------------
# Figure 4 from given numbers


def write_numbers(folder, folds, distances):
    (folder / "folds.csv").write_text("source,target,fold_1,fold_2\n" + "\n".join(folds) + "\n")
    (folder / "distances.csv").write_text("source,target,far\n" + "\n".join(distances) + "\n")
    return folder / "folds.csv", folder / "distances.csv"


FOLDS = ["a,a,0.75,0.85", "b,a,0.8,0.88", "c,a,0.7,0.74", "b,b,0.5,0.5", "a,b,0.5,0.55", "c,b,0.6,0.6"]
FAR = ["a,a,0", "b,a,1", "c,a,3", "b,b,0", "a,b,1", "c,b,2", "d,b,9"]


def test_transferability_and_correlation_by_hand(tmp_path):
    """AUCs 0.80, 0.84, 0.72 on a and 0.5, 0.525, 0.6 on b: transferabilities 0, 5, -10, 0, 5, 20 per cent."""
    folds, distances = write_numbers(tmp_path, FOLDS, FAR)
    found = study.run(None, tmp_path / "RUN", folds=folds, distances=distances)
    pairs = pd.read_csv(tmp_path / "RUN" / "pairs.csv")
    assert pairs["transferability"].tolist() == pytest.approx([0, 5, -10, 0, 5, 20])
    assert pairs["deviation"].tolist()[:2] == pytest.approx([0.1 / math.sqrt(2), 0.08 / math.sqrt(2)])
    x, y = np.array([0, 1, 3, 0, 1, 2]), np.array([0, 5, -10, 0, 5, 20])
    x, y = x - x.mean(), y - y.mean()
    rows = found.set_index(["pairs", "method"])
    assert rows.loc[("all pairs", "pearson"), "value"] == pytest.approx((x @ y) / math.sqrt((x @ x) * (y @ y)))
    assert rows.loc[("all pairs", "pearson"), "n"] == 6
    # Ranks of (1, 3, 1, 2) and (5, -10, 5, 20): (1.5, 4, 1.5, 3) and (2.5, 1, 2.5, 4), by hand.
    x, y = np.array([1.5, 4, 1.5, 3]) - 2.5, np.array([2.5, 1, 2.5, 4]) - 2.5
    others = rows.loc[("without self-pairs", "spearman")]
    assert others["value"] == pytest.approx((x @ y) / math.sqrt((x @ x) * (y @ y)))
    assert set(found["pairs"]) == {"all pairs", "without self-pairs", "target a", "target b"}
    assert {"report.md", "figure-3.png", "figure-4.png"} <= {file.name for file in (tmp_path / "RUN").iterdir()}


def test_the_published_numbers_give_the_published_correlation(shared, tmp_path, capsys, monkeypatch):
    """Which is Pearson's, though the paper calls it Spearman's."""
    monkeypatch.chdir(tmp_path)
    data = shared / "data"
    files = (
        "--folds",
        str(data / "cats_scans_auc_folds.csv"),
        "--distances",
        str(data / "cats_scans_expert_distances.csv"),
    )
    assert main(["run", "cats_scans", *files]) == 0
    said = capsys.readouterr().out
    run = tmp_path / "cats_scans-cats_scans_expert_distances"
    assert f"report: {run.name}/report.md" in said
    assert "The paper prints 0.24 and calls it Spearman's: it is Pearson's; Spearman's is 0.291." in said
    report = (run / "report.md").read_text()
    for text in (said, report):
        assert "All pairs (24): Pearson 0.238 (p 0.26), Spearman 0.291 (p 0.17)." in text
        assert "Without self-pairs (21): Pearson 0.292 (p 0.20), Spearman 0.228 (p 0.32)." in text
    found = pd.read_csv(run / "correlations.csv").set_index(["pairs", "method"])
    assert found.loc[("all pairs", "pearson"), "value"] == pytest.approx(0.23785, abs=1e-5)
    assert len(pd.read_csv(run / "pairs.csv")) == 24
    assert main(["run", "cats_scans", *files]) == 0  # again, the same


def test_pairs_without_a_distance_are_left_out_and_counted(tmp_path, capsys):
    folds, distances = write_numbers(tmp_path, FOLDS, FAR[1:])
    found = study.run(None, tmp_path / "RUN", folds=folds, distances=distances)
    assert found["n"].max() == 5
    said = "1 of the 6 pairs have no distance and are left out, such as a to a."
    assert said in (tmp_path / "RUN" / "report.md").read_text()
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folds", "distances", "message"),
    [
        (FOLDS[1:], FAR, "received no line a,a, expected the AUC of training on each target alone"),
        ([*FOLDS, "a,a,0.5,0.5"], FAR, "received a to a twice, expected each pair once"),
        ([*FOLDS, "d,a,0.5,much"], FAR, "line 8: received fold_2 'much', expected a number"),
        ([*FOLDS, "d,a,0.5,"], FAR, "line 8: received fold_2 '', expected a number"),
        ([*FOLDS, "", "d,a,0.5,"], FAR, "line 9: received fold_2"),
        ([*FOLDS, "d,a,50,50"], FAR, "received fold_1 50 from d to a, expected AUCs above 0 and up to 1"),
        ([*FOLDS[1:], "a,a,0,0"], FAR, "received fold_1 0 from a to a, expected AUCs above 0"),
        (FOLDS, [f"{line[:4]}1" for line in FAR], "received the same distance for every pair"),
        (FOLDS, FAR[:2], "fewer than three pairs"),
        (
            FOLDS,
            [],
            "received no line, expected a CSV file with the columns source, target and one column of distances",
        ),
    ],
)
def test_files_of_numbers_that_do_not_fit(tmp_path, folds, distances, message):
    folds, distances = write_numbers(tmp_path, folds, distances)
    with pytest.raises(ValueError, match=message) as caught:
        study.run(None, tmp_path / "RUN", folds=folds, distances=distances)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "RUN").exists()


def test_options_that_do_not_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folds, distances = map(str, write_numbers(tmp_path, FOLDS, FAR))
    for arguments, message in (
        (["--folds", folds], "received --folds, expected --data, or --folds and --distances"),
        (["--folds", folds, "--distances", distances, "--set", "folds=9"], "received options of a training"),
        (["--folds", folds, "--distances", distances, "--method", "imagenet"], "received options of a training"),
        (["--folds", folds, "--distances", distances, "--data", "x.csv"], "received --data, --folds, --distances"),
        ([], "--data: received none, expected the data of cats_scans"),
        (["--folds", "none.csv", "--distances", distances], "none.csv: no such file"),
    ):
        assert main(["run", "cats_scans", *arguments]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["run", "drs", "--folds", folds]) == 2
    assert "drs has no such" in capsys.readouterr().err
    (tmp_path / "seeds.csv").write_text("source,target,fold_1,seed\na,a,0.5,0\n")
    assert main(["run", "cats_scans", "--folds", "seeds.csv", "--distances", distances]) == 2
    assert "seeds.csv: received the column 'seed', expected fold_1, fold_2, ..." in capsys.readouterr().err
    (tmp_path / "two.csv").write_text("source,target,near,far\na,a,1,2\n")
    assert main(["run", "cats_scans", "--folds", folds, "--distances", "two.csv"]) == 2
    assert "near, far beside source and target, expected one column" in capsys.readouterr().err


@pytest.mark.parametrize("mended", ["\ufeff{}", "{}\n\n", " {}"])
def test_files_as_programs_write_them(tmp_path, mended):
    folds, distances = write_numbers(tmp_path, FOLDS, FAR)
    expected = study.run(None, tmp_path / "RUN", folds=folds, distances=distances)
    for file in (folds, distances):
        text = mended.format(file.read_text().replace("\n", "\r\n").replace(",", ", "))
        file.write_text(text, encoding="utf-8", newline="")
    found = study.run(None, tmp_path / "RUN-2", folds=folds, distances=distances)
    pd.testing.assert_frame_equal(found, expected)


def test_the_paper_is_spoken_of_where_the_numbers_are_its_own(shared, tmp_path, capsys):
    """Distances that give 0.11 the other way round, or nothing that it prints; and one pair too few."""
    folds = shared / "data" / "cats_scans_auc_folds.csv"
    known = pd.read_csv(shared / "data" / "cats_scans_expert_distances.csv")
    random = np.random.default_rng(0)
    cases = {"any": known.assign(hamming=random.normal(size=len(known))), "short": known[known["target"] != "isic"]}
    said = {}
    for name, table in cases.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        study.run(None, tmp_path / name, folds=folds, distances=tmp_path / f"{name}.csv")
        said[name] = capsys.readouterr().out
    assert "for Task2Vec's; neither is found here." in said["any"]
    assert "The paper" not in said["short"]


# ---------------------------------------------------------------------------------------------------------------------
# Small runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three sets of pictures, two images a subject: of three classes, and two of two classes."""
    folder = tmp_path_factory.mktemp("made-up")
    for kind, (name, classes) in enumerate((("skin", 3), ("chest", 2), ("cells", 2))):
        lines = []
        (folder / name).mkdir()
        for number in range(30 * classes):
            random = np.random.default_rng([number, kind])
            label = number // 2 % classes
            pixels = random.normal(90 + 30 * label, 30, (20, 24, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
            lines.append(f"{name}/{number:03d}.png,p{number // 2},class {label}")
        (folder / f"{name}.csv").write_text("image,subject,label\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def grid(data):
    lines = ["source,csv,cells.csv,cells", "source,csv,skin.csv,skin", "target,csv,skin.csv,skin"]
    lines.append("target,csv,chest.csv,chest")
    (data / "grid.csv").write_text("role,dataset,data,name\n" + "\n".join(lines) + "\n")
    return data / "grid.csv"


def start(grid, out, protocol="sound", overrides=OVERRIDES, **options):
    return study.run(grid, out, "quick", protocol, backbone="tiny", overrides=overrides, verbose=0, **options)


@pytest.fixture(scope="module")
def finished(projected, grid, tmp_path_factory):
    """A run of the sound protocol, and its table."""
    out = tmp_path_factory.mktemp("runs") / "RUN"
    return out, start(grid, out)


def files(out):
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in out.rglob("*.csv")
        if "cells" in file.parts or "sources" in file.parts
    }


def test_a_run_has_every_cell(finished):
    """Two targets from nothing, ImageNet and the sources, but not from themselves."""
    out, table = finished
    expected = {("skin", each) for each in ("random", "imagenet", "cells")}
    expected |= {("chest", each) for each in ("random", "imagenet", "cells", "skin")}
    assert set(zip(table["target"], table["source"], strict=True)) == expected
    assert (table["folds"] == 2).all()
    assert table["auc"].between(0, 1).all()
    assert ((table["auc_low"] <= table["auc"]) & (table["auc"] <= table["auc_high"])).all()
    # The tests cover half of 90 images of skin and of 60 of the chest, as near as whole subjects come.
    assert table.groupby("target")["auc_n"].first().to_dict() == pytest.approx({"skin": 45, "chest": 30}, abs=4)
    alone = table[table["source"] == "random"].set_index("target")["auc"]
    expected = 100 * (table["auc"] / table["target"].map(alone) - 1)
    assert table["transferability"].tolist() == pytest.approx(expected.tolist())
    report = (out / "report.md").read_text()
    for text in ("## Table I", "## Table II", "## Table III", "## Does ImageNet win?", "Task2Vec"):
        assert text in report
    assert "0 of the" in report
    for name in ("figure-3-sound.png", "figure-4-sound.png", "distances.csv", "differences.csv"):
        assert (out / name).is_file()
    distances = pd.read_csv(out / "distances.csv").set_index(["source", "target"])["distance"]
    assert set(distances.index) == {
        ("skin", "skin"), ("cells", "skin"), ("skin", "chest"), ("cells", "chest"), ("chest", "chest")
    }  # fmt: skip


def test_the_auc_is_the_mean_of_the_folds(finished):
    from sklearn.metrics import roc_auc_score

    out, table = finished
    for target, kind in (("skin", {"multi_class": "ovr", "average": "weighted"}), ("chest", {})):
        areas = []
        for fold in range(2):
            rows = pd.read_csv(out / "sound" / "cells" / target / "cells" / f"fold-{fold}" / "predictions.csv")
            scores = rows[[name for name in rows if name.startswith("p_")]].to_numpy()
            np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
            labels = rows["label"].str[-1].astype(int)
            areas.append(roc_auc_score(labels, scores if kind else scores[:, 1], **kind))
        row = table[(table["target"] == target) & (table["source"] == "cells")].iloc[0]
        assert row["auc"] == pytest.approx(np.mean(areas))
        assert row["deviation"] == pytest.approx(np.std(areas, ddof=1))


def test_folds_test_other_images_and_no_subject_is_on_two_sides(finished):
    out, _ = finished
    rows = pd.read_csv(out / "sound" / "folds-skin.csv", dtype=str)
    tenths = rows["split"].astype(int).to_numpy()
    assert set(tenths) == {0, 1, 2, 3}
    tested = []
    for fold in range(2):
        parts = study.rows_of(tenths, fold)
        assert sorted(np.concatenate(list(parts.values()))) == list(range(90))
        subjects = rows["image"].str[-7:-4].astype(int) // 2
        assert not set(subjects[parts["train"]]) & set(subjects[parts["test"]])
        predicted = pd.read_csv(out / "sound" / "cells" / "skin" / "imagenet" / f"fold-{fold}" / "predictions.csv")
        assert predicted["image"].tolist() == rows["image"][parts["test"]].tolist()
        tested += parts["test"].tolist()
    assert len(tested) == len(set(tested))


@pytest.mark.parametrize("protocol", study.PROTOCOLS)
def test_five_folds_hold_80_10_10(tmp_path, protocol):
    rows = [{"image": f"{number}.png", "label": "ab"[number % 2]} for number in range(200)]
    tenths = study.draw_tenths(image_table(rows, "many", tmp_path, "ab", "none"), study.PROFILES["paper"], protocol)
    for fold in range(5):
        parts = study.rows_of(tenths, fold)
        assert [len(parts[name]) for name in study.PARTS] == [160, 20, 20]


def test_fine_tuning_begins_with_all_but_the_head_of_the_source(finished, grid):
    out, _ = finished
    context = make_context(grid, out)
    cell = next(each for each in context.cells if (each.target, each.source) == ("skin", "cells"))
    build, weights = study.begin(context, cell, 0, verbose=0)
    source = zoo.load(out / "sound" / "sources" / "cells" / "model")
    assert source.output_shape == (None, 1)
    assert builders.build(build).output_shape == (None, 3)
    for ours, theirs in zip(weights[:-2], source.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert weights[-2].shape == (12, 3)
    _, plain = study.begin(context, study.Cell("skin", "random"), 0, verbose=0)
    assert any(not np.array_equal(one, two) for one, two in zip(plain, weights, strict=True))
    np.testing.assert_array_equal(plain[-2], weights[-2])  # the head is as random whatever the source


def make_context(grid, out):
    chosen = parse_settings(study.PROFILES, "quick", [*OVERRIDES, "backbone=tiny"])
    return study.Context(grid, out, "quick", "sound", (), chosen, "tiny", OVERRIDES)


def test_a_killed_run_goes_on(projected, grid, finished, tmp_path, monkeypatch):
    """Stopped in a fold, it ends with the same numbers, and what was finished is left alone."""
    out, table = finished
    fit, calls = Trainer.fit, []

    def fail(trainer, *arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return fit(trainer, *arguments)

    again = tmp_path / "RUN"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", fail)
        with pytest.raises(KeyboardInterrupt):
            start(grid, again)
    before = {file: file.stat().st_mtime_ns for file in again.rglob("predictions.csv")}
    assert len(before) == 2 + 5
    pd.testing.assert_frame_equal(start(grid, again), table)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert files(again) == files(out)


def test_the_other_protocol_in_the_same_folder(projected, grid, finished, tmp_path):
    """Folds by image beside those by subject: the report says how many images leak, and what it makes."""
    out = shutil.copytree(finished[0], tmp_path / "RUN")
    table = start(grid, out, "published", methods=("imagenet",))
    assert set(table["protocol"]) == {"published", "sound"}
    sound = table[(table["protocol"] == "sound") & table["auc"].notna()]
    assert set(sound["source"]) == {"random", "imagenet", "cells", "skin"}  # though only ImageNet is asked for
    assert set(pd.read_csv(out / "distances.csv")["source"]) == {"skin", "cells", "chest"}
    report = (out / "report.md").read_text()
    assert "## Folds by image and by subject" in report
    both = table.dropna(subset="auc").set_index(["protocol", "target", "source"])["auc"]
    difference = 100 * (both["published", "chest", "imagenet"] - both["sound", "chest", "imagenet"])
    assert f"{difference:+.1f}" in report.split("## Folds by image and by subject")[1]
    leaks = [line.split(":")[1] for line in report.splitlines() if line.startswith("  Folds by")]
    assert [leak.startswith(" 0 of the") for leak in leaks] == [False, True, False, True]


def test_source_cards(finished):
    out, _ = finished
    card = zoo.card(out / "sound" / "sources" / "skin" / "model")
    assert card.classes == ["class 0", "class 1", "class 2"]
    # Whole subjects of two images, five of each class for each tenth.
    assert card.data["split"] == pytest.approx({"train": 72, "validation": 9, "test": 9}, abs=3)
    assert "GRID.csv with the line source,csv,DATA" in card.recipe["command"]
    assert [metric["name"] for metric in card.metrics] == ["auc"]
    assert "Began with random weights." in card.limitations
    assert "2107.05940" in card.recipe["paper"]


def test_a_source_that_shares_images_is_not_moved(projected, data, tmp_path):
    """Half of the chest images under another name."""
    lines = (data / "chest.csv").read_text().splitlines()
    (data / "half.csv").write_text("\n".join(lines[:31]) + "\n")
    (data / "shared.csv").write_text("role,dataset,data,name\nsource,csv,half.csv,half\ntarget,csv,chest.csv,chest\n")
    context = make_context(data / "shared.csv", tmp_path / "RUN")
    assert context.reason(study.Cell("chest", "half")) == "30 images are in source and target"
    assert context.reason(study.Cell("chest", "random")) is None
    assert [cell.source for cell, _ in study.missing(context)] == ["random", "random", "imagenet", "imagenet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("skn",)}, "skin"),
        ({"protocol": "best"}, "published"),
        ({"overrides": ("momentum=1",)}, "momentum: received 1.0, expected less than 1"),
        ({"overrides": ("dropout=1",)}, "dropout: received 1.0"),
        ({"overrides": ("folds=1",)}, "folds: received 1, expected at least 2"),
        ({"overrides": ("folds=40",)}, "expected at least one for each of 80 parts"),
    ],
)
def test_wrong_options_are_refused_before_anything_trains(projected, grid, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        start(grid, tmp_path / "RUN", **{"protocol": "sound", **options})
    assert not (tmp_path / "RUN").exists()


def test_several_findings_an_image_are_refused(projected, grid, tmp_path, monkeypatch):
    rows = [{"image": f"{number}.png", "label": label} for number, label in enumerate(("one", "two", "one|two"))]
    table = image_table(rows, "findings", tmp_path, ("one", "two"), "none", multi_label=True)
    monkeypatch.setattr(study.datasets, "read", lambda *_: table)
    with pytest.raises(ValueError, match=r"source cells: .*expected two classes or more, one for each image"):
        start(grid, tmp_path / "RUN")


def test_official_parts_are_taken_where_they_keep_slides_apart(data):
    table = study.datasets.read("csv", data / "cells.csv")
    table["split"] = ["train", "validation", "test"] * 20
    assert (study.divide(table, "sound", 0)["split"] == "train").sum() == 48
    table.attrs["dataset"] = "pcam"
    assert study.divide(table, "sound", 0)["split"].tolist() == table["split"].tolist()
    assert (study.divide(table, "published", 0)["split"] == "train").sum() == 48


def test_the_grid_lies_beside_its_run(finished):
    grid = pd.read_csv(finished[0] / "grid.csv")
    assert list(zip(grid["role"], grid["name"], strict=True)) == [
        ("source", "cells"),
        ("source", "skin"),
        ("target", "skin"),
        ("target", "chest"),
    ]


def test_the_recipe_is_registered():
    assert recipes.recipe("cats_scans") is study

"""The pretraining-effect study against the paper's tables, and small grids on made-up data."""

import dataclasses
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from medzoo import analysis, recipes, zoo
from medzoo.cli import main
from medzoo.datasets.table import image_table
from medzoo.recipes import all_conv
from medzoo.recipes import pretraining_effect as study
from medzoo.recipes.grid import read_grid
from medzoo.recipes.reporting import verdict
from medzoo.training import Trainer, parse_settings
from medzoo.zoo import backbones, builders
from PIL import Image
from sklearn.metrics import roc_auc_score

# Tables 1 to 4 as printed: AUC without fine-tuning and with 10 % and 20 % of the target.
TABLES = {
    "inbreast": """
VGG-16 Random Ini 0.340 0.763 0.784
ImageNet NA 0.760 0.770
DDSM 0.778 0.835 0.872
Resnet-50 Random Ini 0.244 0.776 0.802
ImageNet NA 0.790 0.809
DDSM 0.833 0.870 0.882
Inception-v3 Random Ini 0.583 0.812 0.816
ImageNet NA 0.806 0.824
DDSM 0.794 0.825 0.839
Patch-based CNN [18] Random Ini 0.512 0.605 0.636
DDSM 0.804 0.835 0.871
""",
    "mini_mias": """
VGG-16 Random Ini 0.513 0.850 0.856
ImageNet NA 0.850 0.846
DDSM 0.863 0.862 0.867
Resnet-50 Random Ini 0.401 0.852 0.851
ImageNet NA 0.846 0.850
DDSM 0.872 0.881 0.880
Inception-v3 Random Ini 0.181 0.861 0.860
ImageNet NA 0.845 0.853
DDSM 0.858 0.861 0.866
Patch-based CNN [18] Random Ini 0.473 0.558 0.568
DDSM 0.771 0.776 0.760
""",
    "rodrigues": """
VGG-16 Random Ini 0.671 0.932 0.977
ImageNet NA 0.951 0.957
DDSM 0.405 0.963 0.984
Resnet-50 Random Ini 0.516 0.844 0.954
ImageNet NA 0.803 0.933
DDSM 0.388 0.904 0.965
Inception-v3 Random Ini 0.632 0.672 0.842
ImageNet NA 0.687 0.817
DDSM 0.495 0.870 0.978
Patch-based CNN [18] Random Ini 0.526 0.951 0.982
DDSM 0.769 0.954 0.983
""",
}
TABLE_4 = """
MIAS Random Ini 0.852 VS 0.849 0.851 VS 0.845
ImageNet 0.846 VS 0.853 0.850 VS 0.847
DDSM 0.881 VS 0.883 0.880 VS 0.892
Inbreast Random Ini 0.776 VS 0.785 0.802 VS 0.803
ImageNet 0.790 VS 0.772 0.809 VS 0.817
DDSM 0.870 VS 0.871 0.882 VS 0.877
Ultrasound Random Ini 0.844 VS 0.930 0.954 VS 0.982
ImageNet 0.803 VS 0.911 0.933 VS 0.986
DDSM 0.904 VS 0.936 0.965 VS 0.970
"""
STARTS = {"Random Ini": "random", "ImageNet": "imagenet", "DDSM": "source"}
NETWORKS = {
    "VGG-16": "vgg16",
    "Resnet-50": "resnet50",
    "Inception-v3": "inceptionv3",
    "Patch-based CNN [18]": "patch-cnn",
}
READERS = {"MIAS": "mini_mias", "Inbreast": "inbreast", "Ultrasound": "rodrigues"}
TINY = [
    "size=32",
    "repeats=2",
    "pretrainings=1",
    "source_epochs=1",
    "steps=3",
    "batch_size=4",
    "test_share=0.3",
    "validation_share=0.3",
    "hybrid=tiny",
    "hybrid_until=stage1",
    "similarity=tiny",
    "precision=float32",
]


def number(text):
    return None if text == "NA" else float(text)


def printed(text, names):
    """Lines of a printed table: (what the last name before it stands for, start, words behind)."""
    name = None
    for line in text.strip().splitlines():
        for title, value in names.items():
            if line.startswith(f"{title} "):
                name, line = value, line.removeprefix(f"{title} ")
        start = next(title for title in STARTS if line.startswith(title))
        yield name, STARTS[start], line.removeprefix(start).split()


def test_numbers_are_those_of_tables_1_to_3():
    for reader, text in TABLES.items():
        expected = {(name, start): tuple(map(number, words)) for name, start, words in printed(text, NETWORKS)}
        assert len(expected) == 11
        assert study.TABLES_1_TO_3[reader] == expected
    assert list(study.TABLES_1_TO_3) == list(TABLES)
    assert tuple(study.METHODS) == tuple(NETWORKS.values())


def test_numbers_are_those_of_table_4():
    """Those with all weights stand in tables 1 to 3 too."""
    rows = list(printed(TABLE_4, READERS))
    assert len(rows) == 9
    for reader, start, (first, _, hybrid_first, second, _, hybrid_second) in rows:
        assert study.TABLE_4[reader][start] == (float(hybrid_first), float(hybrid_second))
        assert study.TABLES_1_TO_3[reader]["resnet50", start][1:] == (float(first), float(second))


# ---------------------------------------------------------------------------------------------------------------------
# Draws


def made_table(positive, negative, views=1):
    """A table of subjects with some views each, the first ones positive."""
    rows = [
        {"image": f"{subject}-{view}.png", "subject": f"s{subject}", "label": "sick" if subject < positive else "well"}
        for subject in range(positive + negative)
        for view in range(views)
    ]
    return image_table(rows, "made", "/nowhere", ("well", "sick"), "named")


def images_of(table, drawn, fraction):
    """Names of the images that a fraction is fine-tuned with."""
    return set(table.loc[drawn <= fraction, "image"])


@pytest.mark.parametrize("protocol", study.PROTOCOLS)
def test_fractions_are_nested_and_stratified(protocol):
    """Of 30 and 70 images 10 % are 3 and 7, and 20 % are 6 and 14; 24 and 56 are left to test on."""
    table, settings = made_table(30, 70), parse_settings(study.PROFILES, "paper")
    drawn = study.draw(table, settings, protocol, 0)
    for rows, expected in ((drawn <= 0.1, (3, 7)), (drawn <= 0.2, (6, 14)), (np.isnan(drawn), (24, 56))):
        found = table.loc[rows, "label"].value_counts()
        assert (found["sick"], found["well"]) == expected
    assert set(drawn[~np.isnan(drawn)]) == {0.1, 0.2}


def test_three_fractions_are_nested():
    """Of 60 and 140 images."""
    table = made_table(60, 140)
    settings = parse_settings(study.PROFILES, "paper", ["fractions=0.05,0.1,0.5"])
    drawn = study.draw(table, settings, "published", 0)
    for fraction, expected in ((0.05, (3, 7)), (0.1, (6, 14)), (0.5, (30, 70))):
        found = table.loc[drawn <= fraction, "label"].value_counts()
        assert (found["sick"], found["well"]) == expected


def test_subjects_are_kept_together_under_sound_alone():
    table, settings = made_table(20, 40, views=3), parse_settings(study.PROFILES, "paper")
    parts = {
        protocol: pd.Series(study.draw(table, settings, protocol, 0)).fillna(1).groupby(table["subject"]).nunique()
        for protocol in study.PROTOCOLS
    }
    assert parts["sound"].max() == 1
    assert parts["published"].max() > 1


@pytest.mark.parametrize("protocol", study.PROTOCOLS)
def test_draws_are_a_function_of_names_and_seed(protocol):
    table, settings = made_table(20, 40, views=2), parse_settings(study.PROFILES, "paper")
    first = images_of(table, study.draw(table, settings, protocol, 0), 0.2)
    mixed = table.sample(frac=1, random_state=1).reset_index(drop=True)
    assert images_of(mixed, study.draw(mixed, settings, protocol, 0), 0.2) == first
    others = [images_of(table, study.draw(table, settings, protocol, repeat), 0.2) for repeat in (1, 2)]
    assert first != others[0] != others[1] != first
    seeded = dataclasses.replace(settings, seed=1)
    assert images_of(table, study.draw(table, seeded, protocol, 0), 0.2) == others[0]


# ---------------------------------------------------------------------------------------------------------------------
# Made-up datasets and a whole grid


def picture(file, brightness, seed):
    """Noise around a brightness."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(brightness, 40, (40, 36))
    Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(file)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`clinic.csv`, 24 women with two images each, a third of them sick, `scans/` with a folder a class, and tables of
    the clinic that cannot be studied."""
    folder = tmp_path_factory.mktemp("made-up")
    lines = []
    for woman in range(24):
        for view in range(2):
            label = "sick" if woman % 3 == 0 else "well"
            picture(folder / "clinic" / f"{woman}-{view}.png", 130 if label == "sick" else 110, [woman, view])
            lines.append(f"clinic/{woman}-{view}.png,{label},w{woman}")
    header = "image,label,subject\n"
    (folder / "clinic.csv").write_text(header + "\n".join(lines) + "\n")
    (folder / "copy.csv").write_text(header + "\n".join(lines) + "\n")
    (folder / "well.csv").write_text(header + "\n".join(line for line in lines if ",well," in line) + "\n")
    three = [line.replace("sick", "dead") if line.endswith("w0") else line for line in lines]
    (folder / "three.csv").write_text(header + "\n".join(three) + "\n")
    few = [line for line in lines if ",well," in line or line.endswith(("w0", "w3"))]
    (folder / "few.csv").write_text(header + "\n".join(few) + "\n")
    for index in range(40):
        label = ("benign", "malignant")[index % 2]
        picture(folder / "scans" / label / f"{index}.png", (90, 120)[index % 2], [7, index])
    return folder


GRID = ["source,csv,clinic.csv,clinic", "target,busi,BUSI,busi", "target,folder,scans,scans"]


@pytest.fixture(scope="module")
def write_grid(data, busi):
    """Writes a grid's file beside the made-up data."""
    if not (data / "BUSI").exists():
        shutil.copytree(busi, data / "BUSI")

    def write(lines=GRID, header="role,dataset,data,name"):
        file = data / "grid.csv"
        file.write_text("\n".join([header, *lines]) + "\n")
        return file

    return write


def start_run(file, out, overrides=(), **options):
    chosen = {"profile": "quick", "methods": ("tiny",), "verbose": 0, **options}
    return recipes.recipe("pretraining_effect").run(file, out, overrides=[*TINY, *overrides], **chosen)


@pytest.fixture(scope="module")
def grid(projected, write_grid, tmp_path_factory):
    """The table and the folder of a whole run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("grid") / "RUN"
        return start_run(write_grid(), out), out


def folder_of(out, target, start, fraction, repeat, hybrid=False, network="tiny"):
    name = f"{fraction:g}{'-hybrid' * hybrid}" if fraction else "none"
    return out / "cells" / target / network / start / name / f"repeat-{repeat}"


def areas(out, *cell, hybrid=False, network="tiny"):
    """scikit-learn's AUC of a cell's predictions in both repeats."""
    found = []
    for repeat in range(2):
        rows = pd.read_csv(folder_of(out, *cell, repeat, hybrid, network) / "predictions.csv")
        found.append(roc_auc_score(rows["label"] == "malignant", rows["score"]))
    return np.array(found)


def test_every_cell_is_tested_on_the_images_that_no_fraction_took(grid, data):
    _, out = grid
    for target, total in (("busi", 40), ("scans", 40)):
        for repeat in range(2):
            drawn = pd.read_csv(out / f"draw-{target}-{repeat}.csv", dtype=str)
            assert len(drawn) == total
            assert drawn["split"].value_counts().to_dict() == {"test": 32, "0.1": 4, "0.2": 4}
            expected = set(drawn.loc[drawn["split"] == "test", "image"])
            files = list((out / "cells" / target).glob(f"*/*/*/repeat-{repeat}/predictions.csv"))
            assert len(files) == 14  # of three starts none, two fractions and two hybrids, no ImageNet without tuning
            for file in files:
                assert set(pd.read_csv(file)["image"]) == expected
    first, second = (set(pd.read_csv(out / f"draw-scans-{n}.csv").query("split == 'test'")["image"]) for n in (0, 1))
    assert first != second


def test_results_are_what_the_predictions_give(grid):
    table, out = grid
    assert len(table) == 30
    for row in table.to_dict("records"):
        if not pd.isna(row["reason"]):
            assert (row["start"], row["fraction"]) == ("imagenet", 0)
            assert row["reason"] == "ImageNet's 1000 classes are not the target's"
            assert np.isnan(row["auc"])
            continue
        expected = areas(out, row["target"], row["start"], row["fraction"], hybrid=row["hybrid"])
        assert row["auc"] == pytest.approx(expected.mean(), abs=1e-9)
        assert row["deviation"] == pytest.approx(np.abs(np.diff(expected)).item() / 2**0.5, abs=1e-9)
        assert row["auc_low"] <= row["auc"] <= row["auc_high"]
        assert (row["repeats"], row["images"], row["tested"]) == (2, f"{40 * row['fraction']:g}", "32")
    written = pd.read_csv(out / "results.csv")
    np.testing.assert_allclose(written["auc"], table["auc"])
    assert set(written["reason"].dropna()) == {"ImageNet's 1000 classes are not the target's"}
    files = {file.name for file in out.iterdir() if file.is_file()}
    figures = {"auc-busi.png", "auc-scans.png", *(f"figure-1-{name}-tiny-clinic.png" for name in ("cca", "cka"))}
    assert figures | {"report.md", "conclusions.csv", "similarity.csv", "split-clinic.csv"} <= files
    text = (out / "report.md").read_text()
    for name in figures:
        assert f"`{name}`" in text
    for row in table.dropna(subset="auc").to_dict("records"):
        assert f"{row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f})" in text
    assert "- tiny, imagenet: ImageNet's 1000 classes are not the target's." in text


def test_conclusions_are_what_the_predictions_give(grid):
    _, out = grid
    found = pd.read_csv(out / "conclusions.csv").set_index(["target", "claim", "fraction"])
    assert set(found["networks"]) == {"tiny"}
    for target in ("busi", "scans"):
        expected = {}  # in each of both repeats
        for hybrid in (False, True):
            suffix = ", hybrid" * hybrid
            for start, other in (("clinic", "random"), ("clinic", "imagenet"), ("imagenet", "random")):
                for fraction in (0, 0.1, 0.2)[hybrid or "imagenet" in (start, other) :]:
                    first, second = (areas(out, target, each, fraction, hybrid=hybrid) for each in (start, other))
                    expected[f"{start} - {other}{suffix}", fraction] = first - second
            without, tuned = expected["clinic - random", 0], expected[f"clinic - random{suffix}", 0.2]
            expected[f"masking of clinic - random{suffix}", 0.2] = without - tuned
        for fraction in (0.1, 0.2):
            for start in ("random", "imagenet", "clinic"):
                first, second = (areas(out, target, start, fraction, hybrid=hybrid) for hybrid in (True, False))
                expected[f"hybrid - all weights, {start}", fraction] = first - second
        assert set(found.loc[target].index) == set(expected)
        for key, values in expected.items():
            row = found.loc[(target, *key)]
            received = row[["difference", "least", "greatest"]].to_numpy(float)
            np.testing.assert_allclose(received, [values.mean(), values.min(), values.max()], atol=1e-9)
            assert row["low"] <= row["difference"] <= row["high"]
            assert (row["number"], row["repeats"]) == (1, 2)


def test_networks_as_they_begin(grid, data, write_grid):
    """Without fine-tuning: the untrained network, and what `zoo.load` gives of the network trained on the source."""
    _, out = grid
    for target, folder in (("busi", "BUSI"), ("scans", "scans")):
        for repeat in range(2):
            rows = pd.read_csv(folder_of(out, target, "clinic", 0, repeat) / "predictions.csv")
            model = out / "sources" / "clinic" / "tiny-random" / "training-0" / "model"
            paths = [data / folder / image for image in rows["image"]]
            found = analysis.predict_images(zoo.load(model), zoo.card(model), paths)
            np.testing.assert_allclose(found[zoo.card(model).classes[1]], rows["score"], atol=1e-5)

            rows = pd.read_csv(folder_of(out, target, "random", 0, repeat) / "predictions.csv")
            random.seed(repeat)
            untrained = builders.build(zoo.card(model).build)
            found = analysis.predict_images(untrained, zoo.card(model), paths)
            np.testing.assert_allclose(found[zoo.card(model).classes[1]], rows["score"], atol=1e-5)


def test_every_fraction_has_as_many_steps(grid):
    _, out = grid
    files = list((out / "cells").rglob("history.csv"))
    assert len(files) == 48
    assert {pd.read_csv(file)["steps"].iloc[-1] for file in files} == {3}


def test_similarity_is_that_of_the_networks_before_and_after(grid):
    _, out = grid
    found = pd.read_csv(out / "similarity.csv")
    assert len(found) == 2 * 2 * 3  # targets, repeats and groups, of the network that comes from the source
    assert set(found["start"]) == {"clinic"}
    assert list(found["group"].unique()) == ["stem", "stage1", "stage4"]
    assert list(found["layer"].unique()) == ["conv1_conv", "conv2_block1_out", "conv5_block2_out"]
    assert found["cka"].between(0.5, 1 + 1e-6).all()  # three steps do not move it far
    assert (found["cka"] < 1).any()
    assert (found["n"] == 32).all()  # images of one position
    np.testing.assert_allclose(found["chance"], (12 / 31) ** 0.5)
    assert not list((out / "cells").rglob("0.1*/*/similarity.csv"))


def test_the_card_of_a_source_network(grid, tmp_path, monkeypatch):
    _, out = grid
    folder = out / "sources" / "clinic" / "tiny-random" / "training-0"
    card = zoo.card(folder / "model")
    assert card.classes == ["sick", "well"]
    assert sum(card.data["split"].values()) == card.data["images"] == 48
    assert "Training 1 of 1" in card.limitations[0]
    assert "Began with random weights." in card.limitations
    rows = pd.read_csv(folder / "predictions.csv")
    (metric,) = card.metrics
    assert metric["value"] == pytest.approx(roc_auc_score(rows["label"] == "well", rows["score"]))
    assert metric["n"] == len(rows) == card.data["split"]["test"]
    split = pd.read_csv(out / "split-clinic.csv").set_index("image")["split"]
    assert set(split[rows["image"]]) == {"test"}
    assert zoo.verify(folder / "model").difference <= zoo.verify(folder / "model").tolerance
    monkeypatch.chdir(tmp_path)
    published = zoo.publish(folder, "tiny-clinic", tmp_path / "weights")
    assert zoo.load(published.folder).output_shape == (None, 1)


def written(out):
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.rglob("*.*") if file.is_file()}


def predictions(out):
    return {file.relative_to(out): file.read_bytes() for file in out.glob("cells/*/*/*/*/*/*.csv")}


def test_a_finished_run_is_left_alone_and_removed_cells_come_back(grid, write_grid, monkeypatch):
    table, out = grid
    before, expected = written(out), predictions(out)
    pd.testing.assert_frame_equal(start_run(write_grid(), out), table)
    after = written(out)
    kept = [file for file in before if {"cells", "sources"} & set(file.relative_to(out).parts)]
    assert len(kept) > 100
    assert {file: after[file] for file in kept} == {file: before[file] for file in kept}
    removed = [
        folder_of(out, "busi", "random", 0.1, 1),
        folder_of(out, "scans", "clinic", 0.2, 0),
        folder_of(out, "busi", "imagenet", 0.2, 1),
        folder_of(out, "busi", "random", 0, 0),
    ]
    for folder in removed:
        shutil.rmtree(folder)
    # A comparison of layers that was not asked for before is made now.
    (folder_of(out, "busi", "clinic", 0.2, 1) / "similarity.csv").unlink()
    monkeypatch.setattr(study, "report", lambda context: None)
    start_run(write_grid(), out)
    assert predictions(out) == expected


def test_a_run_that_was_killed_goes_on(grid, write_grid, tmp_path, monkeypatch):
    """It ends with the cells of a run that was not."""
    _, whole = grid
    options = ["hybrid=none", "similarity=none", "repeats=1"]
    fit, calls = Trainer.fit, []

    def fail(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return fit(self, *arguments)

    monkeypatch.setattr(Trainer, "fit", fail)
    out = tmp_path / "RUN"
    with pytest.raises(KeyboardInterrupt):
        start_run(write_grid(GRID[:2]), out, options)
    done = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/*/*/*/*/predictions.csv")}
    assert len(done) == 6  # three of random weights, two of ImageNet, and the source's network as it was
    assert not (out / "report.md").exists()
    start_run(write_grid(GRID[:2]), out, options)
    assert {file: file.stat().st_mtime_ns for file in done} == done
    expected = predictions(whole)
    found = predictions(out)
    assert len(found) == 3 * 2 * 2 + 2  # predictions and histories of tuned cells, and two without tuning
    assert {file: expected[file] for file in found} == found


def test_another_configuration_is_refused(grid, write_grid):
    _, out = grid
    with pytest.raises(ValueError, match="holds a run with settings"):
        start_run(write_grid(), out, ["steps=4"])
    with pytest.raises(ValueError, match="holds a run with protocol 'published', received 'sound'"):
        start_run(write_grid(), out, protocol="sound")
    with pytest.raises(ValueError, match="holds a run with settings"):
        start_run(write_grid(), out, ["fractions=0.1,0.4"])


def test_the_report_is_of_all_networks_in_the_folder(grid, write_grid, tmp_path):
    table, whole = grid
    out = tmp_path / "RUN"
    shutil.copytree(whole, out)
    for folder in list(out.glob("cells/*/tiny")):
        shutil.copytree(folder, folder.with_name("resnet18"))  # as if another command had added it
    found = start_run(write_grid(), out)
    assert set(found["network"]) == {"tiny", "resnet18"}
    added = found[(found["network"] == "resnet18") & ~found["hybrid"]]
    own = table[~table["hybrid"]]
    np.testing.assert_array_equal(added["auc"], own["auc"])
    assert "--method tiny" in (out / "report.md").read_text()
    assert "--method resnet18" in (out / "report.md").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# The grid's cells, without training


def make(file, networks=("tiny",), overrides=(), protocol="published"):
    return study.make_context(str(file), "/nowhere", "quick", protocol, networks, None, (*TINY, *overrides))


@pytest.fixture
def no_download(monkeypatch):
    """There are no ImageNet weights but those of `tiny`."""

    def refuse(*arguments, **named):
        raise OSError("offline")

    monkeypatch.setattr(backbones.pooch, "retrieve", refuse)


@pytest.fixture
def patchable(projected, monkeypatch):
    """The patch-based CNN on `tiny`, in as few epochs as there can be."""
    monkeypatch.setitem(all_conv.UNFROZEN, "tiny", ("stage4", "head"))
    quick = dataclasses.replace(all_conv.PROFILES["quick"], patch_epochs=(1, 1, 1), epochs=(1, 1))
    monkeypatch.setitem(all_conv.PROFILES, "quick", quick)
    return ["patch_backbone=tiny", "patch_input_size=128,128", "patch_size=32", "patch_test_share=0.4"]


def test_cells_that_cannot_exist_say_why(projected, write_grid, no_download, patchable):
    grid = [*GRID, "source,folder,scans,same", "source,busi,BUSI,busi"]
    overrides = [*patchable, "source_starts=random,imagenet"]
    context = make(write_grid(grid), ("tiny", "resnet18", "patch-cnn"), overrides)
    reasons = {
        (cell.network, cell.start, cell.target): context.reason(cell) for cell in context.cells if not cell.hybrid
    }
    without = {
        (cell.network, cell.start): context.reason(cell)
        for cell in context.cells
        if not cell.fraction and cell.target == "busi"
    }
    missing = "no ImageNet weights of resnet18 at hand, and none could be downloaded"
    for target in ("busi", "scans"):
        assert reasons["tiny", "imagenet", target] is None
        assert reasons["resnet18", "imagenet", target] == missing
        assert reasons["resnet18", "imagenet+clinic", target] == missing
        assert reasons["patch-cnn", "imagenet", target] == "the patch-based CNN is not made for ImageNet"
        assert "clinic has no annotated lesions" in reasons["patch-cnn", "clinic", target]
        assert "begins with ImageNet's weights in any case" in reasons["patch-cnn", "imagenet+clinic", target]
        for network in ("tiny", "resnet18", "patch-cnn"):
            assert reasons[network, "random", target] is None
    assert without["tiny", "imagenet"] == "ImageNet's 1000 classes are not the target's"
    assert without["tiny", "imagenet+clinic"] is None
    # A target under another name is the source all the same.
    for network in ("tiny", "resnet18", "patch-cnn"):
        assert reasons[network, "same", "scans"] == "the target is the source"
        assert reasons[network, "busi", "busi"] == "the target is the source"
    assert reasons["tiny", "same", "busi"] is reasons["tiny", "busi", "scans"] is None


def test_the_patch_based_cnn_needs_imagenet_weights_of_its_backbone(write_grid, no_download, mammograms):
    grid = [*GRID, f"patches,mini_mias,{mammograms},"]
    context = make(write_grid(grid), ("patch-cnn",), ["patch_backbone=resnet18"])
    for cell in context.cells:
        expected = {"random": None, "imagenet": "the patch-based CNN is not made for ImageNet"}
        expected["clinic"] = "no ImageNet weights of resnet18 at hand, and none could be downloaded"
        assert context.reason(cell) == expected[cell.start]


def test_a_folder_of_weights_that_is_not_there_is_a_slip(projected, write_grid, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDZOO_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(FileNotFoundError, match="MEDZOO_WEIGHTS="):
        start_run(write_grid(), tmp_path / "RUN")
    assert not (tmp_path / "RUN").exists()


def test_cells_are_shared_between_tables(projected, write_grid):
    """Without a source each cell exists once, however many sources there are, and table 4 takes those of tables 1
    to 3."""
    one = make(write_grid(), ("tiny", "vgg16")).cells
    two = make(write_grid([*GRID, "source,busi,BUSI,busi"]), ("tiny", "vgg16")).cells
    assert len(set(two)) == len(two)
    folders = {cell.folder(Path("RUN"), 0) for cell in two}
    assert len(folders) == len(two)
    shared = [cell for cell in two if cell.start in ("random", "imagenet")]
    assert shared == [cell for cell in one if cell.start in ("random", "imagenet")]
    assert len(shared) == 2 * 2 * (5 + 3)  # starts, targets, and cells of `tiny`, which alone is hybrid, and of VGG16
    assert len(two) - len(one) == 2 * (5 + 3)


def test_published_numbers_stand_beside_their_cells(projected, write_grid):
    context = make(write_grid(), ("resnet50", "vgg16"), ["hybrid=resnet50,vgg16"])
    found = {cell: study.published(context, cell) for cell in context.cells}
    cell = study.Cell
    assert found[cell("busi", "resnet50", "random", 0.0)] == 0.516  # the ultrasound table
    assert found[cell("busi", "resnet50", "clinic", 0.2)] == 0.965
    assert found[cell("busi", "vgg16", "imagenet", 0.1)] == 0.951
    assert found[cell("busi", "vgg16", "imagenet", 0.0)] is None
    assert found[cell("busi", "resnet50", "clinic", 0.1, True)] == 0.936
    assert found[cell("busi", "resnet50", "random", 0.2, True)] == 0.982
    assert found[cell("busi", "vgg16", "random", 0.2, True)] is None
    assert {value for key, value in found.items() if key.target == "scans"} == {None}


def test_claims_over_several_networks(projected, write_grid, tmp_path):
    """Of made-up scores: the mean over the networks of the difference in each; NA takes no part."""
    context = make(write_grid(GRID[:2]), ("tiny", "resnet18"), ["hybrid=none"])
    context.out, table = tmp_path, context.tables["busi"]
    generator = np.random.default_rng(0)
    for cell in context.cells:
        if (cell.network, cell.start) == ("resnet18", "imagenet") or (cell.start, cell.fraction) == ("imagenet", 0):
            continue
        for repeat in range(2):
            rows = np.flatnonzero(context.tested(cell, repeat))
            scores = generator.normal(context.labels("busi")[rows] * generator.uniform(0, 2))
            cell.folder(tmp_path, repeat).mkdir(parents=True)
            file = cell.folder(tmp_path, repeat) / "predictions.csv"
            study.kept_columns(table, rows).assign(score=scores).to_csv(file, index=False)
    found = study.claims(context, study.Results(context))
    assert set(found["networks"]) == {"all networks", "tiny", "resnet18"}
    rows = found[found["networks"] == "all networks"].set_index(["claim", "fraction"])

    def differences(other, fraction, networks=("tiny", "resnet18")):
        """Of both repeats, each the mean over the networks."""
        each = [
            areas(tmp_path, "busi", "clinic", fraction, network=name)
            - areas(tmp_path, "busi", other, fraction, network=name)
            for name in networks
        ]
        return np.mean(each, axis=0)

    expected = {("clinic - random", fraction): differences("random", fraction) for fraction in (0, 0.1, 0.2)}
    expected["clinic - imagenet", 0.2] = differences("imagenet", 0.2, ("tiny",))
    masked = expected["clinic - random", 0] - expected["clinic - random", 0.2]
    expected["masking of clinic - random", 0.2] = masked
    for key, values in expected.items():
        row = rows.loc[key]
        received = row[["difference", "least", "greatest"]].to_numpy(float)
        np.testing.assert_allclose(received, [values.mean(), values.min(), values.max()], atol=1e-9)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["number"] == (1 if key[0] == "clinic - imagenet" else 2)


def test_repeats_take_turns_with_the_trainings_on_a_source(projected, write_grid):
    context = make(write_grid(), overrides=["pretrainings=2", "repeats=5"])
    assert [context.training_of(repeat) for repeat in range(5)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("interval", "repeats", "expected"),
    [
        ((0.01, 0.2), (0.05, 0.1), "more"),
        ((-0.2, -0.01), (-0.15, -0.1), "less"),
        ((-0.01, 0.2), (0.05, 0.1), "not shown"),
        ((0.01, 0.2), (-0.05, 0.2), "not shown"),
        ((-0.2, -0.01), (-0.2, 0.01), "not shown"),
    ],
)
def test_a_difference_is_shown_by_its_interval_and_every_repeat(interval, repeats, expected):
    row = {"low": interval[0], "high": interval[1], "least": repeats[0], "greatest": repeats[1]}
    assert verdict(row, 2) == expected
    assert verdict(row, 1) == "not shown"


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["sources,csv,clinic.csv,a", *GRID[1:]], "unknown role in .*'sources': did you mean 'source'"),
        (["source,cvs,clinic.csv,a", *GRID[1:]], "unknown dataset in .*'cvs': did you mean 'csv'"),
        (["source,csv,,a", *GRID[1:]], "received no data for the source csv, expected a path"),
        (GRID[1:], "received no source, expected one or more"),
        (GRID[:1], "received no target, expected one or more"),
        ([*GRID, GRID[0]], "received two sources named 'clinic', expected one"),
        ([*GRID, GRID[1]], "received two targets named 'busi', expected one"),
        ([*GRID, "target,csv,three.csv,clinic"], "received two datasets named 'clinic', expected a column 'name'"),
        ([*GRID, *["patches,csv,clinic.csv,clinic"] * 2], "received several lines 'patches', expected one at most"),
        (["source,csv,clinic.csv,random", *GRID[1:]], "received the name 'random', expected letters and digits"),
        (["source,csv,clinic.csv,../a", *GRID[1:]], "received the name '../a', expected letters and digits"),
        ([*GRID, "target,csv,well.csv,a"], "target a: .*received the classes well, expected two"),
        ([*GRID, "target,csv,three.csv,a"], "target a: .*received the classes dead, sick, well, expected two"),
        ([*GRID, "target,csv,few.csv,a"], "fraction 0.1: class 'sick' has 1 images"),
        (["source,csv,few.csv,a", *GRID[1:]], "class 'sick' has 1 subjects"),
        ([*GRID, "target,csv,nobody.csv,a"], "nobody.csv: no such file"),
        ([*GRID, "target,folder,nowhere,a"], "nowhere: no such folder"),
        ([*GRID, "target,csv,copy.csv,a"], "target a: 48 of its images are in the source clinic, expected none"),
    ],
)
def test_wrong_grids_are_refused_before_anything_trains(projected, write_grid, tmp_path, grid, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        start_run(write_grid(grid), tmp_path / "RUN")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "RUN").exists()


def test_grids_that_are_no_table_are_refused(write_grid, data, tmp_path):
    with pytest.raises(ValueError, match="received the columns role, reader, data, expected role, dataset, data"):
        read_grid(write_grid(["source,busi,x"], "role,reader,data"), study.ROLES)
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file, expected a CSV file with the columns role"):
        read_grid(data / "none.csv", study.ROLES)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"empty\.csv: not a CSV file"):
        read_grid(tmp_path / "empty.csv", study.ROLES)


def test_names_and_paths_of_a_grid(write_grid, data):
    lines = ["source,busi,BUSI", "target,csv,/elsewhere/a.csv"]
    found = read_grid(write_grid(lines, "role,dataset,data"), study.ROLES)
    expected = [("busi", str((data / "BUSI").resolve())), ("csv", "/elsewhere/a.csv")]
    assert [(each.name, each.data) for each in found] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("resnet19",)}, "unknown network 'resnet19': did you mean 'resnet18'"),
        ({"methods": ("patch_cnn",)}, "unknown network 'patch_cnn': did you mean 'patch-cnn'"),
        ({"methods": ("inceptionv3",)}, "size: received 32, inceptionv3 takes 75 pixels at least"),
        ({"protocol": "best"}, "unknown protocol 'best'"),
        ({"profile": "quik"}, "unknown profile 'quik': did you mean 'quick'"),
        ({"processes": 0}, "processes: received 0, expected a whole number of at least 1"),
        ({"overrides": ["fractions=0.2,0.1"]}, "fractions: received .*expected rising numbers below 1"),
        ({"overrides": ["fractions=0.2,1"]}, "fractions: received .*expected rising numbers below 1"),
        ({"overrides": ["steps=0"]}, "steps: received 0, expected at least 1"),
        ({"overrides": ["source_starts=zeros"]}, "unknown source_starts 'zeros'"),
        ({"overrides": ["hybrid=resnet19"]}, "unknown hybrid 'resnet19'"),
        ({"overrides": ["similarity=patch-cnn"]}, "unknown similarity 'patch-cnn'"),
        ({"overrides": ["hybrid_until=stage5"]}, "unknown hybrid_until 'stage5'"),
        ({"overrides": ["hybrid_width=0"]}, "hybrid_width: received 0, expected more than 0"),
        ({"overrides": ["precision=half"]}, "unknown precision 'half'"),
        ({"overrides": ["step=3"]}, "unknown option 'step': did you mean 'steps'"),
        ({"methods": ("patch-cnn",), "backbone": "resnet19"}, "unknown patch_backbone 'resnet19'"),
        (
            {"methods": ("patch-cnn",), "overrides": ["patch_input_size=64"]},
            "input_size: received 1 numbers, expected 2",
        ),
        ({"methods": ("patch-cnn",), "overrides": ["patch_size=999"]}, "patch_size: received 999, expected at most"),
    ],
)
def test_wrong_options_are_refused_before_anything_trains(projected, write_grid, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        start_run(write_grid(), tmp_path / "RUN", **options)
    assert not (tmp_path / "RUN").exists()


def test_patches_that_cannot_be_had_are_refused(patchable, write_grid, mammograms, tmp_path):
    options = {"methods": ("patch-cnn",), "overrides": patchable}
    with pytest.raises(ValueError, match="patches scans: has no annotated lesions, expected another dataset"):
        start_run(write_grid([*GRID, "patches,folder,scans,scans"]), tmp_path / "RUN", **options)
    other = shutil.copytree(mammograms, tmp_path / "other")
    grid = [f"source,mini_mias,{mammograms},a", f"patches,mini_mias,{other},b", *GRID[1:]]
    with pytest.raises(ValueError, match="patches b: received a dataset of the source's reader 'mini_mias'"):
        start_run(write_grid(grid), tmp_path / "RUN", **options)
    assert not (tmp_path / "RUN").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The patch-based CNN


def test_only_the_patch_based_cnn_leaves_subjects_out(patchable, write_grid, mammograms):
    """Half of them, those that are not in the test part of the annotated dataset, whatever it is named."""
    grid = [GRID[0], f"target,mini_mias,{mammograms},mias", f"patches,mini_mias,{mammograms},lesions", GRID[2]]
    overrides = [*patchable, "patch_test_share=0.5", "patch_validation_share=0.4"]
    context = make(write_grid(grid), ("tiny", "patch-cnn"), overrides)
    subjects = context.tables["mias"]["subject"]
    for repeat in range(2):
        drawn = np.isnan(context.draws["mias", repeat])
        for start in ("random", "clinic"):
            tiny, patches = (
                context.tested(study.Cell("mias", network, start, 0.0), repeat) for network in ("tiny", "patch-cnn")
            )
            np.testing.assert_array_equal(tiny, drawn)
            assert not (patches & ~drawn).any()
            left_out = set(subjects[drawn & ~patches])
            assert not left_out & set(subjects[patches])
            assert 20 <= len(left_out) <= 30  # of 50
        other = [context.tested(study.Cell("scans", name, "clinic", 0.0), repeat) for name in ("tiny", "patch-cnn")]
        np.testing.assert_array_equal(*other)


@pytest.mark.slow
def test_subjects_whose_lesions_were_shown_are_not_tested_on(patchable, write_grid, mammograms, tmp_path):
    grid = [GRID[0], f"target,mini_mias,{mammograms},", f"patches,mini_mias,{mammograms},"]
    overrides = [*patchable, "repeats=1", "test_share=0.4", "patch_validation_share=0.4"]
    out = tmp_path / "RUN"
    table = start_run(write_grid(grid), out, overrides, methods=("patch-cnn",))
    assert set(table.dropna(subset="auc")["start"]) == {"random", "clinic"}
    (folder,) = (out / "sources" / "clinic").glob("patch-cnn-random/training-0")
    patches = pd.read_csv(next(folder.glob("patches-mini_mias-*.csv")), dtype=str)
    shown = set(patches.loc[patches["split"] != "test", "subject"])
    assert len(shown) > 5
    drawn = pd.read_csv(out / "draw-mini_mias-0.csv", dtype=str)
    left = set(drawn.loc[drawn["split"] == "test", "image"])
    for file in out.glob("cells/mini_mias/patch-cnn/*/*/repeat-0/predictions.csv"):
        rows = pd.read_csv(file, dtype={"subject": str})
        assert len(rows) > 10
        assert set(rows["image"]) < left
        assert not shown & set(rows["subject"])
    model = next(folder.glob("whole-image-*/model"))
    assert zoo.card(model).build["arguments"]["input_shape"] == [128, 128, 1]
    rows = pd.read_csv(folder_of(out, "mini_mias", "clinic", 0, 0, network="patch-cnn") / "predictions.csv")
    paths = [mammograms / image for image in rows["image"]]
    found = analysis.predict_images(zoo.load(model), zoo.card(model), paths)
    np.testing.assert_allclose(found[zoo.card(model).classes[1]], rows["score"], atol=1e-5)
    assert "patch-cnn was shown the lesions of" in (out / "report.md").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def test_an_error_in_a_process_reaches_the_caller_as_one_line(projected, write_grid, tmp_path, capsys):
    """A process of its own has no backbone `tiny`."""
    arguments = ["run", "pretraining_effect", "--data", str(write_grid()), "--out", str(tmp_path / "RUN")]
    arguments += ["--profile", "quick", "--method", "tiny", "--processes", "2"]
    code = main(arguments + [word for override in TINY for word in ("--set", override)])
    errors = capsys.readouterr().err.replace("\r", "\n")  # progress of reading images comes before
    assert code == 2
    assert errors.splitlines()[-1].startswith("medzoo: unknown ")
    assert errors.count("medzoo: ") == 1
    assert "Traceback" not in errors


@pytest.mark.slow
def test_two_processes_give_what_one_gives(write_grid, no_download, tmp_path):
    options = {"methods": ("resnet18",)}
    overrides = ["hybrid=none", "similarity=none", "repeats=1", "steps=1"]
    start_run(write_grid(GRID[:2]), tmp_path / "one", overrides, **options)
    start_run(write_grid(GRID[:2]), tmp_path / "two", overrides, processes=2, **options)
    expected = predictions(tmp_path / "one")
    assert len(expected) == 10
    assert predictions(tmp_path / "two") == expected


def test_recipe_is_registered():
    assert recipes.recipe("pretraining_effect") is study
    assert set(study.OPTIONS) <= set(recipes.OPTIONS)

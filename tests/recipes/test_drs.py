"""The recipe of Byra 2021 against the paper's text and numbers worked by hand, and runs on small made-up data."""

import contextlib
import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from medzoo import recipes, zoo
from medzoo.datasets.table import image_table
from medzoo.recipes import drs
from medzoo.training import fit, parse_settings, set_trainable
from medzoo.training.run import leaked
from medzoo.zoo import backbones, builders
from PIL import Image
from sklearn.metrics import roc_auc_score

# Table 2 of the paper: AUC, accuracy, sensitivity, specificity.
TABLE_2 = {
    "Feature extraction": (0.903, 0.823, 0.904, 0.784),
    "Fine-tuning, last block": (0.934, 0.884, 0.904, 0.875),
    "Fine-tuning, all blocks": (0.916, 0.884, 0.833, 0.909),
    "DRS": (0.935, 0.869, 0.833, 0.886),
    "DRS + fine-tuning, last block": (0.955, 0.915, 0.904, 0.920),
    "DRS + fine-tuning, all blocks": (0.954, 0.923, 0.976, 0.897),
}
NAMES = ["feature-extraction", "last-block", "all-blocks", "drs", "drs-last-block", "drs-all-blocks"]


def test_methods_are_those_of_table_2():
    assert list(drs.METHODS) == NAMES
    assert {method.title: method.published for method in drs.METHODS.values()} == TABLE_2


def bottleneck(inputs, width):
    """Parameters of a bottleneck block of keras.applications: three convolutions with bias, a batch norm each."""
    outputs = 4 * width
    convolutions = (inputs * width + width) + (9 * width * width + width) + (width * outputs + outputs)
    return convolutions + 2 * (width + width + outputs)


def test_parameter_counts_on_resnet101():
    """Table 1 has 4,471,394 (last block), 42,653,790 (all blocks) and 101,471 (DRS), "excluding the dense layer".

    The last is DRS with the dense layer (2,049). The other two hold DRS layers too, and 1,536 that we cannot explain:
    4,465,664 (the block) + 4,194 (its DRS layer) + 1,536 and 42,552,832 (the network) + 99,422 (all DRS) + 1,536.
    """
    stem = (7 * 7 * 3 * 64 + 64) + 2 * 64
    stages = [(64, 64, 3), (256, 128, 4), (512, 256, 23), (1024, 512, 3)]  # inputs, width, blocks
    network = stem
    for inputs, width, blocks in stages:
        shortcut = inputs * 4 * width + 4 * width + 2 * 4 * width
        network += bottleneck(inputs, width) + shortcut + (blocks - 1) * bottleneck(4 * width, width)
    last = bottleneck(2048, 512)
    scaling = sum(n * 2 * (side**2 + c) for n, side, c in [(3, 56, 256), (4, 28, 512), (23, 14, 1024), (3, 7, 2048)])
    head = 2048 + 1
    assert (last, network, scaling) == (4_465_664, 42_552_832, 99_422)
    assert (last + 4_194 + 1_536, network + scaling + 1_536, scaling + head) == (4_471_394, 42_653_790, 101_471)
    expected = [head, last + head, network + head, scaling + head, last + scaling + head, network + scaling + head]

    received = []
    for with_drs in (False, True):
        methods = [method for method in drs.METHODS.values() if method.drs == with_drs]
        model = builders.build(drs.description(drs.PROFILES["paper"], methods[0]))
        backbone = backbones.record("resnet101")
        received += [set_trainable(model, method.train(backbone)) for method in methods]
    assert received == expected


# ---------------------------------------------------------------------------------------------------------------------
# Settings and the grid


def test_grid_of_the_paper():
    """Section 3.4: learning rate 0.001, 0.01, 0.1; beta_1 0.85, 0.9, 0.95; three repeats."""
    for method in drs.METHODS.values():
        cells = list(drs.grid(parse_settings(drs.PROFILES, "paper"), method).values())
        assert len(cells) == 27
        assert set(cells) == {(r, b, n) for r in (0.001, 0.01, 0.1) for b in (0.85, 0.9, 0.95) for n in (0, 1, 2)}


def test_stage_of_the_paper():
    settings = parse_settings(drs.PROFILES, "paper")
    stage = drs.stage(settings, drs.METHODS["drs"], 0.01, 0.85)
    assert (settings.batch_size, settings.image_size, settings.backbone) == (24, 224, "resnet101")
    assert (stage.patience, stage.decay, stage.decay_epochs, stage.beta_2) == (20, 0.9, 4, 0.999)
    assert (stage.learning_rate, stage.beta_1, stage.weight_decay, stage.monitor) == (0.01, 0.85, 0, "val_accuracy")


def test_quick_grid_fine_tunes_blocks_more_slowly():
    settings = parse_settings(drs.PROFILES, "quick")
    rates = {name: [cell[0] for cell in drs.grid(settings, method).values()] for name, method in drs.METHODS.items()}
    assert rates["drs"] == rates["feature-extraction"] == [0.001]
    assert all(rates[name] == [0.0001] for name in NAMES if name not in ("drs", "feature-extraction"))


def test_overrides():
    changed = parse_settings(
        drs.PROFILES, "quick", ["epochs=7", "learning_rates=0.1,0.02", "decay=0.5", "backbone=resnet50"]
    )
    assert (changed.epochs, changed.learning_rates, changed.decay, changed.backbone) == (
        7,
        (0.1, 0.02),
        0.5,
        "resnet50",
    )
    assert changed.batch_size == 24
    assert parse_settings(drs.PROFILES, "quick").epochs == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "unknown option 'epoch': did you mean 'epochs'"),
        ("epochs", "--set epochs: expected key=value"),
        ("epochs=three", "--set epochs=three: expected int, as in epochs=10"),
        ("epochs=2.5", "--set epochs=2.5: expected int"),
        ("learning_rates=0.1;0.2", "expected numbers, separated by commas, as in learning_rates=0.001"),
        ("learning_rates=", "expected numbers"),
        ("epochs=0", "epochs: received 0, expected at least 1"),
        ("image_size=16", "image_size: received 16, expected at least 32"),
        ("batch_size=-1", "batch_size: received -1"),
        ("learning_rates=0.1,-0.1", "learning_rates: received -0.1"),
        ("beta_1=nan", "beta_1: received nan"),
        ("monitor=val_acuracy", "unknown monitor 'val_acuracy': did you mean 'val_accuracy'"),
        ("precision=bfloat16", "unknown precision 'bfloat16': did you mean 'mixed_bfloat16'"),
    ],
)
def test_impossible_overrides(override, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        parse_settings(drs.PROFILES, "quick", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "fast"}, "unknown profile 'fast'"),
        ({"methods": ["drs", "drs-last"]}, "unknown method 'drs-last': did you mean 'drs-last-block'"),
        ({"protocol": "soundd"}, "unknown protocol 'soundd': did you mean 'sound'"),
        ({"backbone": "resnet10"}, "unknown backbone 'resnet10': did you mean 'resnet101'"),
        ({"backbone": "vgg16"}, "backbone: received 'vgg16', expected a network of residual blocks"),
    ],
)
def test_unknown_names(arguments, message, busi, tmp_path):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        drs.run(busi, tmp_path / "run", **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_recipes_by_name():
    assert recipes.recipe("drs") is drs
    with pytest.raises(ValueError, match="unknown recipe 'dsr': did you mean 'drs'"):
        recipes.recipe("dsr")


# ---------------------------------------------------------------------------------------------------------------------
# The split


def table(subjects, labels):
    rows = [
        {"image": f"/made/up/{number:04}.png", "subject": subject, "label": label}
        for number, (subject, label) in enumerate(zip(subjects, labels, strict=True))
    ]
    return image_table(rows, "busi", "/made/up", ("benign", "malignant"), "twins")


@pytest.mark.parametrize("protocol", drs.PROTOCOLS)
def test_proportions_of_the_paper(protocol):
    """Section 3.1: 437 benign and 210 malignant images, 452/65/130, a third malignant in each part."""
    images = table([f"s{number}" for number in range(647)], ["benign"] * 437 + ["malignant"] * 210)
    split, excluded = drs.split_table(images, protocol, seed=0)
    assert excluded == []
    assert split["split"].value_counts().to_dict() == {"train": 452, "validation": 65, "test": 130}
    malignant = split[split["label"] == "malignant"]["split"].value_counts()
    for part, count in (("train", 452), ("validation", 65), ("test", 130)):
        assert abs(malignant[part] - count * 210 / 647) < 1


def test_sound_protocol_divides_no_group_and_leaves_out_contradictions():
    # Groups of three; the groups 4 and 9 hold both labels.
    subjects = [f"group-{number // 3}" for number in range(180)]
    labels = ["benign" if number // 3 % 3 else "malignant" for number in range(180)]
    labels[12], labels[27] = "malignant", "benign"
    images = table(subjects, labels)
    split, excluded = drs.split_table(images, "sound", seed=0)
    assert [path.split("/")[-1] for path in excluded] == [f"{n:04}.png" for n in (12, 13, 14, 27, 28, 29)]
    assert len(split) == 174
    assert not set(split["image"]) & set(excluded)
    assert (split.groupby("subject")["split"].nunique() == 1).all()
    assert leaked(split) == (0, (split["split"] == "test").sum())

    split, excluded = drs.split_table(images, "published", seed=0)
    assert (len(split), excluded) == (180, [])
    divided = split.groupby("subject")["split"].nunique() > 1
    assert divided.any()
    test = split[split["split"] == "test"]
    elsewhere = set(split[split["split"] != "test"]["subject"])
    assert leaked(split) == (sum(subject in elsewhere for subject in test["subject"]), len(test))


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs

SMALL = ("image_size=32", "epochs=2", "variants=2", "batch_size=12", "precision=float32")


def run(busi, out, **arguments):
    return drs.run(busi, out, "quick", backbone="tiny", overrides=SMALL, verbose=0, **arguments)


def contents(folder, names):
    files = ("predictions.csv", "metrics.json", "model/weights.safetensors")
    return {(name, file): (folder / name / file).read_bytes() for name in names for file in files}


def test_six_methods_end_to_end_and_resumed_after_kills(busi, tiny, tmp_path):
    out = tmp_path / "whole"
    results = run(busi, out)
    assert list(results["method"]) == list(TABLE_2)
    check_numbers(out, results)
    check_model(out, busi)
    # By hand: the network has 3x5x5x12+12 and three blocks of 3x3x12x12+12 and 2x12; DRS 8x8 positions, 12 channels.
    stem, block, scaling, head = 912, 1332, 3 * 2 * (64 + 12), 13
    assert list(results["trainable_parameters"]) == [
        head,
        block + head,
        stem + 3 * block + head,
        scaling + head,
        block + scaling + head,
        stem + 3 * block + scaling + head,
    ]
    report = (out / "report.md").read_bytes()
    for figure in ("4-roc", "5-activation-rates", "6-activation-rate-changes", "7-scaling-deviations"):
        assert (out / f"figure-{figure}.png").read_bytes().startswith(b"\x89PNG")

    # Killed while the second method trains, and again when the fourth is scored.
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt), kill_after(3, fit._Progress, "on_epoch_end"):
        run(busi, killed)
    assert (killed / "feature-extraction" / "metrics.json").is_file()
    assert list((killed / "last-block").glob("*/stage-0/state.safetensors"))
    with pytest.raises(KeyboardInterrupt), kill_after(3, drs, "score"):
        run(busi, killed)
    assert (killed / "all-blocks" / "metrics.json").is_file()
    assert not (killed / "drs" / "metrics.json").exists()
    run(busi, killed)
    assert (killed / "report.md").read_bytes() == report
    assert (killed / "results.csv").read_bytes() == (out / "results.csv").read_bytes()
    assert contents(killed, NAMES) == contents(out, NAMES)

    # A finished run trains nothing again, and accepts neither other settings nor other data.
    with kill_after(1, drs, "train_cell"):
        run(busi, out)
    assert (out / "report.md").read_bytes() == report
    with pytest.raises(ValueError, match="holds a run with protocol 'published', received 'sound'"):
        run(busi, out, protocol="sound")
    shutil.copytree(busi, tmp_path / "fewer")
    (tmp_path / "fewer" / "benign" / "benign (3).png").unlink()
    with pytest.raises(ValueError, match=r"split\.csv: received other images or another split") as error:
        run(tmp_path / "fewer", out)
    assert "\n" not in str(error.value)
    assert (out / "report.md").read_bytes() == report


@contextlib.contextmanager
def kill_after(calls, owner, name):
    """Raises KeyboardInterrupt at the end of that call of a function."""
    function, count = getattr(owner, name), []

    def counted(*args, **kwargs):
        result = function(*args, **kwargs)
        count.append(1)
        if len(count) == calls:
            raise KeyboardInterrupt
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield


def check_numbers(out, results):
    """The report's numbers follow from the predictions in the folder."""
    split = pd.read_csv(out / "split.csv")
    assert len(split) == 40
    for name, row in zip(NAMES, results.to_dict("records"), strict=True):
        predictions = pd.read_csv(out / name / "predictions.csv")
        merged = predictions.merge(split, on="image", suffixes=("", "_of_split"))
        assert len(merged) == (split["split"] != "train").sum()
        assert (merged["split"] == merged["split_of_split"]).all()
        test = predictions[predictions["split"] == "test"]
        assert row["auc"] == pytest.approx(roc_auc_score(test["label"] == "malignant", test["score"]))
        assert row["auc_low"] <= row["auc"] <= row["auc_high"]
        assert row["auc_n"] == len(test)
        assert (row["auc_paper"], row["accuracy_paper"]) == drs.METHODS[name].published[:2]
        metrics = json.loads((out / name / "metrics.json").read_text())
        history = pd.read_csv(out / name / metrics["cell"] / "stage-0" / "history.csv")
        # The scores are those of the epoch that was best on the validation part.
        validation = predictions[predictions["split"] == "validation"]
        best = roc_auc_score(validation["label"] == "malignant", validation["score"])
        assert best == pytest.approx(history["val_auc"].max(), abs=0.02 if name in NAMES[:2] else 1e-9)
        assert f"{row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f})" in (out / "report.md").read_text()


def check_model(out, busi):
    """The saved model, loaded by the zoo, scores image files as the run did."""
    model = zoo.load(out / "drs-last-block" / "model")
    predictions = pd.read_csv(out / "drs-last-block" / "predictions.csv")
    images = [Image.open(busi / path).convert("RGB").resize((32, 32), Image.BILINEAR) for path in predictions["image"]]
    scores = model.predict(np.stack([np.asarray(image, "float32") for image in images]), verbose=0)
    np.testing.assert_allclose(scores[:, 0], predictions["score"], atol=1e-3)
    if keras.backend.backend() == "tensorflow":
        assert (out / "drs-last-block" / "model" / "saved_model" / "saved_model.pb").is_file()


def test_best_cell_is_the_first_of_the_best_on_validation(monkeypatch, tmp_path):
    settings = parse_settings(drs.PROFILES, "quick", ["learning_rates=0.1,0.2", "repeats=2", "epochs=2"])
    values = iter([[0.5, 0.7], [0.8, 0.1], [0.2, 0.8], [0.6, 0.6]])
    trained = []

    def train_cell(parts, settings, method, cell, folder, verbose):
        trained.append((cell, folder.name))
        return len(trained), [{"val_auc": value} for value in next(values)]

    monkeypatch.setattr(drs, "train_cell", train_cell)
    name, model = drs.choose_cell(None, settings, drs.METHODS["drs"], tmp_path)
    assert [cell for cell, _ in trained] == [(0.1, 0.9, 0), (0.1, 0.9, 1), (0.2, 0.9, 0), (0.2, 0.9, 1)]
    assert (name, model) == ("rate-0.1_beta-0.9_repeat-1", 2)


@pytest.mark.slow
def test_real_images(shared, imagenet, tmp_path):
    """ResNet18 at 96 pixels on the real BUSI, a minute of training: better than chance, no group divided."""
    overrides = ("image_size=96", "epochs=4", "variants=2", "precision=float32")
    methods = ("feature-extraction", "drs-last-block")
    results = drs.run(shared / "data" / "busi", tmp_path, "quick", "sound", methods, overrides=overrides, verbose=0)
    assert (results["auc_low"] > 0.5).all()
    assert (results["auc"] > 0.7).all()
    split = pd.read_csv(tmp_path / "split.csv")
    assert (split.groupby("subject")["split"].nunique() == 1).all()
    assert (split.groupby("subject")["label"].nunique() == 1).all()
    assert " 0 of the" in (tmp_path / "report.md").read_text()

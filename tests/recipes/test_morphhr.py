"""The recipe of MorphHR against the paper's tables and equations, and runs on small made-up data."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from medzoo import analysis, recipes, zoo
from medzoo.datasets.chestxray14 import FINDINGS
from medzoo.datasets.table import image_table
from medzoo.recipes import morphhr
from medzoo.training import parse_settings
from PIL import Image
from sklearn.metrics import roc_auc_score

# Table I: input (width x height), AUC on validation and test with 1 and 10 crops.
TABLE_1 = {
    "ResNet18_S224": ("224x288", 78.15, 79.76, 72.57, 75.33),
    "MorphHR-ResNet18_S224": ("448x576", 82.5, 84.75, 75.23, 76.73),
    "ResNet18_S448": ("448x576", 83.82, 86.36, 78.82, 79.95),
    "MorphHR-ResNet18_S448": ("896x1152", 87.48, 89.33, 78.36, 80.13),
    "ResNet18_S896": ("896x1152", 91.26, 92.74, 79.58, 80.68),
    "MorphHR-ResNet18_S896": ("1792x2304", 91.82, 93.48, 79.64, 81.87),
}
# Table III, label Mass: input, AUC on the test with 1 and 10 crops.
TABLE_3 = {
    "ResNet18_S224": ("224x224", 79.74, 81.55),
    "MorphHR-ResNet18_S224": ("448x448", 80.98, 82),
    "ResNet18_S448": ("448x448", 80.67, 82.44),
    "MorphHR-ResNet18_S448": ("896x896", 82.53, 83.77),
}
TINY = [
    "reduction=7",
    "batch_size=8",
    "epochs=1,1",
    "repeats=2",
    "crops=1,10",
    "validation_share=0.3",
    "test_share=0.4",
]
PAIR = ("ResNet18_S224", "MorphHR-ResNet18_S224")


def table_of(classes, several=False):
    table = pd.DataFrame()
    table.attrs = {"classes": classes, **({"multi_label": True} if several else {})}
    return table


@pytest.mark.parametrize("name", TABLE_1)
def test_rows_are_those_of_table_1(name):
    method, data = morphhr.METHODS[name], morphhr.DATASETS["cbis_ddsm"]
    build = morphhr.description(
        parse_settings(morphhr.PROFILES, "paper"), data, method, table_of(["benign", "malignant"])
    )
    height, width, channels = build["arguments"]["input_shape"]
    size, *areas = TABLE_1[name]
    assert (f"{width}x{height}", channels) == (size, 1)
    assert [100 * area for area in method.cbis_ddsm] == pytest.approx(areas)
    assert bool(build["arguments"]["surgery"]) == name.startswith("MorphHR")


@pytest.mark.parametrize("name", TABLE_3)
def test_rows_are_those_of_table_3(name):
    method, data = morphhr.METHODS[name], morphhr.DATASETS["chestxray14"]
    build = morphhr.description(parse_settings(morphhr.PROFILES, "paper"), data, method, table_of(["a"] * 14, True))
    height, width, _ = build["arguments"]["input_shape"]
    size, *areas = TABLE_3[name]
    assert f"{width}x{height}" == size
    assert [100 * area for area in method.chestxray14] == pytest.approx(areas)
    assert build["arguments"]["multi_label"]
    assert build["arguments"]["classes"] == 14


def test_all_rows_are_there():
    assert list(morphhr.METHODS) == list(TABLE_1)
    assert {name for name, method in morphhr.METHODS.items() if method.chestxray14} == set(TABLE_3)
    assert morphhr.ENSEMBLE["MorphHR-ResNet18_S896"] == (0.936, 0.9427, 0.8216, 0.8313)


def test_training_of_the_paper():
    """Section IV.B: 30 epochs at 1e-4 and 20 at 1e-5, decay 1e-4, all layers, batches of 32, four rounds."""
    settings = parse_settings(morphhr.PROFILES, "paper")
    first, second = morphhr.stages(settings)
    assert (first.epochs, first.learning_rate, second.epochs, second.learning_rate) == (30, 1e-4, 20, 1e-5)
    assert (first.weight_decay, second.weight_decay) == (1e-4, 1e-4)
    assert (first.train, second.train) == (("*",), ("*",))
    assert (settings.batch_size, settings.crop, settings.repeats, settings.crops) == (32, 0.875, 4, (1, 10))
    assert (settings.validation_share, settings.backbone) == (0.15, "resnet18")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("downsample=avgpool", "unknown downsample 'avgpool'"),
        ("crops=5", r"crops: received \(5,\), expected 1, 10 or 1,10"),
        ("reduction=8", "reduction: received 8, expected at most 7"),
        ("epochs=3", "epochs: received 1 stages, expected 2"),
        ("crop=1.5", "crop: received 1.5, expected more than 0 and at most 1"),
        ("repeats=0", "repeats: received 0, expected at least 1"),
        ("precision=half", "unknown precision 'half'"),
    ],
)
def test_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(morphhr.PROFILES, "paper", [override])


# ---------------------------------------------------------------------------------------------------------------------
# Runs on made-up data


@pytest.fixture(scope="module")
def rsna(tmp_path_factory):
    """48 women with two mammograms each in the layout of RSNA 2022; cancers are bright spots."""
    folder = tmp_path_factory.mktemp("made-up") / "RSNA"
    rows, columns = np.mgrid[:48, :48]
    lines = ["site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,machine_id"]
    for patient in range(48):
        for image in range(2):
            random = np.random.default_rng([patient, image])
            cancer = patient % 2
            blob = ((rows - random.uniform(16, 32)) ** 2 + (columns - random.uniform(16, 32)) ** 2) < 30
            pixels = random.normal(90, 20, (48, 48)) + 110 * cancer * blob
            file = folder / "train_images" / str(patient) / f"{100 * patient + image}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(file)
            lines.append(
                f"{patient % 4 // 2},{patient},{file.stem},L,{'CC' if image else 'MLO'},{40 + patient},{cancer},0,29"
            )
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(tiny, rsna, tmp_path):
    def run(folder="RUN", methods=PAIR, overrides=TINY, **options):
        chosen = {"dataset": "rsna", "profile": "quick", "backbone": tiny, "verbose": 0, **options}
        return morphhr.run(rsna, tmp_path / folder, methods=methods, overrides=overrides, **chosen), tmp_path / folder

    return run


def test_run_trains_measures_and_reports(run, rsna):
    results, folder = run()
    assert set(results["method"]) == set(PAIR)
    assert set(results["crops"]) == {1, 10}
    split = pd.read_csv(folder / "split.csv", dtype={"subject": str})
    assert split.groupby("subject")["split"].nunique().max() == 1
    assert set(split["split"]) == {"train", "validation", "test"}

    # The table's numbers, computed from the predictions by scikit-learn.
    for crops in (1, 10):
        files = [folder / PAIR[1] / f"repeat-{repeat}" / f"predictions-{crops}-crop.csv" for repeat in (0, 1)]
        tests = [each[each["split"] == "test"] for each in map(pd.read_csv, files)]
        labels = tests[0]["label"] == "cancer"
        areas = [roc_auc_score(labels, each["cancer"]) for each in tests]
        chosen = results.query(f"method == '{PAIR[1]}' and crops == {crops} and part == 'test'").iloc[0]
        assert chosen["auc"] == pytest.approx(np.mean(areas))
        assert chosen["deviation"] == pytest.approx(np.std(areas, ddof=1))
        assert chosen["ensemble"] == pytest.approx(roc_auc_score(labels, tests[0]["cancer"] + tests[1]["cancer"]))
        assert chosen["auc_n"] == len(labels)
        assert pd.isna(chosen["auc_paper"])  # the paper's networks are ResNet18

    report = (folder / "report.md").read_text()
    for text in ("MorphHR-Tiny_S224 - Tiny_S224", "within machines", "random forest", "0 of the", "morphed, after"):
        assert text.lower() in report.lower(), text
    for file in ("figure-3-roc.png", "figure-4-sensitivity-specificity.png"):
        assert Image.open(folder / file).size[0] > 300
    steps = pd.read_csv(folder / "recovery.csv")
    assert steps["iteration"].tolist() == [-1, *morphhr.RECOVERY]
    moved = pd.read_csv(folder / "movement.csv")
    assert (moved["cosine"] <= 1).all()
    assert (moved["distance"] > 0).all()


def test_model_of_a_run_loads_and_gives_its_predictions(run, rsna):
    """From the card alone, and through `prepare_image`, which crops as the test did."""
    _, folder = run(methods=PAIR[1:], overrides=[*TINY, "crops=1", "repeats=1"])
    folder = folder / PAIR[1] / "repeat-0"
    model, card = zoo.load(folder / "model"), zoo.card(folder / "model")
    assert card.input["shape"] == [64, 64, 1]
    assert card.input["crop"] == 0.875
    expected = pd.read_csv(folder / "predictions-1-crop.csv")
    table = analysis.predict_images(model, card, [rsna / image for image in expected["image"]])
    np.testing.assert_allclose(table["cancer"], expected["cancer"], atol=2e-5)
    names = {(metric["name"], metric["part"]) for metric in card.metrics}
    assert names == {("auc", "validation"), ("auc", "test")}
    test = expected[expected["split"] == "test"]
    area = next(metric for metric in card.metrics if metric["part"] == "test")
    assert area["value"] == pytest.approx(roc_auc_score(test["label"] == "cancer", test["cancer"]))


def test_finished_trainings_are_left_alone_and_crops_may_be_added(run):
    _, folder = run(overrides=[*TINY, "crops=1", "repeats=1"], methods=PAIR[:1])
    weights = folder / PAIR[0] / "repeat-0" / "model" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    results, _ = run(overrides=[*TINY, "crops=1,10", "repeats=1"], methods=PAIR[:1])
    assert weights.stat().st_mtime_ns == before
    assert set(results["crops"]) == {1, 10}
    with pytest.raises(ValueError, match="holds a run with settings"):
        run(overrides=[*TINY, "crops=1", "repeats=1", "seed=5"], methods=PAIR[:1])


def test_ten_crops_average_ten_predictions(run, rsna):
    """The first test image's score, computed window by window."""
    _, folder = run(methods=PAIR[:1], overrides=[*TINY, "repeats=1"])
    folder = folder / PAIR[0] / "repeat-0"
    model = zoo.load(folder / "model")
    row = pd.read_csv(folder / "predictions-10-crop.csv").iloc[0]
    pixels = np.asarray(Image.open(rsna / row["image"]).convert("L").resize((37, 37), Image.BILINEAR), "float32")
    scores = []
    for top, left in ((0, 0), (0, 5), (5, 0), (5, 5), (2, 2)):
        window = pixels[top : top + 32, left : left + 32]
        for each in (window, window[:, ::-1]):
            scores.append(keras.ops.convert_to_numpy(model(each[None, :, :, None]))[0, 0])
    assert row["cancer"] == pytest.approx(np.mean(scores), abs=1e-4)


def test_protocols_report_the_validation_or_the_test_part():
    """Validation: 0.5 parts the classes. On the test part that passes one of two negatives and misses no positive."""
    label = ["a", "a", "b", "b"]
    rows = {"image": list("wxyz"), "subject": list("wxyz"), "label": label}
    validation = pd.DataFrame({**rows, "split": "validation", "b": [0.1, 0.2, 0.5, 0.9]})
    test = pd.DataFrame({**rows, "split": "test", "b": [0.1, 0.6, 0.7, 0.9]})
    table = table_of(["a", "b"])
    scores = morphhr.Scores(table, [pd.concat([validation, test])])
    chosen = {name: morphhr.operating_point(scores, "b", name) for name in morphhr.PROTOCOLS}
    assert [share.value for share in chosen["published"]] == [1, 1]
    assert [share.value for share in chosen["sound"]] == [1, 0.5]


def test_table_2_cannot_be_of_the_test_part():
    """A concave ROC curve through 0.9 and 0.8624 has an area of at least their mean: more than the test AUC."""
    sensitivity, specificity = morphhr.SENSITIVITY_SPECIFICITY["MorphHR-ResNet18_S896"]
    validation, test = morphhr.ENSEMBLE["MorphHR-ResNet18_S896"][1::2]
    assert test < (sensitivity + specificity) / 2 < validation


@pytest.mark.parametrize(
    ("dataset", "asked", "expected"),
    [
        ("cbis_ddsm", ("MorphHR-ResNet18_S224", 10, "test", "malignant"), 0.7673),
        ("rsna", ("ResNet18_S896", 1, "validation", "cancer"), 0.9126),
        ("cbis_ddsm", ("MorphHR-ResNet18_S896", 10, "test", "malignant", True), 0.8313),
        ("cbis_ddsm", ("ResNet18_S224", 10, "test", "malignant", True), None),
        ("chestxray14", ("MorphHR-ResNet18_S224", 1, "test", "Mass"), 0.8098),
        ("chestxray14", ("MorphHR-ResNet18_S448", 10, "test", "Hernia"), 0.8822),
        ("chestxray14", ("ResNet18_S448", 10, "test", "Hernia"), None),
        ("chestxray14", ("ResNet18_S448", 10, "validation", "Mass"), None),
        ("folder", ("ResNet18_S224", 1, "test", "b"), None),
    ],
)
def test_papers_number_beside_ours(dataset, asked, expected):
    settings = parse_settings(morphhr.PROFILES, "paper")
    context = morphhr.Context(None, settings, dataset, "published", "")
    assert morphhr.published(context, *asked) == expected


def test_table_4():
    assert list(morphhr.TABLE_4) == [*FINDINGS, "average"]
    *areas, average = np.transpose(list(morphhr.TABLE_4.values())).T
    assert np.mean(areas, axis=0) == pytest.approx(average, abs=5e-4)
    assert morphhr.TABLE_4["Mass"] == morphhr.METHODS["MorphHR-ResNet18_S448"].chestxray14


def image_rows(parts):
    """An image table of four subjects a part, two of each class."""
    rows = [
        {"image": f"{part}{number}.png", "subject": f"{part}{number}", "label": "ab"[number % 2], "split": part}
        for part in parts
        for number in range(4)
    ]
    return image_table(rows, "mine", ".", ("a", "b"), "named")


def test_split_that_is_given_stays():
    settings = parse_settings(morphhr.PROFILES, "paper")
    table = image_rows(["train", "validation", "test"])
    assert morphhr.split_table(table, settings)["split"].tolist() == table["split"].tolist()


def test_parts_without_a_class_are_refused():
    settings = parse_settings(morphhr.PROFILES, "paper")
    with pytest.raises(ValueError, match="mine: 0 of the 0 images of the part 'test' show 'b', expected some"):
        morphhr.split_table(image_rows(["train", "validation"]), settings)
    table = image_rows(["train", "validation", "test"])
    table.loc[table["split"] == "test", "label"] = "b"
    with pytest.raises(ValueError, match="mine: 4 of the 4 images of the part 'test' show 'b', expected some and not"):
        morphhr.split_table(table, settings)


def test_class_with_a_bar_in_its_name_is_one():
    table = table_of(["a", "a|b"])
    assert morphhr.is_present(["a|b", "a"], "a|b", table).tolist() == [1, 0]
    assert morphhr.is_present(["a|b", "a"], "a", table_of(["a", "b"], True)).tolist() == [1, 1]


def test_reduced_networks_see_the_same_maps():
    settings = parse_settings(morphhr.PROFILES, "paper", ["reduction=3"])
    table = table_of(["a", "b"])
    shapes = [
        morphhr.description(settings, morphhr.DATASETS["cbis_ddsm"], morphhr.METHODS[name], table)["arguments"][
            "input_shape"
        ]
        for name in PAIR
    ]
    assert shapes == [[96, 75, 1], [192, 150, 1]]


def test_refused_before_anything_trains(run, tmp_path):
    for options, message in (
        ({"methods": ("ResNet18_S225",)}, "unknown method 'ResNet18_S225': did you mean 'ResNet18_S224'"),
        ({"protocol": "sounds"}, "unknown protocol 'sounds'"),
        ({"dataset": "rsnaa"}, "unknown dataset 'rsnaa': did you mean 'rsna'"),
        ({"profile": "fast"}, "unknown profile 'fast'"),
    ):
        with pytest.raises(ValueError, match=message):
            run("REFUSED", **options)
    assert not (tmp_path / "REFUSED").exists()


def test_recipe_is_registered():
    assert recipes.recipe("morphhr") is morphhr


# ---------------------------------------------------------------------------------------------------------------------
# ChestX-ray14


def test_several_labels(tiny, tmp_path):
    """A made-up ChestX-ray14 with two of its findings drawn: a bright upper or a bright lower half."""
    folder = tmp_path / "CXR"
    (folder / "images").mkdir(parents=True)

    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    lines, lists = [header], {"train_val_list.txt": [], "test_list.txt": []}
    random = np.random.default_rng(0)
    for patient in range(120):
        name = f"{patient:08d}_000.png"
        present = [finding for index, finding in enumerate(FINDINGS) if (patient // 2 + index) % 5 == 0]
        Image.fromarray(random.integers(0, 255, (40, 40)).astype("uint8")).save(folder / "images" / name)
        lines.append(f"{name},{'|'.join(present) or 'No Finding'},0,{patient},50,F,PA")
        lists["test_list.txt" if patient % 3 == 0 else "train_val_list.txt"].append(name)
    (folder / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    for name, images in lists.items():
        (folder / name).write_text("\n".join(images) + "\n")
    results = morphhr.run(
        folder,
        tmp_path / "RUN",
        dataset="chestxray14",
        profile="quick",
        methods=PAIR[1:],
        backbone=tiny,
        overrides=["reduction=7", "epochs=1,1", "repeats=1", "validation_share=0.3", "batch_size=20"],
        verbose=0,
    )
    test = results.query("part == 'test'")
    assert test["output"].tolist() == [*FINDINGS, "average"]
    single = test[test["output"] != "average"]["auc"]
    assert test[test["output"] == "average"]["auc"].iloc[0] == pytest.approx(single.mean())
    card = json.loads((tmp_path / "RUN" / PAIR[1] / "repeat-0" / "model" / "card.json").read_text())
    assert card["task"] == "multi-label classification"
    assert len(card["classes"]) == 14

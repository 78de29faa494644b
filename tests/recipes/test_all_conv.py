"""The all-convolutional recipe against the paper's tables and text, and runs on small made-up data."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from medzoo import analysis, datasets, recipes, zoo
from medzoo.datasets.regions import Region
from medzoo.datasets.table import image_table
from medzoo.layers import TOPS
from medzoo.recipes import all_conv
from medzoo.training import parse_settings
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

# Tables 2 and 3 as printed: patch set, blocks, AUC and AUC of augmented prediction.
TABLE_2 = """
S1 [512-512-2048]x1 [512-512-2048]x1 0.63 NA
S10 [512-512-2048]x1 [512-512-2048]x1 0.85 0.87
S10 [512-512-1024]x2 [512-512-1024]x2 0.85 0.87
S10 [256-256-256]x1 [128-128-128]x1 0.84 0.85
S10 [256-256-256]x3 [128-128-128]x3 0.83 0.84
S10 [256-256-512]x3 [128-128-256]x3 0.84 0.87
S10 256x1 128x1 0.87 0.88
heatmap S10 [512-512-1024]x2 [512-512-1024]x2 0.80 NA
heatmap S10 [64-64-256]x2 [128-128-512]x2 0.81 NA
fc S10 5 64 32 0.73 NA
fc S10 2 512 256 0.72 NA
fc S10 1 2048 1024 0.65 NA
"""
TABLE_3 = """
S10 512x3 512x3 0.81 0.82
S10 512x1 512x1 0.83 0.86
S10 256x3 128x3 0.83 0.85
S10 256x1 128x1 0.85 0.86
S10 128x1 64x1 0.84 0.85
S10 [512-512-1024]x2 [512-512-1024]x2 0.85 0.88
fc S10 5 64 32 0.71 NA
fc S10 2 512 256 0.68 NA
fc S10 1 2048 1024 0.69 NA
"""
TINY = [
    "input_size=128,128",
    "patch_size=32",
    "patch_epochs=1,1,1",
    "epochs=1,1",
    "batch_size=8",
    "test_share=0.4",
    "validation_share=0.4",
    "transfer_test_share=0.4",
    "transfer_subjects=4",
    "transfer_epochs=1",
    "precision=float32",
]


def printed(table, backbone):
    """Rows of a printed table as the recipe has them."""
    rows = {}
    for line in table.strip().splitlines():
        *head, patch_set, one, two, area, augmented = line.replace("[", "").replace("]", "").split()
        if (head and head[0] == "fc") or patch_set.isdigit():
            pool, patch_set = patch_set, head[-1]
            top = f"heatmap-pool{pool}-fc{one}-fc{two}"
        else:
            kind = "resnet" if "-" in one else "vgg"
            top = f"{'heatmap-' if head else ''}{kind}-{one}-{two}"
        rows[backbone, patch_set, top] = (float(area), None if augmented == "NA" else float(augmented))
    return rows


def test_rows_are_those_of_tables_2_and_3():
    assert printed(TABLE_2, "resnet50") | printed(TABLE_3, "vgg16") == all_conv.TABLES_2_AND_3
    assert {top for _, _, top in all_conv.TABLES_2_AND_3} == set(TOPS)


def test_table_4_by_network():
    """As printed: Resnet-Resnet, Resnet-VGG, VGG-VGG, VGG-Resnet."""
    printed = {20: (92, 88, 87, 89), 30: (93, 94, 93, 90), 40: (93, 95, 93, 93), 50: (94, 95, 94, 93)}
    printed |= {60: (95, 95, 95, 94), 72: (95, 95, 95, 95)}
    order = [("resnet50", "resnet"), ("resnet50", "vgg"), ("vgg16", "vgg"), ("vgg16", "resnet")]
    for women, areas in printed.items():
        known = dict(zip(all_conv.BEST_FOUR, all_conv.TABLE_4[women], strict=True))
        found = [100 * known[backbone, all_conv.BEST_TOPS[kind]] for backbone, kind in order]
        assert found == pytest.approx(areas)


def test_training_of_the_paper():
    """Section 3.1.2."""
    settings = parse_settings(all_conv.PROFILES, "paper")
    patch = all_conv.patch_stages(settings)
    assert [(stage.epochs, stage.learning_rate) for stage in patch] == [(3, 1e-3), (10, 1e-4), (37, 1e-5)]
    assert [stage.train[-1] for stage in patch] == ["head", "head", "*"]
    whole = all_conv.whole_image_stages(settings, "vgg-256x1-128x1")
    assert [(stage.epochs, stage.learning_rate, stage.weight_decay) for stage in whole] == [
        (30, 1e-4, 0.001),
        (20, 1e-5, 0.01),
    ]
    assert [stage.train for stage in whole] == [("top", "head"), ("*",)]
    (transfer,) = all_conv.transfer_stages(settings)
    assert (transfer.epochs, transfer.learning_rate, transfer.weight_decay) == (200, 1e-5, 0.01)
    random = parse_settings(all_conv.PROFILES, "paper", ["start=random"])
    assert [(stage.epochs, stage.learning_rate) for stage in all_conv.patch_stages(random)] == [(50, 1e-3)]
    assert (settings.input_size, settings.patch_size, settings.patch_batch_size, settings.batch_size) == (
        (1152, 896),
        224,
        32,
        2,
    )
    assert (settings.test_share, settings.validation_share, settings.transfer_subjects) == (
        0.15,
        0.1,
        (20, 30, 40, 50, 60),
    )


def test_top_46_layers_of_resnet50_by_name():
    """Counted from the end of Keras 2.0: pooling and dense layer, 32, 10, and two without weights."""
    network = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(64, 64, 3))
    # Keras 2.0 had no layers of Keras 3's names, but the same layers in each block: 12 in the first one, 10 in others.
    names = [layer.name for layer in network.layers]
    last = [name for name in names if name.startswith(("conv5_", "conv4_block6_"))]
    assert len(last) == 32 + 10
    assert zoo.backbones.match_layers(names, ("conv4_block6_*", "conv5_*")) == last
    assert all_conv.UNFROZEN["resnet50"] == ("stage4", "conv4_block6_*", "head")


def test_top_11_layers_of_vgg16_by_name():
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3))
    names = [layer.name for layer in network.layers][-9:]  # 11 with the pooling and the dense layer
    assert names[0] == "block3_pool"  # without weights
    assert {name.split("_")[0] for name in names[1:]} == {"block4", "block5"}
    assert all_conv.UNFROZEN["vgg16"] == ("stage3", "stage4", "head")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("patch_set=S5", "unknown patch_set 'S5'"),
        ("start=zeros", "unknown start 'zeros'"),
        ("flips=3", "unknown flips 3"),
        ("epochs=3", "epochs: received 1 numbers, expected 2"),
        ("input_size=512", "input_size: received 1 numbers, expected 2"),
        ("patch_size=1000", "patch_size: received 1000, expected at most the image's"),
        ("transfer_subjects=0", "transfer_subjects: received 0, expected at least 1"),
        ("test_share=2", "test_share: received 2, expected more than 0"),
    ],
)
def test_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(all_conv.PROFILES, "paper", [override])


def test_growing_subsets_are_nested_whole_and_stratified():
    rows = [
        {"image": f"{woman}-{view}.png", "subject": f"w{woman}", "label": "sick" if woman % 4 == 0 else "well"}
        for woman in range(40)
        for view in range(2)
    ]
    table = image_table(rows, "made", "/nowhere", ("well", "sick"), "named")
    training = np.flatnonzero(table["subject"] != "w39")
    found = all_conv.growing_subsets(table, training, (8, 20, 99))
    assert list(found) == [8, 20, 39]  # no 99: there are 39
    before = set()
    for number, positions in found.items():
        part = table.iloc[positions]
        assert part["subject"].nunique() == number
        assert len(part) == 2 * number  # all images of each
        assert before <= set(positions)
        before = set(positions)
        sick = part[part["label"] == "sick"]["subject"].nunique()
        assert abs(sick - number / 4) <= 1
    assert before == set(training)


# ---------------------------------------------------------------------------------------------------------------------
# Runs on made-up data


@pytest.fixture(scope="module")
def screening(tmp_path_factory):
    """40 women with two mammograms each in the layout of RSNA 2022, without lesions that anybody marked."""
    folder = tmp_path_factory.mktemp("made-up") / "RSNA"
    lines = ["site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,machine_id"]
    for patient in range(40):
        for image in range(2):
            pixels = np.random.default_rng([patient, image]).normal(90 + 40 * (patient % 2), 30, (96, 96))
            file = folder / "train_images" / str(patient) / f"{100 * patient + image}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(file)
            lines.append(f"{patient % 4 // 2},{patient},{file.stem},L,MLO,{40 + patient},{patient % 2},0,29")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(coarse, mammograms, tmp_path, monkeypatch):
    monkeypatch.setitem(all_conv.UNFROZEN, coarse, ("stage4", "head"))

    def run(folder="RUN", overrides=(), data=mammograms, **options):
        chosen = {"dataset": "mini_mias", "profile": "quick", "backbone": coarse, "verbose": 0, **options}
        return all_conv.run(data, tmp_path / folder, overrides=[*TINY, *overrides], **chosen), tmp_path / folder

    return run


def moved(mammograms):
    """The issue of moving: patches of one dataset, whole images of another, and back."""
    return {
        "patch_dataset": "mini_mias",
        "patch_data": mammograms,
        "transfer_dataset": "mini_mias",
        "transfer_data": mammograms,
    }


def test_whole_run_with_transfer_reports_what_its_predictions_give(run, screening, mammograms, monkeypatch):
    methods = ("patch-classifier", "whole-image", "imagenet-start", "fine-tuning", "two-step")
    trained = []  # women of mini-MIAS whose images a network was fitted to
    fit = all_conv.fit

    def watch(model, schedule, train, *rest):
        subjects = getattr(watch, "subjects", None)
        if subjects is not None:
            trained.append(set(subjects[train.indices]))
        return fit(model, schedule, train, *rest)

    train_transfer = all_conv.train_transfer

    def watch_transfer(images, *rest, **options):
        watch.subjects = images.table["subject"].to_numpy()
        try:
            return train_transfer(images, *rest, **options)
        finally:
            watch.subjects = None

    monkeypatch.setattr(all_conv, "fit", watch)
    monkeypatch.setattr(all_conv, "train_transfer", watch_transfer)
    options = {"data": screening, "dataset": "rsna", "methods": methods, "overrides": ["flips=4"], **moved(mammograms)}
    results, out = run(**options)
    assert set(results["method"]) == set(methods)
    for record in results.to_dict("records"):
        folder = out / all_conv.row_of(record).name
        if not pd.isna(record["subjects"]):
            folder = out / "transfer-mini_mias" / folder.name / f"subjects-{int(record['subjects'])}"
        rows = pd.read_csv(folder / all_conv.FILES.get(record["metric"], "predictions.csv"))
        positive = "malignant" if record["data"] == "mini_mias" else "cancer"
        if record["method"] == "patch-classifier":
            assert record["data"] == "mini_mias"
            lesion = rows["label"] != "background"
            malignant = rows["malignant mass"] + rows["malignant calcification"]
            labels = rows["label"].isin(["malignant mass", "malignant calcification"])
            expected = {
                "accuracy": accuracy_score(rows["label"], rows[list(datasets.PATCH_CLASSES)].idxmax(axis=1)),
                "auc lesion": roc_auc_score(lesion, -rows["background"]),
                "auc malignant": roc_auc_score(labels[lesion], malignant[lesion]),
            }
            assert record["value"] == pytest.approx(expected[record["metric"]])
        else:
            test = rows[rows["split"] == "test"]
            assert record["value"] == pytest.approx(roc_auc_score(test["label"] == positive, test["score"]))
        assert record["low"] <= record["value"] <= record["high"]
    text = (out / "report.md").read_text()
    for part in ("Table 1", "Tables 2 and 3", "Table 4", "figure-2-loss.png", "figure-3-roc.png", "heatmap-1.png"):
        assert part in text
    assert "had seen annotated lesions of up to" in text
    assert "within machines" in text

    # Nobody who is tested after the transfer trained it, nor its patches.
    split = pd.read_csv(out / "split-mini_mias.csv").set_index("image")["split"]
    scored = pd.read_csv(out / "transfer-mini_mias" / "fine-tuning-tiny" / "subjects-4" / "predictions.csv")
    tested = set(scored[scored["split"] == "test"]["subject"])
    assert tested == set(scored[scored["image"].map(split) == "test"]["subject"])
    patches = pd.read_csv(next(out.glob("patches-mini_mias-*.csv")))
    assert not tested & set(patches[patches["split"] != "test"]["subject"])
    assert len(trained) == 6  # three networks, with four women and with all
    assert min(map(len, trained)) == 4
    assert not tested & set.union(*trained)

    before = {file: file.stat().st_mtime_ns for file in out.rglob("predictions*.csv")}
    again, _ = run(**options)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("predictions*.csv")} == before
    pd.testing.assert_frame_equal(again, results)

    cards = {name: zoo.card(out / name / "model") for name in ("patch-classifier-S10-tiny", "fine-tuning-tiny")}
    assert "RSNA" not in json.dumps([cards["patch-classifier-S10-tiny"].licence])
    card = zoo.card(out / "transfer-mini_mias" / "fine-tuning-tiny" / "subjects-4" / "model")
    assert any(text.startswith("Trained before on RSNA") for text in card.limitations)
    assert "competition terms" in card.licence
    assert "--transfer-dataset mini_mias" in card.recipe["command"]
    assert card.data["split"]["train"] == (scored["split"] == "train").sum() + 8  # two images of each of four women


@pytest.mark.parametrize("top", ["vgg-4x1-4x1", "resnet-4-4-8x1-4-4-8x1", "heatmap-vgg-4x1-4x1"])
def test_whole_image_network_begins_as_the_patch_classifier_ends(coarse, tmp_path, monkeypatch, top):
    """Trunk and heatmap have its weights when training begins, layer by layer."""
    settings = parse_settings(all_conv.PROFILES, "quick", [*TINY, f"backbone={coarse}"])
    patch = all_conv.builders.build(all_conv.patch_description(settings, 50.0), weights="imagenet")
    generator = np.random.default_rng(0)
    patch.set_weights([generator.normal(size=weight.shape) for weight in patch.get_weights()])
    heatmap = all_conv.describe_heatmap(patch) if top.startswith("heatmap") else None
    build = all_conv.whole_image_description(settings, 50.0, top, heatmap)

    class NoImages:
        def training(self, seed):
            return None

        def batches(self, part):
            return None

    monkeypatch.setattr(all_conv, "fit", lambda *arguments: None)
    model = all_conv.train_whole_image(NoImages(), settings, build, top, patch, tmp_path)
    trunk = [layer for layer in patch.layers if layer.weights and not layer.name.startswith("head_")]
    assert len(trunk) == 7
    for layer in trunk:
        for mine, theirs in zip(model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    if heatmap:
        kernel, bias = model.get_layer("heatmap_logits").get_weights()
        np.testing.assert_array_equal(kernel[0, 0], patch.get_layer("head_logits").get_weights()[0])
        np.testing.assert_array_equal(bias, patch.get_layer("head_logits").get_weights()[1])


def test_a_run_that_was_killed_goes_on(run, monkeypatch):
    options = {"methods": ("whole-image",), "top": ("vgg-4x1-4x1",)}
    expected, _ = run("WHOLE", **options)

    def kill(*arguments):
        raise KeyboardInterrupt

    for step in ("score_patches", "write_pictures", "score", "whole_image_card"):
        with monkeypatch.context() as patched:
            patched.setattr(all_conv, step, kill)
            with pytest.raises(KeyboardInterrupt):
                run(**options)
    results, _ = run(**options)
    pd.testing.assert_frame_equal(results, expected)


def test_checkpoints_say_what_they_saw_and_load(run, mammograms, tmp_path, monkeypatch):
    _, out = run(methods=("patch-classifier", "whole-image"), top=("vgg-4x1-4x1",), overrides=["fit=pad"])
    monkeypatch.chdir(tmp_path)  # where the release archive goes
    published = zoo.publish(out / "whole-image-S10-tiny-vgg-4x1-4x1", "made-up", tmp_path / "weights")
    model = zoo.load(published.folder)
    card = zoo.card(published.folder)
    assert card.build["arguments"]["surgery"] == [{"name": "add_top", "top": "vgg-4x1-4x1"}]
    assert card.classes == ["negative", "malignant"]
    assert "aspect ratio kept" in card.input["resize"]
    assert any("patch" in text for text in (card.summary, *card.limitations))
    rows = pd.read_csv(out / "whole-image-S10-tiny-vgg-4x1-4x1" / "predictions.csv")
    paths = [mammograms / name for name in rows["image"]]
    predicted = analysis.predict_images(model, card, paths)["malignant"]
    np.testing.assert_allclose(predicted, rows["score"], atol=2e-3)  # stored in float16
    assert model.output_shape == (None, 1)
    patch = zoo.load(out / "patch-classifier-S10-tiny" / "model")
    assert patch.output_shape == (None, 5)
    assert zoo.card(out / "patch-classifier-S10-tiny" / "model").classes == list(datasets.PATCH_CLASSES)


def test_heatmap_tops_begin_with_the_patch_classifiers_head(run):
    results, out = run(methods=("whole-image",), top=("heatmap-pool2-fc8-fc4", "heatmap-vgg-4x1-4x1"))
    # The patch classifier that they need, and what stands for their average.
    assert list(results["method"]) == ["patch-classifier"] * 3 + ["whole-image"] * 2 + ["average of 2"]
    assert "The average of 2 networks, at the threshold" in (out / "report.md").read_text()


def test_rows_are_added_to_a_run_and_others_settings_are_refused(run):
    run(methods=("fine-tuning",))
    results, _ = run(methods=("imagenet-start",))
    assert list(results["method"]) == ["fine-tuning", "imagenet-start"]
    with pytest.raises(ValueError, match="holds a run with settings"):
        run(methods=("fine-tuning",), overrides=["epochs=2,1"])
    with pytest.raises(ValueError, match="holds a run with settings"):
        run(methods=("fine-tuning",), overrides=["seed=1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("whole",)}, "unknown method 'whole': did you mean 'whole-image'"),
        ({"top": ("vgg-256",)}, "top: received 'vgg-256'"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"protocol": "best"}, "unknown protocol 'best'"),
        ({"patch_dataset": "mini_mias"}, "patch_dataset 'mini_mias' with patch_data None: expected both or neither"),
        ({"methods": ("imagenet-start",), "top": ("heatmap-vgg-4x1-4x1",)}, "its heatmap is a patch classifier's"),
        ({"methods": ("fine-tuning",), "top": ("vgg-4x1-4x1",)}, "top: received 'vgg-4x1-4x1', expected none"),
        ({"methods": ("fine-tuning",), "overrides": ["start=random"]}, "start: received 'random'"),
        (
            {"patch_dataset": "mini_mias", "patch_data": "X"},
            "patch_dataset: received 'mini_mias', the dataset of whole",
        ),
        ({"transfer_dataset": "rsnaa", "transfer_data": "X"}, "unknown dataset 'rsnaa': did you mean 'rsna'"),
        (
            {"methods": ("two-step",), "transfer_dataset": "rsna", "transfer_data": "X"},
            "transfer_dataset: received 'rsna', but two-step cannot be moved",
        ),
        ({"dataset": "rsnaa"}, "unknown dataset 'rsnaa'"),
    ],
)
def test_wrong_options_are_refused_before_anything_trains(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert not (tmp_path / "RUN").exists()


def test_dataset_without_lesions_is_refused_with_the_way_out(run, screening):
    with pytest.raises(ValueError, match="dataset rsna: has no annotated lesions, expected another in patch_dataset"):
        run(data=screening, dataset="rsna")


def test_strata_are_of_the_first_lesion_and_of_the_class_where_kinds_are_rare():
    def table(kinds):
        rows = [
            {
                "image": f"{number}.png",
                "subject": f"w{number}",
                "label": "malignant" if any("malignant" in kind for kind in found) else "negative",
                "regions": [Region(kind, ((0, 0), (0, 1), (1, 1))) for kind in found],
            }
            for number, found in enumerate(kinds)
        ]
        return image_table(rows, "made", "/nowhere", ("negative", "malignant"), "named")

    kinds = [["malignant mass", "benign mass"], ["benign mass"], []]
    drawn = all_conv.lesion_strata(table(kinds * 3))
    assert set(drawn["label"]) == {"benign mass", "malignant mass", "negative"}
    rare = all_conv.lesion_strata(table([*kinds * 3, ["benign calcification"]]))
    assert set(rare["label"]) == {"negative", "malignant"}


def test_recipe_is_registered():
    assert recipes.recipe("all_conv") is all_conv
    assert set(all_conv.OPTIONS) <= set(recipes.OPTIONS)
    assert analysis.FOUR_FLIPS[0] == (False, False)

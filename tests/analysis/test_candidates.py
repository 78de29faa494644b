"""Candidates: what they are, and the features that they give once."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from medzoo import datasets, zoo
from medzoo.analysis import candidates
from medzoo.analysis.candidates import (
    Candidate,
    Form,
    candidate,
    candidate_features,
    datasets_seen,
    has_seen,
    known_as,
    list_candidates,
)
from medzoo.zoo import store
from PIL import Image

CARD = SimpleNamespace(multi_label=False)


def small(classes=2, name="head_logits"):
    """4 x 4 grey pixels to features, two filters, and probabilities."""
    units = 1 if classes == 2 else classes
    image = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(
        2, 3, padding="same", activation="relu", kernel_initializer=keras.initializers.Constant(0.1)
    )(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(units, name=name, kernel_initializer=keras.initializers.Constant(0.01))(x)
    return keras.Model(image, keras.layers.Activation("sigmoid" if units == 1 else "softmax")(x))


@pytest.fixture
def table(tmp_path):
    """150 images of 4 x 4 pixels, so that nothing resizes them."""
    random = np.random.default_rng(0)
    for index in range(150):
        folder = tmp_path / "images" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (4, 4), "uint8")).save(folder / f"{index:03}.png")
    return datasets.read_folder(tmp_path / "images")


@pytest.fixture
def given(request, tmp_path, monkeypatch):
    """A candidate with the small network; `given.loaded` counts how often it was loaded."""
    loaded = []

    def load(source):
        loaded.append(source)
        return small()

    monkeypatch.setattr(zoo, "load", load)
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "cache"))
    return SimpleNamespace(candidate=Candidate("small", "small", CARD, Form((4, 4), 1), "0" * 64), loaded=loaded)


def pixels(table):
    return np.stack([np.asarray(Image.open(path), "float32") for path in datasets.image_paths(table)])


def test_features_and_probabilities_are_those_of_the_network(given, table):
    made, _ = candidate_features(given.candidate, table)
    # By hand: a filter of ones times 0.1 over zero-padded pixels sums the 3 x 3 around each of them.
    padded = np.pad(pixels(table), ((0, 0), (1, 1), (1, 1)))
    sums = sum(padded[:, row : row + 4, column : column + 4] for row in range(3) for column in range(3))
    pooled = 0.1 * sums.mean(axis=(1, 2))
    np.testing.assert_allclose(made.features, np.stack([pooled, pooled], axis=1), rtol=1e-5)
    second = 1 / (1 + np.exp(-0.02 * pooled))
    np.testing.assert_allclose(made.probabilities, np.stack([1 - second, second], axis=1), atol=1e-6)
    assert made.images_per_second > 0


def test_costs_by_hand(given, table):
    _, costs = candidate_features(given.candidate, table)
    assert costs.multiply_accumulates == 16 * 2 * 9 + 2
    assert costs.parameters == 2 * 9 + 2 + 2 + 1
    assert costs.activations == 16 * 2 + 2 + 1 + 1


def test_a_second_time_the_network_is_not_even_loaded(given, table):
    first = candidate_features(given.candidate, table)
    second = candidate_features(given.candidate, table)
    assert given.loaded == ["small"]
    assert (first[0].features == second[0].features).all()
    assert first[1] == second[1]
    assert first[0].images_per_second == second[0].images_per_second


def test_an_interrupted_computation_goes_on(given, table, monkeypatch):
    run, blocks = candidates._Network.run, []

    def stopped(network, images):
        if len(blocks) == 1:
            raise KeyboardInterrupt
        blocks.append(len(images))
        return run(network, images)

    monkeypatch.setattr(candidates._Network, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        candidate_features(given.candidate, table)
    counted = []
    monkeypatch.setattr(
        candidates._Network, "run", lambda network, images: counted.append(len(images)) or run(network, images)
    )
    candidate_features(given.candidate, table)
    assert (blocks, counted) == ([64], [64, 22])


def test_a_damaged_file_of_the_cache_is_computed_anew(given, table, tmp_path):
    whole, _ = candidate_features(given.candidate, table)
    for file in (tmp_path / "cache" / "features").rglob("*.*"):
        file.write_bytes(file.read_bytes()[:50])
    again, _ = candidate_features(given.candidate, table)
    assert (again.features == whole.features).all()


def test_a_changed_image_changes_its_features_alone(given, table):
    before, _ = candidate_features(given.candidate, table)
    Image.fromarray(np.full((4, 4), 7, "uint8")).save(datasets.image_paths(table)[3])
    after, _ = candidate_features(given.candidate, table)
    changed = (before.features != after.features).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [3]


def test_labels_that_do_not_exclude_each_other_give_no_probabilities(given, table):
    several = given.candidate._replace(card=SimpleNamespace(multi_label=True), key="1" * 64)
    assert candidate_features(several, table)[0].probabilities is None


def test_a_checkpoint_without_a_head_is_refused(given, table, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda source: small(name="top"))
    with pytest.raises(ValueError, match="small: received a network without 'head_logits', expected a classifier"):
        candidate_features(given.candidate, table)


def test_a_checkpoint_with_its_crop_sees_what_predict_images_shows_it(given, table, tmp_path):
    cropped = given.candidate._replace(form=Form((4, 4), 1, crop=0.5), key="2" * 64)
    random = np.random.default_rng(1)
    for path in datasets.image_paths(table):
        Image.fromarray(random.integers(0, 256, (8, 8), "uint8")).save(path)
    made, _ = candidate_features(cropped, table)
    inner = np.pad(pixels(table)[:, 2:6, 2:6], ((0, 0), (1, 1), (1, 1)))
    sums = sum(inner[:, row : row + 4, column : column + 4] for row in range(3) for column in range(3))
    np.testing.assert_allclose(made.features[:, 0], 0.1 * sums.mean(axis=(1, 2)), rtol=1e-5)


def test_half_precision_of_the_caller_stays_outside(given, table):
    exact, _ = candidate_features(given.candidate, table)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        again, _ = candidate_features(given.candidate._replace(key="3" * 64), table)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(again.features, exact.features, rtol=1e-6)


def test_imagenet_features(imagenet, tmp_path):
    """Against keras-only code from the same weights: normalised as torchvision has it, average-pooled."""
    random = np.random.default_rng(2)
    for index in range(4):
        folder = tmp_path / "images" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (224, 224, 3), "uint8")).save(folder / f"{index}.png")
    table = datasets.read_folder(tmp_path / "images")
    made, costs = candidate_features(candidate("resnet18"), table)
    images = np.stack([np.asarray(Image.open(path), "float32") for path in datasets.image_paths(table)])
    expected = np.asarray(zoo.backbone("resnet18").predict_on_batch(images)).mean(axis=(1, 2))
    np.testing.assert_allclose(made.features, expected, rtol=1e-4, atol=1e-4)
    assert made.probabilities is None
    assert costs.multiply_accumulates == 1_813_561_344  # He and others 2016, table 1: 1.8 billion


class TestNames:
    def test_all_that_need_no_download(self, imagenet):
        names, missing = list_candidates()
        assert names[:3] == ["resnet18", "resnet50", "vgg16"]
        assert set(store.list_models()) < set(names)
        assert missing == {name: "no ImageNet weights at hand" for name in ("inceptionv3", "resnet101")}

    def test_a_checkpoint_that_lies_on_missing_weights(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MEDZOO_WEIGHTS", str(tmp_path))
        names, missing = list_candidates()
        assert "drs-resnet18-busi" in names
        assert missing["drs-resnet50-busi"] == "no ImageNet weights of resnet50 at hand, on which it lies"

    def test_an_unknown_name(self):
        with pytest.raises(ValueError, match="unknown candidate 'resnet19': did you mean 'resnet18'"):
            candidate("resnet19")

    @pytest.mark.parametrize("name", ["ResNet18", "resnet18,resnet50", "no checkpoint"])
    def test_an_unknown_name_of_any_form(self, name):
        with pytest.raises(ValueError, match=f"unknown candidate '{name}'.*drs-resnet18-busi.*vgg16"):
            candidate(name)

    @pytest.mark.parametrize("name", ["./nofolder", "below/nofolder"])
    def test_a_folder_that_is_not_there(self, name):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such folder, expected that of a checkpoint"):
            candidate(name)

    def test_a_checkpoint_is_asked_at_its_own_size(self):
        assert candidate("morphhr-resnet18-rsna").form == Form((448, 448), 1, crop=0.875)

    def test_other_weights_have_another_key(self, tmp_path, monkeypatch):
        before = candidate("drs-resnet18-busi").key
        text = (store.WEIGHTS / "drs-resnet18-busi" / "card.json").read_text()
        folder = tmp_path / "drs-resnet18-busi"
        folder.mkdir()
        (folder / "card.json").write_text(text)
        assert candidate(folder).key == before
        sha256 = zoo.card("drs-resnet18-busi").weights["sha256"]
        (folder / "card.json").write_text(text.replace(sha256, "f" * 64))
        assert candidate(folder).key != before

    @pytest.mark.parametrize(
        ("name", "seen"),
        [
            ("drs-resnet50-busi", ["busi"]),
            ("morphhr-resnet18-rsna", ["rsna"]),
            ("allconv-resnet18-rsna", ["mini_mias", "rsna"]),  # mini-MIAS before, for its patch classifier
        ],
    )
    def test_what_the_packaged_checkpoints_have_seen(self, name, seen):
        assert datasets_seen(zoo.card(name)) == seen


def table_of(dataset, root):
    return datasets.image_table([{"image": "a.png", "label": "a"}], dataset, root, ["a"], "none")


class TestSeen:
    @pytest.mark.parametrize(
        ("root", "known"),
        [
            ("chest_xray", "kermany"),
            ("ChestXRay2017", "kermany"),
            ("chest_xray/train", "kermany"),
            ("ChestX-ray14", "chestxray14"),
            ("Dataset_BUSI_with_GT", "busi"),
            ("BUSI", "busi"),
            ("HAM10000", "isic2018"),
            ("ISIC2018_Task3_Training_Input", "isic2018"),
            ("CBIS-DDSM", "cbis_ddsm"),
            ("PatchCamelyon", "pcam"),
            ("pcam small", "pcam_small"),
            ("all-mias", "mini_mias"),
            ("dtd_busi_isic2018", "dtd"),
            ("without busi", None),
            ("folder", None),
            ("train", None),
        ],
    )
    def test_a_folder_by_its_name(self, tmp_path, root, known):
        name = root.split("/")[-1]
        assert known_as(table_of(name, tmp_path / root)) == known
        assert known_as(table_of("labels", tmp_path / root)) == known  # of a CSV file in it

    def test_the_reader_knows_better_than_the_folder(self, tmp_path):
        assert known_as(table_of("rsna", tmp_path / "chest_xray")) == "rsna"

    @pytest.mark.parametrize("table", ["pcam", "pcam_middle", "pcam_small"])
    @pytest.mark.parametrize("trained", ["pcam", "pcam_middle", "pcam_small"])
    def test_parts_of_one_dataset(self, trained, table, tmp_path):
        card = SimpleNamespace(data={"dataset": datasets.source(trained).title}, licence="", limitations=())
        assert has_seen(card, table_of(table, tmp_path))
        assert not has_seen(card, table_of("dtd", tmp_path))
        assert not has_seen(card, table_of("scans", tmp_path / "scans"))

    def test_the_packaged_one_of_chest_x_rays(self, tmp_path):
        assert has_seen(zoo.card("resnet18-kermany"), table_of("chest_xray", tmp_path / "chest_xray"))

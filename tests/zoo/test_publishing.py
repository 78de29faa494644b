import json
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.zoo import store
from safetensors.numpy import load_file

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 12, 10, 3)).astype("float32")


@pytest.fixture
def run(tiny_model, draft, tmp_path):
    """A finished run of one method. Its SavedModel is a stand-in: publishing only copies it."""
    folder = tmp_path / "run" / "drs_all" / "model"
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    (folder / "saved_model" / "variables" / "variables.index").write_bytes(b"index")
    (folder / "card.json").write_text(json.dumps(draft))
    zoo.save_weights(tiny_model, folder / "weights.safetensors")
    return tmp_path / "run"


@pytest.fixture
def fine_tuned(run, tiny_model):
    """The run of a network that no longer shares its convolution with its backbone."""
    kernel = tiny_model.get_layer("conv1").kernel
    kernel.assign(kernel * 1.1)
    zoo.save_weights(tiny_model, run / "drs_all" / "model" / "weights.safetensors")
    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_on_a_frozen_backbone_becomes_a_delta(run, tiny_model, here):
    published = zoo.publish(run, "tiny-busi", into=here / "weights")
    assert published.folder == here / "weights" / "tiny-busi"
    assert sorted(os.listdir(published.folder)) == ["card.json", "weights.safetensors"]
    assert published.card == zoo.card(published.folder)
    assert (published.card.name, published.card.version) == ("tiny-busi", 1)
    assert (published.card.weights["kind"], published.card.weights["storage"]) == ("delta", "float32")
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(zoo.load(published.folder).predict(IMAGES, verbose=0), expected, atol=1e-6)


def test_a_fine_tuned_run_becomes_whole_float16(fine_tuned, tiny_model, here):
    published = zoo.publish(fine_tuned / "drs_all", "tiny-busi", into=here / "weights")
    assert (published.card.weights["kind"], published.card.weights["storage"]) == ("whole", "float16")
    assert 0 < published.card.weights["logit_difference"] < 1e-2
    assert len(load_file(published.folder / "weights.safetensors")) == len(tiny_model.weights)
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(zoo.load(published.folder).predict(IMAGES, verbose=0), expected, atol=1e-2)


def test_the_archive_holds_card_weights_and_saved_model(run, here, tiny_model):
    published = zoo.publish(run, "tiny-busi", into=here / "weights")
    assert published.archive.resolve() == here / "releases" / "tiny-busi-1.zip"
    with zipfile.ZipFile(published.archive) as file:
        content = {name: file.read(name) for name in file.namelist()}
    assert content == {
        "tiny-busi/card.json": (published.folder / "card.json").read_bytes(),
        "tiny-busi/weights.safetensors": (published.folder / "weights.safetensors").read_bytes(),
        "tiny-busi/saved_model/saved_model.pb": b"graph",
        "tiny-busi/saved_model/variables/variables.index": b"index",
    }
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(zoo.load(published.archive).predict(IMAGES, verbose=0), expected, atol=1e-6)
    assert zoo.verify(published.archive).name == "tiny-busi"


def test_the_same_run_gives_the_same_archive(run, here):
    one = zoo.publish(run, "tiny-busi", into=here / "one", archive=here / "one.zip")
    two = zoo.publish(run, "tiny-busi", into=here / "two", archive=here / "two.zip")
    assert one.archive.read_bytes() == two.archive.read_bytes()


def test_a_published_name_gets_the_next_version(run, here):
    zoo.publish(run, "tiny-busi", into=here / "weights")
    published = zoo.publish(run, "tiny-busi", into=here / "weights")
    assert published.card.version == zoo.card(published.folder).version == 2
    assert published.archive.name == "tiny-busi-2.zip"
    assert os.listdir(here / "weights") == ["tiny-busi"]


def test_it_goes_to_the_packaged_weights_by_default(run, here, monkeypatch):
    monkeypatch.setattr(store, "WEIGHTS", here / "packaged")
    assert zoo.publish(run, "tiny-busi").folder == here / "packaged" / "tiny-busi"
    assert zoo.list_models() == ["tiny-busi"]


@pytest.mark.parametrize("name", ["Tiny", "tiny_busi", "../tiny", "tiny-", ""])
def test_a_wrong_name_is_refused(run, here, name):
    with pytest.raises(ValueError, match="checkpoint name: received"):
        zoo.publish(run, name, into=here / "weights")


def test_an_archive_that_exists_is_not_overwritten(run, here):
    (here / "mine.zip").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"mine\.zip"):
        zoo.publish(run, "tiny-busi", into=here / "weights", archive=here / "mine.zip")
    assert (here / "mine.zip").read_bytes() == b"mine"
    assert not (here / "weights").exists()


def test_what_fails_leaves_the_older_version(run, here, monkeypatch):
    from medzoo.zoo import publishing

    zoo.publish(run, "tiny-busi", into=here / "weights")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "_write_archive", full)
    with pytest.raises(OSError, match="the disk is full"):
        zoo.publish(run, "tiny-busi", into=here / "weights")
    assert os.listdir(here / "weights") == ["tiny-busi"]
    assert zoo.card(here / "weights" / "tiny-busi").version == 1
    assert os.listdir(here / "releases") == ["tiny-busi-1.zip"]


def test_a_run_with_several_models_lists_them(run, here):
    os.makedirs(run / "feature_extraction" / "model")
    (run / "feature_extraction" / "model" / "card.json").write_text("{}")
    with pytest.raises(ValueError, match=r"2 models, expected one of .*drs_all, .*feature_extraction") as error:
        zoo.publish(run, "tiny-busi", into=here / "weights")
    assert "\n" not in str(error.value)


def test_a_folder_without_run_is_named(here):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        zoo.publish("nowhere", "tiny-busi")
    (here / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: received a folder without model/card\.json"):
        zoo.publish("empty", "tiny-busi")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda model: (model / "weights.safetensors").unlink(), FileNotFoundError, r"weights\.safetensors"),
        (lambda model: (model / "weights.safetensors").write_bytes(b"\0" * 20), ValueError, "damaged file"),
        (lambda model: (model / "card.json").write_text("{"), ValueError, r"card\.json: .*damaged"),
        (lambda model: (model / "card.json").write_text("{}"), ValueError, r"card\.json: .*build"),
    ],
)
def test_an_incomplete_run_is_refused(run, here, change, error, message):
    change(run / "drs_all" / "model")
    with pytest.raises(error, match=message) as raised:
        zoo.publish(run, "tiny-busi", into=here / "weights")
    assert "\n" not in str(raised.value)
    assert not (here / "weights" / "tiny-busi").exists()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow writes SavedModels")
def test_a_run_of_another_backend_gets_its_savedmodel_now(run, tiny_model, here):
    import tensorflow

    shutil.rmtree(run / "drs_all" / "model" / "saved_model")
    archive = zoo.publish(run, "tiny-busi", into=here / "weights").archive
    with zipfile.ZipFile(archive) as file:
        file.extractall(here / "unpacked")
    served = tensorflow.saved_model.load(here / "unpacked" / "tiny-busi" / "saved_model")
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(served.serve(IMAGES).numpy(), expected, atol=1e-6)


def test_a_draft_that_lacks_a_field_is_refused(run, here, draft):
    del draft["licence"]
    (run / "drs_all" / "model" / "card.json").write_text(json.dumps(draft))
    with pytest.raises(ValueError, match="'licence' is missing"):
        zoo.publish(run, "tiny-busi", into=here / "weights")
    assert os.listdir(here / "weights") == []

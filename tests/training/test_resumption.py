"""A killed and resumed training gives the weights, bit for bit, and the history of one that was not."""

import errno
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from medzoo.training import fit

SCRIPT = Path(__file__).with_name("killed_run.py")


@pytest.fixture(scope="module")
def killed_run():
    specification = importlib.util.spec_from_file_location("killed_run", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def uninterrupted(killed_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return (*killed_run.train(folder), folder)


def assert_same(weights, expected):
    assert len(weights) == len(expected)
    for mine, theirs in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_killed_again_and_again(uninterrupted, tmp_path):
    def start(point):
        environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
        return subprocess.run([sys.executable, SCRIPT, tmp_path, point], env=environment, check=False).returncode

    first, second = tmp_path / "stage-0", tmp_path / "stage-1"
    assert start("batch") == -signal.SIGKILL  # within the second epoch
    state = (first / "state.safetensors").read_bytes()
    assert start("part") == -signal.SIGKILL  # while the state of the second epoch is being written
    assert (first / "state.safetensors").read_bytes() == state
    assert start("state") == -signal.SIGKILL  # right after it was
    assert (first / "state.safetensors").read_bytes() != state
    assert start("history") == -signal.SIGKILL  # the first stage is over, and not yet marked as finished
    assert (first / "history.csv").is_file()
    assert start("finished") == -signal.SIGKILL  # between the stages
    assert not second.exists()
    assert start("none") == 0
    weights, history, folder = uninterrupted
    with np.load(tmp_path / "weights.npz") as archive:
        assert_same([archive[name] for name in archive.files], weights)
    assert json.loads((tmp_path / "history.json").read_text()) == history
    for stage in ("stage-0", "stage-1"):
        assert (tmp_path / stage / "history.csv").read_bytes() == (folder / stage / "history.csv").read_bytes()
        left = {file.name for file in (tmp_path / stage).iterdir()} - {"tensorboard"}
        assert left == {"history.csv", "best.safetensors"}


def test_training_moved_every_weight(killed_run, uninterrupted):
    """Lest the comparison above be of two trainings that did nothing."""
    random.seed(7)
    for before, after in zip(killed_run.network().get_weights(), uninterrupted[0], strict=True):
        assert (before != after).any()


def test_a_finished_run_is_only_loaded(killed_run, uninterrupted, monkeypatch):
    weights, history, folder = uninterrupted

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(keras.Model, "fit", never)
    again, rows = killed_run.train(folder)
    assert_same(again, weights)
    assert rows == history


def test_full_disk_loses_nothing(killed_run, uninterrupted, tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def full_disk(path, content):
        written.append(path)
        if len([name for name in written if name.name.endswith("state.safetensors")]) == 2:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"disk is full.*stage-0/state\.safetensors") as error:
        killed_run.train(tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert "\n" not in str(error.value)
    assert not [file for file in (tmp_path / "stage-0").iterdir() if "part" in file.name]
    monkeypatch.undo()
    assert_same(killed_run.train(tmp_path)[0], uninterrupted[0])


def test_truncated_state_is_named(killed_run, tmp_path, monkeypatch):
    """A file cut off by something other than a kill, such as a copy: refused, never trained on from."""
    monkeypatch.setattr(fit, "atomic", crash_after_a_state(fit.atomic))
    with pytest.raises(KeyboardInterrupt):
        killed_run.train(tmp_path)
    monkeypatch.undo()
    state = tmp_path / "stage-0" / "state.safetensors"
    whole = state.read_bytes()
    for length in (0, 4, 200, len(whole) - 1):
        state.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"stage-0/state\.safetensors: not a whole state file") as error:
            killed_run.train(tmp_path)
        assert "\n" not in str(error.value)


def crash_after_a_state(atomic):
    import contextlib

    @contextlib.contextmanager
    def wrapped(path):
        with atomic(path) as temporary:
            yield temporary
        if path.name == "state.safetensors":
            raise KeyboardInterrupt

    return wrapped

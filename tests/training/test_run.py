"""The run folder."""

import importlib.metadata
import json

import keras
import pytest
from medzoo.training.run import environment, open_run

CONFIGURATION = {"recipe": "drs", "seed": 0, "rates": (0.1, 0.01), "settings": {"epochs": 3}}


def test_new_run_and_the_same_again(tmp_path):
    folder = open_run(tmp_path / "deep" / "run", CONFIGURATION)
    assert json.loads((folder / "configuration.json").read_text())["rates"] == [0.1, 0.01]
    (folder / "result.csv").write_text("kept")
    assert open_run(folder, CONFIGURATION) == folder
    assert (folder / "result.csv").read_text() == "kept"


def test_environment_names_versions(tmp_path):
    open_run(tmp_path, CONFIGURATION)
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written == environment()
    assert written["packages"]["keras"] == keras.__version__
    assert written["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert "medzoo" in written["packages"]
    assert written["backend"] == keras.backend.backend()
    assert "core" in written["machine"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a run with seed 0, received 1"),
        ({"settings": {"epochs": 4}}, "holds a run with settings"),
        ({"more": 1}, "holds a run with more None, received 1"),
    ],
)
def test_another_configuration_is_refused(change, message, tmp_path):
    open_run(tmp_path, CONFIGURATION)
    before = (tmp_path / "configuration.json").read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        open_run(tmp_path, {**CONFIGURATION, **change})
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "configuration.json").read_bytes() == before


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds no run"):
        open_run(tmp_path, CONFIGURATION)
    with pytest.raises(ValueError, match="holds no run"):
        open_run(tmp_path / "thesis.tex", CONFIGURATION)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_first_write_leaves_is_no_obstacle(tmp_path):
    (tmp_path / ".part-0123abcd-configuration.json").write_text("{")
    open_run(tmp_path, CONFIGURATION)


def test_damaged_configuration_is_named(tmp_path):
    (tmp_path / "configuration.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"configuration\.json") as error:
        open_run(tmp_path, CONFIGURATION)
    assert "\n" not in str(error.value)

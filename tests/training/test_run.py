"""The run folder."""

import importlib.metadata
import json

import keras
import pandas as pd
import pytest
from matplotlib.figure import Figure
from medzoo.analysis import Interval
from medzoo.training.run import (
    card_data,
    card_metrics,
    command_text,
    environment,
    interval_columns,
    interval_text,
    leaked,
    machine,
    open_run,
    write_figure,
    write_split,
)
from PIL import Image

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


def split_of_five():
    """`b` is in training and test, `c` in validation and test."""
    table = pd.DataFrame(
        {
            "image": ["1.png", "2.png", "3.png", "4.png", "5.png", "6.png"],
            "subject": ["a", "b", "c", "b", "c", "d"],
            "split": ["train", "train", "validation", "test", "test", "test"],
        }
    )
    table.attrs["subjects"] = "named"
    return table


def test_leaked_counts_test_images_whose_subject_is_elsewhere():
    assert leaked(split_of_five()) == (2, 3)
    assert leaked(split_of_five()[lambda table: table["split"] == "test"]) == (0, 3)


def test_what_a_card_says_of_the_data():
    split = {"train": 2, "validation": 1, "test": 3}
    assert card_data(split_of_five()) == {"images": 6, "subjects": 4, "subject_source": "named", "split": split}


@pytest.mark.parametrize(
    ("row", "column", "value", "differing"),
    [(3, "split", "train", 1), (3, "sha256", "0" * 64, 1), (3, "image", "seven.png", 2)],
)
def test_split_of_a_run_that_goes_on(row, column, value, differing, tmp_path):
    table = split_of_five().assign(sha256=[str(number) * 64 for number in range(6)])  # digits alone stay text
    path = tmp_path / "split.csv"
    write_split(path, table)
    written = path.read_bytes()
    assert list(pd.read_csv(path)["subject"]) == list(table["subject"])
    write_split(path, table)
    table.loc[row, column] = value
    with pytest.raises(ValueError, match=rf"split\.csv: .* {differing} differ, such as 4\.png; expected the same"):
        write_split(path, table)
    assert path.read_bytes() == written


def test_interval_in_a_table_a_report_and_a_card():
    interval = Interval(0.91234, 0.85, 0.97, 30)
    row = interval_columns("auc", interval._asdict())
    assert row == {"auc": 0.91234, "auc_low": 0.85, "auc_high": 0.97, "auc_n": 30}
    assert interval_text("auc", row) == "0.912 (0.850 to 0.970)"
    expected = {"name": "auc", "part": "test", "protocol": "sound", "value": 0.91234, "low": 0.85, "high": 0.97}
    expected |= {"n": 30, "command": "medzoo", "machine": machine()}
    assert card_metrics({"auc": interval}, "test", "sound", "medzoo") == [expected]


def test_command_holds_every_option_that_was_given():
    assert command_text("drs", "paper", "published", "BUSI") == (
        "medzoo run drs --profile paper --protocol published --data BUSI --out RUN"
    )
    assert command_text("drs", "quick", "sound", "BUSI", "resnet50", ("seed=1", "epochs=2")) == (
        "medzoo run drs --profile quick --protocol sound --backbone resnet50 --set seed=1 --set epochs=2 "
        "--data BUSI --out RUN"
    )


def test_figure(tmp_path):
    write_figure(tmp_path / "new" / "figure", Figure(figsize=(2, 1)))  # PNG whatever the name
    with Image.open(tmp_path / "new" / "figure") as image:
        assert (image.format, image.size) == ("PNG", (300, 150))

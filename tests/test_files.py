"""Files and folders appear whole or not at all."""

import errno
import os

import pytest
from medzoo._files import atomic, read_json, write_json


def put(target, name, text, error=None):
    with atomic(target, marker="card.json") as folder:
        folder.mkdir()
        (folder / "card.json").touch()
        (folder / name).write_text(text)
        assert target.name not in os.listdir(target.parent) or name not in os.listdir(target)
        if error:
            raise error


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path):
    target = tmp_path / "target"
    put(target, "a", "1")
    with pytest.raises(KeyboardInterrupt):
        put(target, "b", "2", KeyboardInterrupt())
    assert sorted(os.listdir(target)) == ["a", "card.json"]
    put(target, "c", "3")
    assert sorted(os.listdir(target)) == ["c", "card.json"]
    assert os.listdir(tmp_path) == ["target"]


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "metrics.json"
    write_json(target, {"auc": 0.9})

    def interrupted():
        with atomic(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(target) == {"auc": 0.9}
    assert os.listdir(target.parent) == ["metrics.json"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write: No space left on device")]
)
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, error):
    with pytest.raises(OSError, match=r"the disk is full.*run\.csv") as raised, atomic(tmp_path / "run.csv"):
        raise error
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_json(tmp_path / "file" / "metrics.json", {})


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "card.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"card\.json: not a whole JSON file"):
        read_json(tmp_path / "card.json")


def test_a_folder_of_somebody_is_not_replaced(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="results: is a folder with other things in it"):
        write_json(tmp_path / "results", {})
    with pytest.raises(FileExistsError, match=r"expected a new name, or a folder with card\.json"):
        put(tmp_path / "results", "a", "1")
    assert (tmp_path / "results" / "thesis.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["results"]

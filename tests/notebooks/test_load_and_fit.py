"""The notebook: what is saved in it, and that it runs as a user runs it, on few images."""

import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from medzoo import zoo
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "load_and_fit.ipynb"
CLASSES = ["benign", "malignant", "normal"]
IMAGES = 10  # of each class
# An absolute path of some machine: not the one in an address, nor the slash of a closing tag or of a relative path.
ABSOLUTE = re.compile(r"(?<![\w.:/<])/[\w.-]+/[\w.-]|\b[A-Z]:\\\w|\btmp\w{6,}")


@pytest.fixture(scope="module")
def saved():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def texts(cell):
    """All text that a cell's outputs hold."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (text for kind, text in output.data.items() if kind.startswith("text/"))


def kinds(cell):
    """What a reader sees below a cell, without messages on stderr, which depend on the machine."""
    return [
        (output.output_type, sorted(output.get("data", [])))
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]


@pytest.fixture
def executed(saved, tmp_path, monkeypatch):
    """Executes the notebook in a folder of its own with other parameters and a last cell of the test's own."""

    def execute(images=None):
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.delenv("MEDZOO_IMAGES", raising=False)
        if images is not None:
            monkeypatch.setenv("MEDZOO_IMAGES", str(images))
        notebook = nbformat.from_dict(saved)
        position = next(
            number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
        )
        small = nbformat.v4.new_code_cell(f"PHANTOMS, EPOCHS = {IMAGES}, 1")
        notebook.cells.insert(position + 1, small)
        told = nbformat.v4.new_code_cell(
            "import json\nprint(json.dumps({'labels': list(table.loc[test, 'label']), 'scores': scores.tolist()}))"
        )
        notebook.cells.append(told)
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
        return code_cells(notebook), json.loads("".join(texts(notebook.cells[-1])))

    return execute


def test_every_cell_was_run_once_in_order_and_shows_what_it_gave(saved):
    cells = code_cells(saved)
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    assert [name for name, cell in cells.items() if not cell.outputs] == ["parameters"]
    assert not [name for name, cell in cells.items() if any(output.output_type == "error" for output in cell.outputs)]
    assert "image/png" in cells["heatmap"].outputs[0].data
    assert NOTEBOOK.stat().st_size < 500_000


def test_saved_outputs_name_no_path_of_a_machine_and_no_warning(saved):
    for cell in code_cells(saved).values():
        for text in texts(cell):
            assert not ABSOLUTE.search(text), text
            assert not re.search("warning", text, re.IGNORECASE), text
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.id


@pytest.mark.parametrize("path", ["/home/ada/scans", "file at '/tmp/x/y.png'", r"C:\Users\ada", "in tmpab12cd_9"])
def test_a_path_of_a_machine_would_be_noticed(path):
    assert ABSOLUTE.search(path)


def test_the_saved_card_is_that_of_the_packaged_checkpoint(saved):
    """Fails when the checkpoint was trained anew and the notebook still shows the old one: run `notebooks/save.py`."""
    card = zoo.card("drs-resnet18-busi")
    (output,) = code_cells(saved)["metrics"].outputs
    shown = pd.read_csv(io.StringIO(output.data["text/plain"]), sep=r"\s+")
    assert list(shown["name"]) == [metric["name"] for metric in card.metrics]
    for column in ("value", "low", "high", "n"):
        np.testing.assert_allclose(shown[column], [metric[column] for metric in card.metrics], atol=5.1e-4)
    assert card.summary in "".join(texts(code_cells(saved)["card"]))


def check(cells, told, saved):
    """The run shows what the saved one shows, and its last number is right."""
    for name, cell in code_cells(saved).items():
        assert kinds(cells[name]) == kinds(cell), name
    labels, scores = np.array(told["labels"]), np.array(told["scores"])
    # A fifth of 30 images, two of each class.
    assert sorted(labels) == sorted(2 * CLASSES)
    assert scores.shape == (6, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    score = scores[:, CLASSES.index("malignant")]
    positive, negative = score[labels == "malignant"], score[labels != "malignant"]
    pairs = positive[:, None] - negative[None, :]
    area = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    printed = re.search(r"AUC ([\d.]+), 95 % interval ([\d.]+) to ([\d.]+), n = (\d+)", "".join(texts(cells["auc"])))
    value, low, high = (float(number) for number in printed.groups()[:3])
    assert value == pytest.approx(area, abs=5.1e-4)
    assert 0 <= low <= value <= high <= 1
    assert low < high
    assert int(printed.group(4)) == 6


def test_it_runs_on_phantoms(executed, saved):
    cells, told = executed()
    check(cells, told, saved)
    assert "phantoms" in "".join(texts(cells["images"]))


@pytest.mark.slow
def test_it_runs_on_a_folder_of_real_images(executed, saved, shared, tmp_path):
    for label in CLASSES:
        source = shared / "data" / "busi" / label
        (tmp_path / "scans" / label).mkdir(parents=True)
        for path in sorted(path for path in source.iterdir() if "_mask" not in path.name)[:IMAGES]:
            shutil.copy(path, tmp_path / "scans" / label)
    cells, told = executed(tmp_path / "scans")
    check(cells, told, saved)
    assert "scans" in "".join(texts(cells["images"]))
    assert not list(tmp_path.glob("*/phantoms"))

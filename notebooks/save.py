"""Runs the notebooks from top to bottom and saves their outputs: `python notebooks/save.py`.

What libraries say on stderr while they start is left out, since it differs from machine to machine. A cell that fails
ends it, and leaves the notebook as it was.
"""

import tempfile
from pathlib import Path

import nbformat
from medzoo._files import atomic
from nbclient import NotebookClient

for path in sorted(Path(__file__).parent.glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    notebook.metadata = metadata  # without the version of Python that happened to be here
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    with atomic(path) as temporary:
        nbformat.write(notebook, temporary)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")

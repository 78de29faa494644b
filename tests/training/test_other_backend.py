"""With the JAX backend everything trains and loads, without TensorFlow, and scores are the same."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from medzoo import zoo

SCRIPT = Path(__file__).with_name("backend_run.py")


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed: pip install medzoo[jax]")
def test_jax_trains_saves_and_loads_without_tensorflow(tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "backend jax"

    specification = importlib.util.spec_from_file_location("backend_run", SCRIPT)
    backend_run = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(backend_run)
    here = zoo.load(tmp_path / "drs-tiny").predict(backend_run.images(), verbose=0)
    np.testing.assert_allclose(here, np.load(tmp_path / "scores.npy"), rtol=1e-4)

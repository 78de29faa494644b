import shutil

import pytest
from medzoo.datasets import encode_labels, read_sti10

# In the order of the paper, section III-3; the ids are those of the authors' program.
SYNSETS = {
    "brick": "n02897820",
    "stone wall": "n04326547",
    "flower": "n11669921",
    "honeycomb": "n03530642",
    "egg": "n07840804",
    "rock": "n09416076",
    "fabric": "n03309808",
    "cloud": "n09247410",
    "chain": "n02999410",
    "ocean": "n09376198",
}


@pytest.fixture
def folder(tmp_path):
    for synset in SYNSETS.values():
        (tmp_path / synset).mkdir()
        for number in range(2):
            (tmp_path / synset / f"{synset}_{number}.JPEG").touch()
    return tmp_path


def refused(path, match, kind=FileNotFoundError):
    with pytest.raises(kind, match=match) as caught:
        read_sti10(path)
    assert "\n" not in str(caught.value)


def test_ten_synsets(folder):
    table = read_sti10(folder)
    assert table.attrs == {"dataset": "sti10", "root": str(folder), "classes": list(SYNSETS), "subjects": "none"}
    assert dict(zip(table["image"].str[:9], table["label"], strict=True)) == {v: k for k, v in SYNSETS.items()}
    assert sorted(encode_labels(table)) == sorted([*range(10), *range(10)])


def test_what_is_missing(folder):
    refused(folder / "no", "no: no such folder, expected the synset folders n02897820, ")
    shutil.rmtree(folder / "n03309808")
    refused(folder, "n03309808: no such folder, expected the images of 'fabric'")
    (folder / "n03309808").mkdir()
    refused(folder, "n03309808: no images of 'fabric'")


def test_a_synset_that_is_none_of_the_ten(folder):
    (folder / "n03309809").mkdir()
    refused(folder, "unknown synset of STI-10 'n03309809': did you mean 'n03309808'", ValueError)

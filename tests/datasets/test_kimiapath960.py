import pytest
from medzoo.datasets import encode_labels, read_kimiapath960

LETTERS = "ABCDEFGHIJKLMNOPQRST"


@pytest.fixture
def folder(tmp_path):
    for letter in LETTERS:
        for number in (1, 9, 48):
            (tmp_path / f"{letter}{number}.tif").touch()
    return tmp_path


def refused(path, match, kind=FileNotFoundError):
    with pytest.raises(kind, match=match) as caught:
        read_kimiapath960(path)
    assert "\n" not in str(caught.value)


def test_the_letter_is_the_class(folder):
    table = read_kimiapath960(folder)
    assert table.attrs == {"dataset": "kimiapath960", "root": str(folder), "classes": [*LETTERS], "subjects": "none"}
    assert (table["label"] == table["image"].str[0]).all()
    assert encode_labels(table).tolist() == [index // 3 for index in range(60)]


def test_what_is_missing(folder):
    refused(folder / "no", "no: no such folder, expected A1.tif to T48.tif")
    for file in folder.glob("C*"):
        file.unlink()
    refused(folder, r"no image of class 'C', expected C1.tif and so on")


@pytest.mark.parametrize("name", ["U1.tif", "A0.tif", "A49.tif", "AB1.tif", "a1.tif", "scan.tif"])
def test_names_of_no_class(folder, name):
    (folder / name).touch()
    refused(folder, f"{name}: its name is none of A1 to T48, of which the letter is the class", ValueError)

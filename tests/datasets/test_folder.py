import shutil

import pytest
from medzoo.datasets import encode_labels, image_paths, read_csv, read_folder
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    for name in ["yes/1.png", "yes/deep/2.jpg", "no/3.tif", "no/4.pgm", "other/5.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 9).save(tmp_path / name)
    (tmp_path / "no" / "notes.txt").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "readme.md").touch()
    return tmp_path


def write(folder, text, name="table.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def refused(read, *arguments, match, kind=ValueError, **options):
    with pytest.raises(kind, match=match) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)


# Folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(folder):
    table = read_folder(folder)
    assert table["image"].tolist() == ["no/3.tif", "no/4.pgm", "other/5.png", "yes/1.png", "yes/deep/2.jpg"]
    assert table["label"].tolist() == ["no", "no", "other", "yes", "yes"]
    assert table.attrs == {
        "dataset": folder.name,
        "root": str(folder),
        "classes": ["no", "other", "yes"],
        "subjects": "none",
    }
    assert all(path.is_file() for path in image_paths(table))


def test_classes_choose_the_folders_and_the_positive_class(folder):
    table = read_folder(folder, classes=("yes", "no"))
    assert len(table) == 4
    assert table.attrs["classes"] == ["yes", "no"]
    assert encode_labels(table).tolist() == [1, 1, 0, 0]


def test_a_relative_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert read_folder(folder.name).equals(read_folder(folder))
    monkeypatch.chdir(folder)
    assert read_folder(".").attrs == read_folder(folder).attrs


def test_twins_of_a_folder_on_request(busi_folder, tmp_path):
    shutil.copytree(busi_folder, tmp_path / "mine", ignore=shutil.ignore_patterns("*_mask*"))
    assert read_folder(tmp_path / "mine").attrs["subjects"] == "none"
    table = read_folder(tmp_path / "mine", twins=True)
    assert table.attrs["subjects"] == "twins"
    assert table["subject"].nunique() == 36


def test_folders_that_do_not_fit(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    missing = empty / "missing"
    refused(read_folder, missing, match="missing: no such folder, expected a subfolder", kind=FileNotFoundError)
    refused(read_folder, empty, match="the folder is empty, expected a subfolder", kind=FileNotFoundError)
    refused(read_folder, folder / "other", match="files but no subfolders, expected a sub", kind=FileNotFoundError)
    refused(read_folder, folder / "yes", match="only one subfolder, 'deep', expected one for each")
    refused(read_folder, folder, match="no class 'maybe', expected one of no, other, yes", classes=("no", "maybe"))
    refused(read_folder, folder, match="classes names 'no' twice", classes=("no", "no"))
    refused(read_folder, folder, match="classes is 'no', expected a tuple", classes="no")
    (folder / "none").mkdir()
    refused(read_folder, folder, match="none: no images in this class folder, expected PNG", kind=FileNotFoundError)


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("Train", "Valid"), ("train",)])
def test_parts_of_a_split_are_no_classes(folder, parts):
    for part in parts:
        shutil.copytree(folder / "yes", folder / "parts" / part)
    refused(
        read_folder,
        folder / "parts",
        match=f"parts: received the parts of a split, {', '.join(sorted(parts))}, expected a subfolder .*--dataset",
    )
    shutil.copytree(folder / "yes", folder / "parts" / "no")
    assert read_folder(folder / "parts").attrs["classes"] == sorted([*parts, "no"])


# CSV -------------------------------------------------------------------------------------------------------------


def test_a_csv_with_all_columns(folder):
    path = write(
        folder,
        "label,image,subject,split,age\n1,yes/1.png,007,train,40\n0, no/3.tif ,8,test,\n1,yes/deep/2.jpg,007,train,9\n",
    )
    table = read_csv(path)
    assert table["image"].tolist() == ["no/3.tif", "yes/1.png", "yes/deep/2.jpg"]
    assert table["label"].tolist() == ["0", "1", "1"]
    assert table["subject"].tolist() == ["8", "007", "007"]  # text, as written
    assert table["split"].tolist() == ["test", "train", "train"]
    assert list(table.columns) == ["image", "subject", "label", "split"]
    assert table.attrs == {"dataset": "table", "root": str(folder), "classes": ["0", "1"], "subjects": "named"}


def test_a_csv_of_image_and_label_alone(folder):
    table = read_csv(write(folder, "image,label\nyes/1.png,NA\nno/3.tif,None\n"))
    assert table.attrs["subjects"] == "none"
    assert table["label"].tolist() == ["None", "NA"]  # names, not missing values
    assert (table["subject"] == table["image"]).all()


def test_images_are_relative_to_the_csv_not_to_where_one_stands(folder, monkeypatch):
    (folder / "tables").mkdir()
    path = write(folder / "tables", f"image,label\n../yes/1.png,a\n{folder / 'no' / '3.tif'},b\n")
    monkeypatch.chdir(folder.parent)
    table = read_csv(path)
    assert sorted(image_paths(table)) == [folder / "no" / "3.tif", folder / "yes" / "1.png"]


def test_spreadsheet_files_with_a_mark_quotes_empty_lines_and_windows_ends(folder):
    path = write(folder, '\ufeffimage,label\r\n"yes/1.png","a, or b"\r\n\r\n,\r\nno/3.tif,c\r\n')
    assert read_csv(path)["label"].tolist() == ["c", "a, or b"]


def test_classes_choose_labels_and_the_positive_class(folder):
    path = write(folder, "image,label\nyes/1.png,1\nno/3.tif,0\nother/5.png,2\n")
    table = read_csv(path, classes=("1", "0"))
    assert table.attrs["classes"] == ["1", "0"]
    assert encode_labels(table).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"table.csv: row 1: no column 'image' among nothing"),
        ("file,label\na,b\n", r"row 1: no column 'image' among file, label, expected image,label\[,subject,split\]"),
        ("image;label\na;b\n", r"row 1: no column 'image' among image;label"),
        ("image,label\n", "no rows below the header"),
        ("image,label\nyes/1.png,a\nno/3.tif,\n", "row 3, column 'label': empty, expected a value"),
        ("image,label,subject\nyes/1.png,a,\n", "row 2, column 'subject': empty"),
        ("image,label,split\nyes/1.png,a,\n", "row 2, column 'split': empty"),
        ("image,label\nyes/1.png,a\n\nno/3.tif,a,b\n", "row 4: 3 cells, expected 2"),
        ("image,label\nyes/1.png\n", "row 2: 1 cells, expected 2"),
        ("image,label\nyes/1.png,a\nyes/../yes/1.png,b\n", "row 3, column 'image': .* stands in row 2 too"),
        ("image,label,label\nyes/1.png,a,b\n", "row 1: column 'label' stands there twice"),
        ('image,label\nyes/1.png,"a\n', "row 2: not readable as CSV"),
        (
            "image,label,subject,split\nyes/1.png,a,s,train\nno/3.tif,b,s,test\n",
            "column 'split': subject 's' is in test and train, expected in one only",
        ),
    ],
)
def test_csv_errors_name_file_row_and_column(folder, text, message):
    path = write(folder, text)
    refused(read_csv, path, match=message)
    refused(read_csv, path, match="table.csv: ")


def test_csv_of_files_that_are_not_there(folder):
    refused(read_csv, folder / "x.csv", match="x.csv: no such file, expected a CSV", kind=FileNotFoundError)
    path = write(folder, "image,label\nyes/1.png,a\nyes/9.png,a\n")
    refused(read_csv, path, match="table.csv: row 3, column 'image': no such file 'yes/9.png'", kind=FileNotFoundError)


def test_csv_in_another_encoding(folder):
    path = write(folder, "image,label\nyes/1.png,gutartig\nno/3.tif,bösartig\n", encoding="latin-1")
    refused(read_csv, path, match="not readable as CSV in UTF-8")


def test_csv_with_an_unknown_class(folder):
    path = write(folder, "image,label\nyes/1.png,1\nno/3.tif,0\n")
    refused(read_csv, path, match="table.csv: no class 'no', expected one of 0, 1", classes=("no", "yes"))


def test_csv_twins_on_request(busi_folder):
    names = [f"{label}/{label} ({number}).png" for label in ("benign", "malignant") for number in range(1, 15)]
    path = write(busi_folder, "image,label\n" + "".join(f"{name},{name[0]}\n" for name in names), "twins.csv")
    try:
        table = read_csv(path, twins=True)
        assert table.attrs["subjects"] == "twins"
        assert table["subject"].nunique() == 24
        rows = [f"{name},{name[0]},{'test' if '(13)' in name else 'train'}\n" for name in names]
        write(busi_folder, "image,label,split\n" + "".join(rows), "twins.csv")
        refused(read_csv, path, match=r"twin group 'benign/benign \(1\).png' is in test and train", twins=True)
        write(busi_folder, f"image,label,subject\n{names[0]},a,s\n", "twins.csv")
        refused(read_csv, path, match="it has a column 'subject', expected none with twins=True", twins=True)
    finally:
        path.unlink()

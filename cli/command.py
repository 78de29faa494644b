"""The `medzoo` command: parses, calls, prints. A subcommand itself imports what takes long to import."""

import argparse
import contextlib
import os
import sys
import tempfile
import warnings

from .. import __version__
from .._nearest import unknown


def main(arguments=None):
    """Runs `medzoo` and returns its exit code: 0, 1 (a file or a check failed), 2 (wrong input) or 130 (Ctrl-C).

    Args:
        arguments: list of str, the command line without `medzoo`; that of the process when None.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser, commands = _parsers()
    options = None
    try:
        _check_names(arguments, commands)
        options = parser.parse_args(arguments)
        with _plain_warnings():
            code = options.call(options) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        goes_on = options is not None and options.command in ("run", "recommend")
        after = "the same command goes on where it was" if goes_on else "no half-written file was left"
        print(f"\nmedzoo: stopped; {after}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # As for `medzoo list | head -1`; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"medzoo: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


class _Parser(argparse.ArgumentParser):
    """A parser that knows the names of its options, and complains in one line."""

    def __init__(self, *arguments, **settings):
        self.options = []
        super().__init__(*arguments, **settings, allow_abbrev=False)

    def add_argument(self, *names, **settings):
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)

    def error(self, message):
        self.exit(2, f"medzoo: {message}; see {self.prog} --help\n")


def _parsers():
    """The parser, and those of the subcommands by name."""
    parser = _Parser(prog="medzoo", description="A Keras 3 model zoo for medical images.")
    parser.add_argument("--version", action="version", version=f"medzoo {__version__}")
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name, call, text):
        subparser = added.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        subparser.set_defaults(call=call)
        return subparser

    listing = command("list", _list, "list the checkpoints at hand")
    listing.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'drs*'")
    listing.add_argument("--modality", metavar="M", help="such as ultrasound")

    show = command("show", _show, "print the card of a checkpoint")
    show.add_argument("name", metavar="NAME", help="a name, a folder, or a release archive's path or address")

    verify = command("verify", _verify, "check weights and outputs of checkpoints against their cards")
    verify.add_argument("names", nargs="*", metavar="NAME", help="checkpoints; all at hand by default")

    predict = command("predict", _predict, "predict the classes of images")
    predict.add_argument("name", metavar="NAME", help="checkpoint, as for show")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, BMP, PGM, PPM, TIFF or DICOM")
    predict.add_argument("--csv", metavar="F", help="write the table to this file")
    predict.add_argument("--heatmap", metavar="DIR", help="write each image with its heatmap into this folder")

    run = command("run", _run, "run a paper's recipe: train, measure, report")
    run.add_argument("recipe", metavar="RECIPE", help="all_conv, cats_scans, drs, morphhr or pretraining_effect")
    run.add_argument("--dataset", metavar="D", help="such as rsna; the paper's by default (all_conv, morphhr)")
    run.add_argument(
        "--data", metavar="DIR", help="the dataset's folder, or a CSV file: a table of images, or the grid"
    )
    run.add_argument(
        "--out",
        metavar="RUN",
        help="the run's folder, by default named after recipe and data; an interrupted run goes on there",
    )
    run.add_argument("--profile", default="paper", metavar="P", help="paper (default) or quick")
    run.add_argument("--protocol", default="published", metavar="P", help="published (default) or sound")
    run.add_argument(
        "--method", action="append", default=[], metavar="M", help="may be repeated; the recipe's choice by default"
    )
    run.add_argument("--backbone", metavar="B", help="in place of the profile's")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; may be repeated")

    run.add_argument("--top", action="append", metavar="T", help="top layers, such as vgg-256x1-128x1 (all_conv)")
    for kind, text in (("patch", "with annotated lesions"), ("transfer", "to move to")):
        run.add_argument(f"--{kind}-dataset", metavar="D", help=f"another dataset, {text} (all_conv)")
        run.add_argument(f"--{kind}-data", metavar="DIR", help="its folder")
    run.add_argument("--processes", type=int, metavar="N", help="how many work at once (pretraining_effect)")
    run.add_argument("--folds", metavar="CSV", help="AUCs of folds in place of data: source,target,... (cats_scans)")
    run.add_argument("--distances", metavar="CSV", help="with them: source,target and one of distances (cats_scans)")

    publish = command("publish", _publish, "make a checkpoint and a release archive of a run's model")
    publish.add_argument("run", metavar="RUN", help="a run's folder, or that of one method in it")
    publish.add_argument("--name", required=True, metavar="NAME", help="small letters, digits and hyphens")
    publish.add_argument("--into", metavar="DIR", help="folder of checkpoints; by default medzoo's own")

    export = command("export", _export, "export a checkpoint for programs without medzoo")
    export.add_argument("name", metavar="NAME", help="checkpoint, as for show")
    export.add_argument("--format", required=True, metavar="FORMAT", help="saved_model, keras or onnx")
    export.add_argument("--out", required=True, metavar="DIR", help="folder for the export")

    twins = command("twins", _twins, "find images that show the same thing again")
    twins.add_argument("--data", required=True, metavar="DIR", help="folder with images at any depth")
    twins.add_argument("--csv", metavar="F", help="write a table image,group to this file")
    twins.add_argument("--sheet", metavar="PNG", help="draw the groups side by side into this file")

    recommend = command("recommend", _recommend, "rank what a training on your own images may begin with")
    recommend.add_argument(
        "--data", required=True, metavar="DATA", help="folder with a subfolder a class, or a CSV file image,label"
    )
    recommend.add_argument("--dataset", metavar="D", help="such as busi, where DATA is that dataset as published")
    recommend.add_argument(
        "--candidates", nargs="+", metavar="NAME", help="backbones and checkpoints; all at hand by default"
    )
    recommend.add_argument("--out", metavar="DIR", help="folder for the report; recommendation-NAME by default")

    demo = command("demo", _demo, "load a checkpoint, score images and draw a picture")
    demo.add_argument("--images", metavar="DIR", help="folder with your own images; by default mammograms of CBIS-DDSM")
    demo.add_argument("--out", default="demo", metavar="DIR", help="folder for the pictures; demo by default")
    return parser, added.choices


def _check_names(arguments, commands):
    """Refuses unknown commands and options before anything else is said of them, with the nearest right name."""
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    if first is None:
        return
    if first not in commands:
        raise ValueError(unknown("command", first, commands))
    for argument in arguments[arguments.index(first) + 1 :]:
        if argument == "--":
            break
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in commands[first].options:
            raise ValueError(unknown("option", name, commands[first].options))


@contextlib.contextmanager
def _plain_warnings():
    """medzoo's own warnings without the place in the code that they come from."""
    usual = warnings.formatwarning

    def plain(message, category, *place, **line):
        return f"medzoo: {message}\n" if category is UserWarning else usual(message, category, *place, **line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _import_keras():
    """Imports Keras and its backend without TensorFlow's messages, unless the user has set how much it says.

    While it is imported TensorFlow (2.18 to 2.21 at least) writes to standard error whatever the level.
    """
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        sys.stderr.flush()
        usual = os.dup(2)
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                import keras  # noqa: F401
            except BaseException:
                caught.seek(0)
                os.write(usual, caught.read())
                raise
            finally:
                os.dup2(usual, 2)
                os.close(usual)


def _list(options):
    from ..zoo import store

    cards = [store.card(name) for name in store.list_models()]
    if not cards:
        print("medzoo: no checkpoint at hand", file=sys.stderr)
        return 1
    modalities = {card.modality for card in cards}
    if options.modality is not None and options.modality not in modalities:
        raise ValueError(unknown("modality", options.modality, modalities))
    names = store.list_models(options.pattern, options.modality)
    if not names:
        raise ValueError(unknown("checkpoint", options.pattern, [card.name for card in cards]))
    rows = [(card.name, card.modality, card.summary) for card in cards if card.name in names]
    for name, modality, summary in rows:
        print(f"{name:{max(len(row[0]) for row in rows)}}  {modality:{max(len(row[1]) for row in rows)}}  {summary}")
    return 0


def _show(options):
    from ..zoo import store

    card = store.card(options.name)
    data, weights = card.data, card.weights
    split = ", ".join(f"{count} {part}" for part, count in data["split"].items())
    below = f" on {weights['backbone']['name']} ({weights['backbone']['weights']})" if weights["backbone"] else ""
    lines = [
        (f"{card.name}", f"version {card.version}, {card.created}"),
        ("summary", card.summary),
        ("task", f"{card.task}, {card.modality}"),
        ("classes", ", ".join(card.classes)),
        (
            "input",
            f"{' x '.join(map(str, card.input['shape']))}, values in [0, 255]; {card.input['resize']}"
            + (f", which keeps {card.input['crop']:g} of each side" if card.input["crop"] < 1 else ""),
        ),
        ("weights", f"{weights['bytes'] / 1e6:.2f} MB, {weights['kind']}{below}, {weights['storage']}"),
        ("data", f"{data['dataset']}, {data['licence']}"),
        ("images", f"{data['images']} ({split}); subjects: {data['subjects'] or 'unknown'} ({data['subject_source']})"),
        ("excluded", data["excluded"]),
        *(
            (
                metric["name"],
                f"{metric['value']:.3f} (95 % interval {metric['low']:.3f} to {metric['high']:.3f}), n = {metric['n']}"
                f", {metric['part']} part, {metric['protocol']} protocol",
            )
            for metric in card.metrics
        ),
        ("recipe", f"{card.recipe['name']}: {card.recipe['paper']}"),
        ("command", card.recipe["command"]),
        ("licence", card.licence),
        *(("limitation", text) for text in card.limitations),
        ("folder", store.find(options.name)),
    ]
    width = max(len(title) for title, _ in lines)
    for title, text in lines:
        print(f"{title:{width}}  {text}")


def _verify(options):
    _import_keras()
    from .. import zoo

    failed = 0
    for name in options.names or zoo.list_models():
        try:
            found = zoo.verify(name)
        except (ValueError, OSError) as error:
            failed = 1
            print(f"medzoo: {name}: {_one_line(error)}", file=sys.stderr)
        else:
            print(
                f"{name}: sha256 {found.sha256[:16]}, {found.bytes / 1e6:.2f} MB; outputs within "
                f"{found.difference:.1g} of the card's (tolerance {found.tolerance:.1g})"
            )
    return failed


def _predict(options):
    _import_keras()
    from .. import analysis, zoo
    from ..training.run import write_table

    card = zoo.card(options.name)
    model = zoo.load(options.name)
    table = analysis.predict_images(model, card, options.images)
    if options.heatmap is not None:
        analysis.write_heatmaps(model, card, options.images, options.heatmap)
    if options.csv is not None:
        write_table(options.csv, table)
        print(f"{len(table)} images: {options.csv}")
    else:
        print(table.to_string(index=False, float_format="{:.4f}".format))
    if options.heatmap is not None:
        print(f"heatmaps: {options.heatmap}")


def _run(options):
    _import_keras()
    from .. import recipes

    module = recipes.recipe(options.recipe)
    special = {name: getattr(options, name) for name in recipes.OPTIONS if getattr(options, name) is not None}
    for name, value in special.items():
        if name not in module.OPTIONS:
            raise ValueError(
                f"--{name.replace('_', '-')}: received {value}, expected none: {options.recipe} has no such"
            )
    if options.data is None and not {"folds", "distances"} & set(special):
        raise ValueError(f"--data: received none, expected the data of {options.recipe}")
    out = options.out or recipes.run_folder(options.recipe, options.data or options.distances or options.folds)
    module.run(
        options.data,
        out,
        **special,
        profile=options.profile,
        protocol=options.protocol,
        methods=tuple(options.method),
        backbone=options.backbone,
        overrides=tuple(options.set),
    )
    print(f"report: {os.path.join(out, 'report.md')}")


def _publish(options):
    _import_keras()
    from .. import zoo

    published = zoo.publish(options.run, options.name, options.into)
    weights = published.card.weights
    print(
        f"{published.folder}: version {published.card.version}, {weights['kind']}, {weights['bytes'] / 1e6:.2f} MB in "
        f"{weights['storage']}"
    )
    print(f"{published.archive}: release archive, {published.archive.stat().st_size / 1e6:.2f} MB")


def _export(options):
    _import_keras()
    from .. import zoo

    print(f"{zoo.export(options.name, options.format, options.out)}: reproduces the model's outputs")


def _twins(options):
    from .. import datasets
    from ..datasets.twins import contact_sheet, write_table

    twins = datasets.find_twins(datasets.read_tree(options.data))
    print(twins)
    if options.csv is not None:
        write_table(twins, options.csv)
        print(f"table: {options.csv}")
    if options.sheet is not None:
        print(f"sheet: {', '.join(map(str, contact_sheet(twins, options.sheet)))}")


def _demo(options):
    _import_keras()
    from .. import analysis

    made = analysis.demonstrate(options.images, options.out)
    print(f"{made.heading}.\n{made.caveat}")
    print(made.predictions.to_string(index=False, float_format="{:.4f}".format))
    if made.found > len(made.predictions):
        print(f"{len(made.predictions)} of {made.found} images")
    print(f"picture: {made.picture}\nheatmaps: {made.heatmaps[0].parent}")


def _recommend(options):
    _import_keras()
    from .. import analysis

    made = analysis.recommend(options.data, options.dataset, options.candidates, options.out)
    print(made.summary)
    print(f"report: {made.report}")

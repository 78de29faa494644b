"""What a card says of the datasets that `datasets.read` knows: facts that hold for every model trained on one."""

from dataclasses import dataclass

from .._nearest import require


@dataclass(frozen=True)
class Source:
    """Where images come from.

    Attributes:
        title: the dataset's name and the paper that describes it.
        licence: of its images.
        url: where it is to be had, or the DOI of the paper that says so.
        modality: how the images were taken.
        folder: what stands for its folder in a command that is shown.
        limitations: sentences on what a model trained on it may not be asked.
        aliases: how folders that hold it begin besides with its own name, lower case, letters and digits only.
        whole: name of the dataset whose images these are, of a subset.
    """

    title: str
    licence: str
    url: str | None
    modality: str
    folder: str
    limitations: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    whole: str | None = None


# Whoever brings a folder or a table of images says himself where they come from.
OWN = Source("the user's own images", "the user's", None, "unknown", "DATA")
# Subsets differ from the whole by their title.
PCAM = {
    "licence": "CC0",
    "url": "https://github.com/basveeling/pcam",
    "modality": "histopathology",
    "folder": "PCAM",
    "limitations": (
        "Trained on patches of 96 pixels at 10x from sentinel lymph nodes of two Dutch hospitals; other tissue, "
        "scanners and stains differ.",
        "A label is of the central 32 pixels of a patch alone.",
    ),
}

SOURCES = {
    "busi": Source(
        title="BUSI (Al-Dhabyani and others, Data in Brief 28:104863, 2020)",
        licence="CC0 / CC BY 4.0",
        url="https://doi.org/10.1016/j.dib.2019.104863",
        modality="ultrasound",
        folder="BUSI",
        aliases=("datasetbusi", "breastultrasoundimagesdataset"),
        limitations=(
            "Trained on images of one hospital and two scanners of one maker; not tested on others.",
            "BUSI has no patient identifiers: images of one woman that show different lesions may be on both sides of "
            "the split.",
        ),
    ),
    "cbis_ddsm": Source(
        title="CBIS-DDSM (Lee and others, Scientific Data 4:170177, 2017)",
        licence="CC BY 3.0",
        url="https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY",
        modality="mammography",
        folder="CBIS-DDSM",
        limitations=("Trained on scanned film of the 1990s from four American hospitals; digital mammograms differ.",),
    ),
    "chestxray14": Source(
        title="ChestX-ray14 (Wang and others, CVPR 2017)",
        licence="free for research, NIH Clinical Center to be acknowledged",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        modality="chest radiography",
        folder="CHESTXRAY14",
        aliases=("chestxray8", "chestxraynih", "nihchestxray", "cxr8"),
        limitations=("Labels were mined from reports by a program; many are wrong.",),
    ),
    "csv": OWN,
    "dtd": Source(
        title="DTD (Cimpoi and others, CVPR 2014)",
        licence="free for research; the images belong to their photographers",
        url="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        modality="photography",
        folder="DTD",
        aliases=("describabletextures",),
        limitations=("Trained on photographs of textures from the web; it has seen no medical image.",),
    ),
    "folder": OWN,
    "inbreast": Source(
        title="INbreast (Moreira and others, Academic Radiology 19:236, 2012)",
        licence="free for research, on request from its authors",
        url="https://doi.org/10.1016/j.acra.2011.09.014",
        modality="mammography",
        folder="INBREAST",
        limitations=(
            "Labels are BI-RADS assessments of radiologists, not pathology.",
            "Trained on digital mammograms of one hospital and one machine; film and other machines differ.",
        ),
    ),
    "isic2018": Source(
        title="ISIC 2018 task 3, HAM10000 (Tschandl and others, Scientific Data 5:180161, 2018)",
        licence="CC BY-NC 4.0",
        url="https://doi.org/10.7910/DVN/DBW86T",
        modality="dermoscopy",
        folder="ISIC2018",
        aliases=("ham10000", "isic18"),
        limitations=(
            "Trained on dermoscopic images of pigmented lesions from two sites, most of them of fair skin; other skin "
            "and other cameras differ.",
            "The dataset names lesions but no patients: two lesions of one patient may be on both sides of the split.",
        ),
    ),
    "kermany": Source(
        title="chest X-rays of children (Kermany and others, Cell 172:1122, 2018)",
        licence="CC BY 4.0",
        url="https://doi.org/10.17632/rscbjbr9sj",
        modality="chest radiography",
        folder="CHEST-XRAY",
        aliases=("chestxray",),  # "chest_xray" in the second version of the release, "ChestXRay2017" in the third
        limitations=(
            "Trained on children of one to five years from one hospital; adults differ.",
            "Patients are known by the file names alone, which nobody has documented.",
            "Normal images and pneumonia differ at the border of the image and in brightness: part of any AUC needs no "
            "lung.",
        ),
    ),
    "kimiapath960": Source(
        title="KimiaPath960 (Kumar and others, IEEE SSCI 2017)",
        licence="not stated; made public for research",
        url="https://www.kaggle.com/datasets/ambarish/kimia-path-960",
        modality="histopathology",
        folder="KIMIAPATH960",
        aliases=("kimiapath",),
        limitations=(
            "Each class is one whole-slide image: a model trained on it tells slides apart, and no split can keep a "
            "slide on one side.",
        ),
    ),
    "mini_mias": Source(
        title="mini-MIAS (Suckling and others, Excerpta Medica International Congress Series 1069:375, 1994)",
        licence="research only, MIAS licence agreement",
        url="http://peipa.essex.ac.uk/info/mias.html",
        modality="mammography",
        folder="MINI-MIAS",
        aliases=("mias", "allmias"),
        limitations=(
            "Trained on scanned film of the early 1990s, at a fifth of a millimetre a pixel: microcalcifications are "
            "hardly to be seen.",
        ),
    ),
    "pcam": Source(
        title="PatchCamelyon (Veeling and others, MICCAI 2018)", aliases=("patchcamelyon", "camelyonpatch"), **PCAM
    ),
    "pcam_middle": Source(
        title="PatchCamelyon, 100000 of its images (Veeling and others, MICCAI 2018)", whole="pcam", **PCAM
    ),
    "pcam_small": Source(
        title="PatchCamelyon, 10000 of its images (Veeling and others, MICCAI 2018)", whole="pcam", **PCAM
    ),
    "rodrigues": Source(
        title="Breast Ultrasound Image (Rodrigues, Mendeley Data, 2017)",
        licence="CC BY 4.0",
        url="https://doi.org/10.17632/wmy84gzngw.1",
        modality="ultrasound",
        folder="RODRIGUES",
        limitations=(
            "Trained on images of 57 to 199 pixels a side; larger ones show what these cannot.",
            "The dataset names no patients: images of one woman that show different lesions may be on both sides of "
            "the split.",
        ),
    ),
    "rsna": Source(
        title="RSNA screening mammography breast cancer detection (Carr and others, Kaggle 2022)",
        licence="competition terms, non-commercial research",
        url="https://www.kaggle.com/competitions/rsna-breast-cancer-detection",
        modality="mammography",
        folder="RSNA",
        limitations=(
            "Labels are of the breast: of a woman with cancer every view of that breast counts, also one that shows "
            "nothing.",
            "Sites, machines and ages differ in how often they have cancer; part of any AUC on these data needs no "
            "image.",
        ),
    ),
    "sti10": Source(
        title="STI-10, ten synsets of ImageNet (van den Brandt and others, arXiv 2021)",
        licence="ImageNet terms of access, non-commercial research",
        url="https://github.com/vcheplygina/cats-scans",
        modality="photography",
        folder="STI10",
        limitations=(
            "Trained on photographs from the web; it has seen no medical image.",
            "Images are published by their addresses alone, so that no two copies of the dataset are the same.",
        ),
    ),
    "stl10": Source(
        title="STL-10 (Coates and others, AISTATS 2011)",
        licence="that of ImageNet, from which its images are: non-commercial research",
        url="https://cs.stanford.edu/~acoates/stl10/",
        modality="photography",
        folder="STL10",
        limitations=("Trained on photographs of 96 pixels from ImageNet; it has seen no medical image.",),
    ),
}


def source(name):
    """What a card says of a dataset.

    Args:
        name: one of `list_datasets()`.

    Returns:
        `Source`.

    Raises:
        ValueError: if no dataset has this name; the message gives the nearest one that exists.

    Example:

    ```python
    >>> datasets.source("cbis_ddsm").licence
    'CC BY 3.0'
    ```
    """
    require("dataset", name, SOURCES)
    return SOURCES[name]

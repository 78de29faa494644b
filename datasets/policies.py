"""The names of what is done to an image between its file and the network, as a checkpoint's card records them."""

# How the values of a grey DICOM image become [0, 255] (`medzoo.datasets.read_image`): `input.dicom` of a card.
DICOM_POLICIES = {
    "voi": "the first VOI lookup table, else the first window, else the full range of the stored bits",
    "window": "the first window, even where there is a VOI lookup table, else the full range of the stored bits",
    "full": "from the smallest to the largest value that occurs",
}

# How an image comes to a size (`medzoo.datasets.images.fit_window`), and what `input.resize` of a card says of it.
FITS = {
    "stretch": "bilinear with antialiasing, the aspect ratio ignored",
    "pad": "bilinear with antialiasing, padded right and below with black, the aspect ratio kept",
}

"""Pictures as lists of numbers, to compare them."""

import numpy as np

from cbsae_hub.data.images import read_images


def pictures(images):
    return [np.asarray(picture).tolist() for picture in read_images(images, 0, len(images))]


def lists(pixels):
    return [values.tolist() for values in pixels]

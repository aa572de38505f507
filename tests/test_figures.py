"""The palette of the figures: told apart by colour-blind readers, and legible where it carries text."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from utils import figures

# Machado, Oliveira and Fernandes 2009 (https://doi.org/10.1109/TVCG.2009.113), severity 1, for linear RGB
VISION = {
    "no colour blindness": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(  # of linear sRGB, white point D65 (IEC 61966-2-1)
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
NOTICEABLE = 2.3  # CIE 1976 Delta E that an eye just notices, in patches side by side (Mahy et al. 1994)


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE 1976 L*, a*, b* of linear RGB."""
    ratio = XYZ @ rgb / (XYZ @ np.ones(3))
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(ink, paper):
    """WCAG 2.2's contrast ratio, 1 to 21."""
    dark, light = sorted(XYZ[1] @ linear(colour) + 0.05 for colour in (ink, paper))
    return light / dark


def nearest(palette, vision):
    seen = {colour: lab(np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)) for colour in palette}
    return min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(palette, 2))


@pytest.mark.parametrize("vision", VISION)
def test_all_colours_of_the_palette_are_told_apart_with(vision):
    # small marks far from each other need far more than what is just noticeable
    distance, *pair = nearest((*figures.PALETTE, "white"), vision)
    assert distance > 6 * NOTICEABLE, pair


def test_red_and_green_of_traffic_lights_would_not_pass():
    assert nearest(("#D62728", "#2CA02C"), "no colour blindness")[0] > 100
    assert nearest(("#D62728", "#7F7F00"), "deuteranopia")[0] < 6 * NOTICEABLE


@pytest.mark.parametrize("name", ["axes.labelcolor", "axes.edgecolor", "text.color", "xtick.color", "ytick.color"])
def test_texts_of_figures_have_contrast(name):
    for paper in ("figure.facecolor", "axes.facecolor"):
        assert contrast(plt.rcParams[name], plt.rcParams[paper]) >= 4.5


@pytest.mark.parametrize("colour", [figures.RED, figures.BLUE])
def test_colours_that_write_remarks_have_contrast(colour):
    assert contrast(colour, plt.rcParams["axes.facecolor"]) >= 4.5


def test_every_colour_of_the_palette_carries_black_or_white_text():
    for colour in figures.PALETTE:
        assert max(contrast(ink, colour) for ink in ("black", "white")) >= 4.5, colour
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)  # WCAG's well-known grey that just fails

"""One look for all figures: legible from the last row, safe for colour-blind readers, each with an alt text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from IPython.display import Image, display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), told apart with every common colour blindness; the red is a
# shade darker than theirs, so that it can carry text
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#C25500", "#CC79A7", "#56B4E9", "#000000")
BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK = PALETTE
SEQUENTIAL = "cividis"  # for heat maps: even in brightness, safe for colour-blind readers

plt.rcParams.update(
    {
        "axes.prop_cycle": plt.cycler(color=PALETTE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 14,
        "axes.labelsize": 12,
        "figure.constrained_layout.use": True,
        "figure.figsize": (8, 4),
        "font.size": 12,
        "image.cmap": SEQUENTIAL,
        "lines.linewidth": 2.5,
        "savefig.dpi": 110,
    }
)


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, as a PNG that carries `alt` for readers who cannot see it.

    Raises:
        ValueError: `alt` is empty.
    """
    if not alt.strip():
        raise ValueError("describe the figure in `alt`: what would you tell somebody on the phone?")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)  # otherwise Jupyter shows it a second time at the end of the cell
    display(Image(buffer.getvalue(), format="png", metadata={"alt": alt}))  # IPython 7, as on Colab, has no alt=

"""Make nbval compare what should be compared, and fail fast and clearly.

nbval 0.11 runs each notebook in `notebooks/` cell by cell; a cell tagged `nbval-check-output` must print what is
committed. This file changes nbval where it differs from JupyterLab or waits in vain (its version is pinned for that).
"""

import os
import re
import time
from queue import Empty

# before any library is imported, and inherited by the kernels
os.environ |= {
    "OMP_NUM_THREADS": "1",  # test workers share the cores
    "PYTHONHASHSEED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_XET": "1",  # the local Hub speaks LFS
    # bars differ from run to run, and some appear only where nothing is cached yet
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

NEVER_COMPARED = ("stderr", "text/html", "image/svg+xml", "application/javascript")
# a number with a decimal point or an exponent; whole numbers are compared exactly
FLOAT = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?(?![\w.])")


def _execute(self, source, allow_stdin=None):
    # with history: otherwise a trailing ";" does not hide a result, and In, Out and _ are wrong
    return self.kc.execute(source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


_wait_for_message = RunningKernel.get_message


def _get_message(self, stream, timeout=None):
    """Notice a dead kernel within 2 seconds instead of at the cell's time limit."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = 2.0 if end is None else min(2.0, end - time.monotonic())
        try:
            return _wait_for_message(self, stream, timeout=max(left, 0.01))
        except Empty:
            if not self.km.is_alive():
                raise RuntimeError("the kernel died (out of memory?)") from None
            if end is not None and time.monotonic() >= end:
                raise


class Tolerant(str):
    """Text that equals another if the words are the same and the floats differ by at most `tolerance`.

    The tolerance is absolute below 1 and relative above. Other processors round differently; a tag `tol=0.05` on a cell
    widens it.
    """

    tolerance = 1e-3
    __hash__ = str.__hash__

    def __eq__(self, other):
        if str.__eq__(self, other):
            return True
        if not isinstance(other, str) or FLOAT.sub("#", self).split() != FLOAT.sub("#", other).split():
            return False
        pairs = zip(map(float, FLOAT.findall(self)), map(float, FLOAT.findall(other)), strict=True)
        return all(abs(x - y) <= self.tolerance * max(1.0, abs(x), abs(y)) for x, y in pairs)

    def __ne__(self, other):
        return not self == other


_sanitize = IPyNbCell.sanitize


def _tolerant(self, text):
    text = _sanitize(self, text)
    if isinstance(text, str):
        text = Tolerant(text)
        for tag in self.cell.metadata.get("tags", []):
            if tag.startswith("tol="):
                text.tolerance = float(tag[4:])
    return text


RunningKernel.execute_cell_input = _execute
RunningKernel.get_message = _get_message
IPyNbCell.sanitize = _tolerant


def pytest_configure(config):
    # the cells of one notebook belong to one kernel, so to one worker
    if getattr(config.option, "numprocesses", None) and getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadfile"


def pytest_collectstart(collector):
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += NEVER_COMPARED


def pytest_runtest_setup(item):
    if isinstance(item, IPyNbCell) and getattr(item.parent, "broken_at", None) is not None:
        pytest.skip(f"cell {item.parent.broken_at} of this notebook raised")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if not isinstance(item, IPyNbCell):
        return (yield)
    try:
        result = yield
    except Exception as error:
        if "outputs differ" not in str(error):
            item.parent.broken_at = item.cell_num  # what follows in that notebook would only be noise
        raise
    expects_error = item.options["check_exception"]
    if expects_error and not any(o.get("output_type") == "error" for o in item.test_outputs or ()):
        pytest.fail("tagged raises-exception, but it did not raise", pytrace=False)
    return result

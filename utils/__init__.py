"""Helpers for the notebooks: plumbing only. Whatever teaches stands in the notebooks themselves.

Importing this package loads no library, so that the doctor and the installer start on a bare Python.
"""


class WorkshopError(Exception):
    """An error that says what is wrong, with which value, and how to mend it; shown as one line, not as a traceback."""

    def _render_traceback_(self):  # IPython's hook: what a notebook cell shows for this exception
        return ["\u2717 " + str(self)]

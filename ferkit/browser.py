"""Paging through faces in a notebook: what was said of each, and a map of what decided; a figure where nobody pages."""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ferkit.explain_plots import face_rows
from ferkit.faces import Faces
from ferkit.metrics import softmax

SHOWN = ("all", "right", "wrong")


def page(
    faces: Faces, logits: np.ndarray, which: str = "all", label: str = "every", number: int = 0, size: int = 8,
    maps: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Figure, int]:  # fmt: skip
    """The number-th page (from 0, kept in range) of the faces of that class that are judged so; how many there are.

    logits: (N, C) of `faces`, the surest first. `maps` makes maps (n, H, W) in [0, 1] of images (n, H, W), for those
    that are shown alone. Raises ValueError for a choice or a class that there is not.
    """
    if which not in SHOWN or label not in ("every", *faces.classes):
        raise ValueError(f"choose from {SHOWN} and from {('every', *faces.classes)}, got {which!r} and {label!r}")
    p, labels = softmax(logits), faces.labels.numpy()
    said, sure = p.argmax(1), p.max(1)
    fits = np.full(len(labels), True) if which == "all" else (said == labels) == (which == "right")
    if label != "every":
        fits &= labels == faces.classes.index(label)
    order = np.flatnonzero(fits)[np.argsort(-sure[fits], kind="stable")]
    n_pages = -(-len(order) // size)
    number = max(0, min(number, n_pages - 1))
    mine = order[number * size :][:size]
    gaps = [None] * (size - len(mine))
    told = [f"{faces.classes[labels[i]]}\nsaid: {faces.classes[said[i]]} {sure[i]:.0%}" for i in mine]
    pictures = [*faces.images[mine], *gaps]
    rows = [("face", pictures, None, [*told, *[""] * len(gaps)])]
    if maps and len(mine):
        rows.append(("map", pictures, maps(faces.images[mine]), None))
    shown = f"page {number + 1} of {max(n_pages, 1)}"
    return face_rows(rows, f"{faces.name}, judged: {which}, label: {label}, n {len(order):,}, {shown}"), n_pages


def browse(faces: Faces, logits: np.ndarray, size: int = 8, maps: Callable[[Tensor], Tensor] | None = None):
    """Widgets that turn the pages of `page`, below the first one as a figure, which a saved notebook keeps.

    Where no front end answers (papermill, a report) that figure is what there is to see.
    """
    import ipywidgets as widgets
    from IPython.display import display

    class Buttons(widgets.HBox):
        def __repr__(self) -> str:  # what is left of widgets in a saved page
            return "In a live notebook, buttons here turn the pages."

    which = widgets.ToggleButtons(options=SHOWN, description="judged", style={"button_width": "4.5em"})
    label = widgets.Dropdown(options=("every", *faces.classes), description="label")
    number = widgets.BoundedIntText(value=1, min=1, max=-(-len(faces) // size), description="page")
    first, _ = page(faces, logits, size=size, maps=maps)
    handle = display(first, display_id=True)

    def turn(change: dict) -> None:
        if change["owner"] is not number and number.value != 1:
            number.value = 1  # which turns the page again
            return
        figure, n = page(faces, logits, which.value, label.value, number.value - 1, size, maps)
        number.max = max(n, 1)
        if handle:  # there is none outside IPython
            handle.update(figure)

    for widget in (which, label, number):
        widget.observe(turn, "value")
    return Buttons([which, label, number])

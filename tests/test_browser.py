"""Pages of faces, and the widgets that turn them."""

import numpy as np
import pytest
import torch

from ferkit import browser
from ferkit.synthetic import embedded_faces

FACES = embedded_faces(60).split("Training")
SAID = np.where(
    np.arange(len(FACES)) % 3 == 0, (FACES.labels.numpy() + 1) % 7, FACES.labels.numpy()
)  # a third is wrong
LOGITS = np.eye(7)[SAID] * np.linspace(1, 5, len(FACES))[:, None]  # the last are the surest


def shown(figure):
    """Pictures, captions and title."""
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    return pictures, [axes.get_title() for axes in figure.axes], figure.get_suptitle()


def test_a_page_holds_the_faces_that_were_asked_for_the_surest_first():
    figure, n_pages = browser.page(FACES, LOGITS, "wrong", size=4)
    pictures, captions, title = shown(figure)
    wrong = [i for i in range(len(FACES)) if i % 3 == 0]
    assert n_pages == -(-len(wrong) // 4) and f"n {len(wrong)}, page 1 of {n_pages}" in title
    assert all((picture == FACES.images[i].numpy()).all() for picture, i in zip(pictures, wrong[::-1], strict=False))
    last, _ = browser.page(FACES, LOGITS, "wrong", number=99, size=4)
    assert len(shown(last)[0]) == (len(wrong) - 1) % 4 + 1 and f"page {n_pages} of {n_pages}" in shown(last)[2]
    assert captions[0].startswith(FACES.classes[int(FACES.labels[wrong[-1]])])


def test_a_class_and_its_maps():
    seen = []
    figure, _ = browser.page(
        FACES, LOGITS, label="happy", size=3, maps=lambda images: seen.append(images) or images / 255
    )
    assert len(seen[0]) == 3 and len(shown(figure)[0]) == 6
    assert all(caption.startswith("happy") for caption in shown(figure)[1][:3])
    empty, n_pages = browser.page(FACES, np.eye(7)[FACES.labels] * 3, "wrong", maps=torch.zeros_like)
    assert n_pages == 0 and "n 0, page 1 of 1" in shown(empty)[2]


@pytest.mark.parametrize("choice", [{"which": "most"}, {"label": "contempt"}])
def test_what_cannot_be_shown_is_told(choice):
    with pytest.raises(ValueError, match="choose from"):
        browser.page(FACES, LOGITS, **choice)


def test_buttons_turn_the_pages(monkeypatch):
    drawn, real = [], browser.page
    monkeypatch.setattr(browser, "page", lambda *a, **k: drawn.append((a[2:], k)) or real(*a, **k))
    buttons = browser.browse(FACES, LOGITS, size=4)
    which, label, number = buttons.children
    number.value = 2
    which.value = "wrong"  # starts at its first page
    label.value = "sad"
    assert [call[0][:3] for call in drawn[1:]] == [("all", "every", 1), ("wrong", "every", 0), ("wrong", "sad", 0)]
    assert repr(buttons) == "In a live notebook, buttons here turn the pages."

from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ferkit import claims, model_plots, plots
from ferkit.labels import COLOURS
from ferkit.models import create_model
from ferkit.models.outline import outline


def test_an_architecture_shows_every_part_with_its_parameters():
    parts = outline(create_model("emonext_tiny", width=16, size=64, depths=(1, 1, 1, 1)))
    figure = model_plots.architecture(parts, "small")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert all(f"{part.parameters:,}" in texts for part in parts)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == [part.name for part in parts]


def test_claims_and_measurements_stand_side_by_side():
    ours = claims.claims_of("resemotenet")
    figure = model_plots.claimed_and_measured(ours, [("run", {"value": 0.6, "low": 0.58, "high": 0.62}, 3589)], "t")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert isinstance(figure, Figure) and names == ["claimed: ResEmoteNet (unsound)", "measured: run, n 3,589"]


def test_every_claim_about_a_model_of_ours_names_one():
    from ferkit.models import list_models

    for those in claims.CLAIMS_ON.values():
        assert {claim.model for claim in those} - {""} <= set(list_models())
    assert len(claims.claims_table().splitlines()) == 2 + len(claims.CLAIMS)


SEEN = {  # linear RGB as it is seen without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1)
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colours, cones):
    """CIE L*a*b* (D65) of colours, as seen with these cones."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.array(cones).T, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("cones", SEEN)
@pytest.mark.parametrize("colours", [plots.PALETTE, tuple(COLOURS.values())], ids=["palette", "classes"])
def test_colours_differ_for_the_colour_blind(cones, colours):
    """A difference of 2.3 is just noticeable; matplotlib's own ten colours come down to 5."""
    seen = lab(colours, SEEN[cones])
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(colours), 1)]
    assert distances.min() > 9


def test_a_figure_is_sharp_at_its_own_size():
    figure, axes = plots.new_figure(size=(4, 2))
    axes[0, 0].plot([1, 2])
    data, about = figure._repr_mimebundle_()
    width, height = Image.open(BytesIO(data["image/png"])).size
    size = about["image/png"]
    assert (width // 2, height // 2) == (size["width"], size["height"]) and width > 1.5 * 4 * figure.dpi

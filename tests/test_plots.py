from matplotlib.figure import Figure

from ferkit import claims, model_plots
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

    assert {claim.model for claim in claims.CLAIMS} - {""} <= set(list_models())
    assert len(claims.claims_table().splitlines()) == 2 + len(claims.CLAIMS)

import numpy as np
import pytest
import torch

from ferkit import experiment, explain_plots, explain_study, synthetic
from ferkit.explain import mask_maps
from ferkit.faithfulness import baseline_maps
from ferkit.models import create_model
from ferkit.recipe import Recipe
from ferkit.train import silent

LABELS = np.repeat(np.arange(5), 12)


def scores(**gains: float) -> explain_study.Scores:
    noise = np.random.default_rng(0).normal(0, 0.1, (4, len(LABELS)))
    values = {"random map": 0.3, "centre blob": 0.5} | gains
    return {name: value + noise[i] for i, (name, value) in enumerate(values.items())}


def test_a_method_that_does_not_beat_the_baselines_is_named():
    tables = {"insertion": explain_study.against_baselines(scores(good=0.9, poor=0.4), LABELS)}
    assert tables["insertion"]["good"]["centre blob"]["value"] == pytest.approx(0.4, abs=0.05)
    won = explain_study.better(tables)
    assert won["insertion", "good", "random map"] and won["insertion", "good", "centre blob"]
    assert won["insertion", "poor", "random map"] and not won["insertion", "poor", "centre blob"]
    assert explain_study.unbeaten(tables) == {"random map": {}, "centre blob": {"poor": ["insertion"]}}
    table = explain_study.verdict_table(tables)
    assert "| good | both: +" in table and "| poor | the random map only: -" in table
    worse = {"insertion": explain_study.against_baselines(scores(poor=0.1), LABELS)}
    assert "| poor | **neither**: -" in explain_study.verdict_table(worse)


def test_the_same_map_beats_nothing():
    same = {name: np.linspace(0, 1, len(LABELS)) for name in (*baseline_maps(1), "same")}
    assert not any(explain_study.better({"x": explain_study.against_baselines(same, LABELS)}).values())


@pytest.mark.parametrize("name", ["fer2013", "embedded"])
def test_parts_of_the_face_do_not_overlap_and_what_is_covered_is_lost(name):
    boxes = explain_study.face_parts(name)
    images = synthetic.embedded_faces(20).images[:4]
    regions = torch.stack([explain_study.region(box, images) for box in boxes.values()])
    assert regions.sum(0).max() == 1 and regions.any(3).any(2).all()
    whole = explain_study.promised(regions[4].float(), boxes)
    assert whole[:, 4] == pytest.approx(1) and whole[:, :4] == pytest.approx(0)

    def judge(faces: torch.Tensor) -> torch.Tensor:
        """Sure of class 1 where the mouth is as it was."""
        same = ((faces == images) | ~regions[4]).all(2).all(1)
        return torch.stack([torch.zeros(len(faces)), torch.where(same, 9.0, 0.0)], 1)

    lost = explain_study.lost(judge, images, torch.ones(4, dtype=torch.int64), boxes)
    assert lost.shape == (4, 5) and lost[:, 4] == pytest.approx(0.5, abs=0.01) and lost[:, :4] == pytest.approx(0)
    covered = explain_study.cover(images, boxes["mouth"])
    assert torch.equal(covered[~regions[4]], images[~regions[4]]) and covered[0][regions[4][0]].unique().numel() == 1


def test_what_a_face_shows_is_where_its_own_units_are():
    _, truth = synthetic.embedded_truth(60)
    shown = truth.shown()
    assert shown.shape == (60, 48, 48) and not shown[truth.emotion == synthetic.EMOTIONS.index("neutral")].any()
    happy = truth.emotion == synthetic.EMOTIONS.index("happy")
    places = truth.place(6) | truth.place(12)
    assert shown[happy].any((1, 2)).any() and not (shown & ~places)[happy].any()
    assert not truth.shown(1.01).any()


def test_masks_come_as_maps():
    torch.manual_seed(0)
    images = synthetic.embedded_faces(20).images[:3]
    model = create_model("residual_masking", width=16, size=64)
    maps = mask_maps(model, images, batch_size=2)
    assert len(maps) == 4
    for some in maps:
        assert some.shape == (3, 48, 48) and some.min() >= 0 and some.max() <= 1
    torch.testing.assert_close(mask_maps(model, images[2:])[0][0], maps[0][2], atol=1e-3, rtol=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_are_trained_where_only_a_record_was_committed(tmp_path, monkeypatch):
    tiny = Recipe("a", options={"width": 8}, stages=((1, 16),), batch_size=32, policy="flip", precision="float32")
    faces = synthetic.embedded_faces(40)
    monkeypatch.setattr(experiment, "project_root", lambda: tmp_path)
    experiment.run(tiny, faces, tmp_path / "results" / "embedded" / tiny.run_name, say=silent)
    folder = experiment.obtain(tiny, faces, kept=True)
    assert folder == tmp_path / "runs" / "embedded" / tiny.run_name and (folder / "best.safetensors").exists()
    assert experiment.obtain(tiny, faces, kept=True) == folder


def test_figures_stand_gaps_and_empty_classes():
    faces = synthetic.embedded_faces(40)
    p = torch.nn.functional.one_hot(faces.labels, 7).float()  # nobody is wrong
    maps = torch.rand(40, 48, 48)
    figure = explain_plots.examples(faces, p, maps, maps, "title")
    assert figure._suptitle.get_text() == "title" and len(figure.axes) == 35
    groups = [faces.labels == c for c in range(6)] + [torch.zeros(40, dtype=torch.bool)]
    for rows in ({"one": (maps, groups)}, {"one": (maps, groups), "two": (maps, groups[::-1])}):
        figure = explain_plots.mean_maps(faces.images, rows, faces.classes, "title")
        assert len(figure.axes) == 8 * (len(rows) + 1)  # a colour bar a row

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from ferkit import DataError, cli, robustness, study_plots, synthetic
from ferkit.corruptions import CORRUPTIONS, EYES, MOUTH, SEVERITIES, corrupt
from ferkit.models import create_model
from ferkit.recipe import Recipe
from ferkit.robustness import corruption_accuracy, load_robustness, robustness_table, save_robustness
from ferkit.weights import save_weights


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(200)


@pytest.fixture(scope="module")
def run(tmp_path_factory, faces):
    folder, recipe = tmp_path_factory.mktemp("run"), Recipe("r", options={"width": 8})
    torch.manual_seed(0)
    save_weights(create_model("compact", width=8), folder / "best.safetensors", recipe, faces.classes)
    data = {"name": "embedded", "fingerprint": faces.fingerprint}
    record = {"schema": 1, "run": "r", "recipe": {}, "data": data, "selected": {}, "metrics": {}}
    (folder / "record.json").write_text(json.dumps(record))
    robustness.obtain(folder, faces, "cpu")
    return folder


def distance(a, b):
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_is_a_picture_again_and_worse_than_the_one_before(name, faces):
    images, before, smallest = faces.images[:64], faces.images[:64].clone(), 0.0
    for severity in SEVERITIES:
        corrupted = corrupt(images, name, severity)
        assert corrupted.dtype == torch.uint8 and corrupted.shape == images.shape
        assert torch.equal(images, before) and torch.equal(corrupted, corrupt(images, name, severity))
        far = distance(corrupted, images)
        assert far > 1.05 * smallest + 0.2  # grey levels; drawn faces are smooth, so a blur hardly changes them
        smallest = far


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("severity", [1, 4])
def test_a_row_gets_the_same_in_any_batch_and_order_and_whatever_ran_before(name, severity, faces):
    images, rows = faces.images[:150].repeat(8, 1, 1), torch.arange(30_000, 31_200)  # more than a chunk
    whole = corrupt(images, name, severity, rows=rows)
    some = torch.tensor([1100, 3, 3, 77, 1024, 5, 1023])
    torch.manual_seed(9)
    corrupt(images[:5], "gaussian_noise", 3)
    assert torch.equal(corrupt(images[some], name, severity, rows=rows[some]), whole[some])
    assert torch.equal(corrupt(images[77:78], name, severity, rows=rows[77:78]), whole[77:78])


def test_rows_seeds_severities_and_corruptions_draw_apart(faces):
    images = faces.images[:1].expand(6, -1, -1)
    noisy = corrupt(images, "gaussian_noise", 3)
    assert len(noisy.flatten(1).unique(dim=0)) == 6
    assert torch.equal(noisy, corrupt(images, "gaussian_noise", 3, rows=torch.arange(6)))
    assert not torch.equal(noisy, corrupt(images, "gaussian_noise", 3, seed=1))
    grey = torch.full((1, 200, 200), 128, dtype=torch.uint8)
    patterns = [corrupt(grey, "gaussian_noise", 3), corrupt(grey, "gaussian_noise", 4), corrupt(grey, "shot_noise", 3)]
    patterns.append(corrupt(grey, "gaussian_noise", 3, rows=torch.tensor([1])))
    together = np.corrcoef(torch.stack(patterns).flatten(1).numpy())
    assert np.abs(together - np.eye(4)).max() < 0.025  # five standard errors of 40,000 pixels


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_gaussian_blur_is_scipys(severity, faces):
    ours = corrupt(faces.images[:4], "gaussian_blur", severity).numpy()
    sigma = CORRUPTIONS["gaussian_blur"][severity - 1] * 48
    for image, blurred in zip(faces.images[:4].double().numpy(), ours, strict=True):
        theirs = ndimage.gaussian_filter(image, sigma, mode="mirror", radius=math.ceil(4 * sigma))
        assert np.abs(blurred - theirs).max() <= 0.5 + 1e-9  # our rounding


def test_noise_has_the_stated_distribution():
    grey = torch.full((4, 128, 128), 128, dtype=torch.uint8)
    noise = corrupt(grey, "gaussian_noise", 2).double() - 128
    assert stats.kstest(noise + torch.rand(noise.shape) - 0.5, stats.norm(0, 0.05 * 255).cdf, axis=None).pvalue > 1e-3
    counts = (corrupt(grey, "shot_noise", 5).double() * 10 / 255).round().flatten().long()
    expected = stats.poisson(10 * 128 / 255).pmf(np.arange(10))  # more than 10 photons are white
    measured = torch.bincount(counts, minlength=11)[:10] / counts.numel()
    np.testing.assert_allclose(measured, expected, atol=5 * math.sqrt(0.25 / counts.numel()))
    hit = corrupt(grey, "impulse_noise", 5)
    for value in (0, 255):
        assert (hit == value).double().mean().item() == pytest.approx(0.10, abs=0.005)
    assert ((hit == 128) | (hit == 0) | (hit == 255)).all()


def test_jpeg_is_pillows_and_light_is_clipped(faces, tmp_path):
    Image.fromarray(faces.images[0].numpy()).save(tmp_path / "face.jpg", quality=30)
    assert np.array_equal(corrupt(faces.images[:1], "jpeg", 2)[0], np.asarray(Image.open(tmp_path / "face.jpg")))
    bright = faces.images[:9].double() + 255 * CORRUPTIONS["brightness_up"][2]
    assert torch.equal(corrupt(faces.images[:9], "brightness_up", 3), bright.round().clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("name, box", [("eyes_covered", EYES), ("mouth_covered", MOUTH)])
def test_covers_lie_where_they_should_and_are_the_mean_grey(name, box):
    images = torch.rand(5, 48, 48, generator=torch.Generator().manual_seed(0)).mul(255).to(torch.uint8)
    top, bottom, left, right = (round(48 * value) for value in box)
    expected = images.clone()
    expected[:, top:bottom, left:right] = images.double().mean((1, 2)).round().to(torch.uint8)[:, None, None]
    assert torch.equal(corrupt(images, name, 5), expected)


def test_blocks_turns_and_shifts_are_as_large_as_stated():
    ramp = torch.arange(64.0).mul(4).to(torch.uint8).expand(300, 64, 64)
    blocks = corrupt(ramp.flip(1), "random_block", 3) != ramp
    sides = (blocks.any(1).sum(1).float(), blocks.any(2).sum(1).float())
    assert all((side.mean() - 0.33 * 64).abs() < 1 for side in sides)
    middle = ramp[:, 20:44, 20:44].double()
    moved = (corrupt(ramp, "shift", 2)[:, 20:44, 20:44].double() - middle).mean((1, 2)) / 4  # pixels along x
    assert moved.abs().max() == pytest.approx(0.07 * 64, abs=0.1) and moved.mean().abs() < 0.07 * 64 / 4
    turned = corrupt(ramp, "rotation", 3)[:, 20:44, 20:44].double() / 4  # cos along x, sin along y
    slopes = turned.diff(dim=2).mean((1, 2)), turned.diff(dim=1).mean((1, 2))
    angles = torch.rad2deg(torch.atan2(slopes[1], slopes[0]))
    assert (angles.abs() - 18).abs().max() < 0.3 and 90 < (angles > 0).sum() < 210


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [31, 96])
def test_other_sides(name, side, faces):
    images = torch.nn.functional.interpolate(faces.images[:3, None].float(), side).to(torch.uint8)[:, 0]
    corrupted = corrupt(images, name, 5)
    assert corrupted.shape == images.shape and not torch.equal(corrupted, images)


def test_mistakes_are_named(faces):
    with pytest.raises(ValueError, match="unknown corruption 'fog'; choose from .*gaussian_noise"):
        corrupt(faces.images, "fog", 1)
    for severity in (0, 6, "1", 2.5):
        with pytest.raises(ValueError, match=r"unknown severity .*; choose from \[1, 2, 3, 4, 5\]"):
            corrupt(faces.images, "jpeg", severity)
    for images in (faces.images.float(), faces.images[0], faces.images[:, :40]):
        with pytest.raises(ValueError, match=r"images must be uint8 \(N, H, H\)"):
            corrupt(images, "jpeg", 1)
    with pytest.raises(ValueError, match="3 rows for 200 images"):
        corrupt(faces.images, "jpeg", 1, rows=torch.arange(3))


def test_a_run_is_measured_on_privatetest_and_read_back(run, faces):
    arrays, private = load_robustness(run), faces.split("PrivateTest")
    assert arrays["predicted"].shape == (15, 5, len(private)) and arrays["predicted"].dtype == np.int8
    assert arrays["labels"].tolist() == private.labels.tolist() and arrays["rows"].tolist() == private.rows.tolist()
    assert tuple(arrays["names"]) == tuple(CORRUPTIONS) and tuple(arrays["classes"]) == faces.classes
    model = create_model("compact", width=8)
    model.load_state_dict(robustness.load_weights(run / "best.safetensors")[0].state_dict())
    x = corrupt(private.images, "shift", 5, rows=private.rows)
    assert arrays["predicted"][-1, -1].tolist() == robustness.logits(model, x).argmax(1).tolist()
    assert arrays["clean"].tolist() == robustness.logits(model, private.images).argmax(1).tolist()


def test_accuracies_their_mean_and_its_interval():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(7), 30)
    right = rng.random((15, 5, 210)) < np.linspace(0.9, 0.3, 5)[:, None]
    arrays = {"predicted": np.where(right, labels, (labels + 1) % 7), "labels": labels, "clean": labels,
              "names": np.array(list(CORRUPTIONS)), "severities": np.array(SEVERITIES)}  # fmt: skip
    accuracy, mean = corruption_accuracy(arrays)
    np.testing.assert_allclose(accuracy, right.mean(2))
    assert mean["value"] == pytest.approx(right.mean(), abs=1e-6) and mean["low"] < mean["value"] < mean["high"]
    half = 1.96 * right.mean((0, 1)).std() / 210**0.5
    assert mean["high"] - mean["low"] == pytest.approx(2 * half, rel=0.15)
    lines = robustness_table(arrays).splitlines()
    assert len(lines) == 17 and lines[8].split()[0] == "brightness_up"
    assert lines[1].split()[1:] == [f"{100 * value:.1f}" for value in (*accuracy[0], accuracy[0].mean())]
    assert lines[-1].startswith(f"mean of 15 x 5: {100 * right.mean():.1f} (") and "clean: 100.0" in lines[-1]
    assert "n 210" in lines[-1]


def test_measurements_are_not_overwritten_and_damage_is_named(run, faces, tmp_path):
    with pytest.raises(FileExistsError, match=r"corrupted.npz exists, and measurements are not overwritten"):
        save_robustness(run, faces)
    with pytest.raises(DataError, match=r"corrupted.npz: not readable .*No such file.*ferkit robustness writes it"):
        load_robustness(tmp_path)
    whole = (run / "corrupted.npz").read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:300] + bytes(200) + whole[500:], b"no archive"):
        (tmp_path / "corrupted.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"corrupted.npz: not readable"):
            load_robustness(tmp_path)
    arrays = load_robustness(run)
    np.savez(tmp_path / "corrupted.npz", **arrays | {"labels": arrays["labels"][1:]})
    with pytest.raises(DataError, match="its arrays do not fit each other"):
        load_robustness(tmp_path)


def test_faces_and_weights_that_do_not_fit(run, faces, tmp_path):
    with pytest.raises(DataError, match="no PrivateTest images with labels"):
        save_robustness(tmp_path, faces.split("Training"))
    with pytest.raises(DataError, match=r"best.safetensors"):
        save_robustness(tmp_path, faces)
    model = create_model("compact", 2, width=8)
    save_weights(model, tmp_path / "best.safetensors", Recipe("r", options={"width": 8}), ("cat", "dog"))
    with pytest.raises(DataError, match="tells cat, dog apart; embedded has angry"):
        save_robustness(tmp_path, faces)
    assert not (tmp_path / "corrupted.npz").exists()


def test_the_command_prints_the_table_once_measured_and_refuses_other_data(run, faces, capsys, monkeypatch, tmp_path):
    from ferkit import sources

    monkeypatch.setattr(sources, "load", lambda *_, **__: faces)
    record = json.loads((run / "record.json").read_text())
    assert cli.main(["robustness", str(run)]) == 0
    out = capsys.readouterr().out
    assert "has corrupted.npz, which is only read" in out and "mean of 15 x 5:" in out
    record["data"]["fingerprint"] = "0123"
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert cli.main(["robustness", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "was measured on embedded, fingerprint 0123; these are embedded" in error and error.count("\n") == 1


def test_figures_show_all(faces):
    figure = study_plots.corruptions(faces.images[0])
    assert sum(len(axes.images) for axes in figure.axes) == 1 + len(CORRUPTIONS) * len(SEVERITIES)
    values = {"one": np.linspace(0.2, 0.7, 15), "two": np.full(15, 0.5)}
    axes = study_plots.robustness_heatmap(values, list(CORRUPTIONS), "title").axes[0]
    assert [text.get_text() for text in axes.texts[:15]] == [f"{100 * value:.1f}" for value in values["one"]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]

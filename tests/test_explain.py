import numpy as np
import pytest
import torch

from ferkit.ensemble import Combination
from ferkit.explain import METHODS, cam_maps, judge_maps
from ferkit.judge import Judge
from ferkit.models import InputSpec, create_model
from ferkit.predict import logits
from ferkit.synthetic import embedded_faces
from tests.test_models import KINDS, small

GRADIENTS = [name for name in METHODS if name not in ("score_cam", "eigen_cam")]
TOKENS = ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"]  # a class token; channels last


def check(maps: torch.Tensor, n: int) -> None:
    assert maps.shape == (n, 48, 48) and maps.dtype == torch.float32
    assert maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1


@pytest.mark.parametrize("name", [*KINDS, *TOKENS])
def test_maps_lie_on_the_faces_own_grid(name):
    model, images = small(name), embedded_faces(20).images[:3]
    for method in [*GRADIENTS, "eigen_cam"]:
        maps = cam_maps(model, images, 1, method, batch_size=2)
        check(maps, 3)
        if name != "patt_lite_batch":
            torch.testing.assert_close(maps[2], cam_maps(model, images[2:], 1, method)[0], atol=1e-2, rtol=0)
    if name in TOKENS:  # an untrained network's map of a class may be negative everywhere, which is a map of zeros
        assert max(cam_maps(model, images, label).std() for label in range(7)) > 0.05


@pytest.mark.parametrize("name", ["compact", "patt_lite", *TOKENS[:1]])
def test_score_cam_works_where_there_are_maps_tokens_or_several_channels(name, capfd):
    images = embedded_faces(20).images[:2]
    check(cam_maps(small(name), images, method="score_cam"), 2)
    assert "it/s" not in capfd.readouterr().err  # the package's progress bars


class Squares(torch.nn.Module):
    """One feature finds the bright square, the other the dark one; each class reads one."""

    cam_layer, input_spec = "features", InputSpec(64, mean=0.0, std=1.0)

    def __init__(self, seen: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
        self.features[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.features[0].bias.data = torch.tensor([-0.6, 0.4])
        self.head = torch.nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.diag(torch.tensor(seen))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


IMAGES = torch.full((1, 64, 64), 128, dtype=torch.uint8)
IMAGES[:, 8:24, 8:24], IMAGES[:, 40:56, 40:56] = 255, 0
BRIGHT, DARK = (slice(None), slice(8, 24), slice(8, 24)), (slice(None), slice(40, 56), slice(40, 56))


@pytest.mark.parametrize("method", GRADIENTS)
def test_a_map_shows_the_place_that_decides(method):
    for label, here, elsewhere in ((0, BRIGHT, DARK), (1, DARK, BRIGHT)):
        maps = cam_maps(Squares(), IMAGES, torch.tensor([label]), method)
        assert maps[here].mean() > 0.9 and maps[elsewhere].mean() < 0.1


def test_without_gradients_a_map_shows_what_the_network_sees():
    """Score-CAM weighs by logits, here nearly equal ones; Eigen-CAM does not look at the class at all."""
    for label in (0, 1):
        maps = cam_maps(Squares((200.0, 200.0)), IMAGES, label, "score_cam")
        assert maps[(BRIGHT, DARK)[label]].mean() > 0.9 > 0.5 > maps[(DARK, BRIGHT)[label]].mean()
    first, second = (cam_maps(Squares(), IMAGES, label, "eigen_cam") for label in (0, 1))
    assert torch.equal(first, second) and max(first[BRIGHT].mean(), first[DARK].mean()) > 0.9


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
def test_an_ensembles_map_is_that_of_its_members_by_their_shares(method):
    """One member reads the bright square, the other the dark one, both for class 0."""
    other = Squares()
    other.head.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    judge = Judge((Squares(), other), ("a", "b"), Combination(np.array([0.75, 0.25]), lambda x: x.mean(0)))
    maps = judge_maps(judge, IMAGES, 0, method)
    assert maps[BRIGHT].mean() == pytest.approx(0.75, abs=0.05) and maps[DARK].mean() == pytest.approx(0.25, abs=0.05)


def test_the_mirrored_faces_map_is_mirrored_back():
    """A member that reads the left half only sees the right half in the mirrored face, and the map must say so."""

    class Left(Squares):
        def forward(self, x):
            return self.head(self.features(x)[..., :32].mean((2, 3)))

    combination = Combination(np.array([0.5, 0.5]), lambda x: x.mean(0))
    maps = judge_maps(Judge((Left(),), ("a", "b"), combination, views=True), IMAGES, 0, "layer_cam")
    alone = (
        cam_maps(Left(), IMAGES, 0, "layer_cam") / 2 + cam_maps(Left(), IMAGES.flip(-1), 0, "layer_cam").flip(-1) / 2
    )
    torch.testing.assert_close(maps, alone)
    maps = judge_maps(Judge((Left(),), ("a", "b"), combination, views=True), IMAGES, 1, "layer_cam")
    assert maps[DARK].mean() > 0.4  # seen in the mirrored face alone


def test_the_model_is_left_as_it_was():
    model, images = small("compact").train(), embedded_faces(20).images[:2]
    model.stem.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    frozen = cam_maps(model, images, 1)
    assert not model.training and model.head.weight.grad.eq(1).all() and model.head.bias.grad is None
    assert not model.stem[1][0].weight.requires_grad and model.head.weight.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(cam_maps(model.requires_grad_(False), images, 1), frozen)
    assert not any(module._forward_hooks for module in model.modules())


def test_classes_are_the_predicted_ones_unless_given():
    model, images = small("compact"), embedded_faces(20).images[:4]
    torch.testing.assert_close(cam_maps(model, images), cam_maps(model, images, logits(model, images).argmax(1)))
    assert cam_maps(model, images[:0]).shape == (0, 48, 48)


def test_a_map_without_places_is_zero_and_never_nan():
    torch.manual_seed(0)
    model, images = create_model("compact", width=8, size=8), embedded_faces(20).images[:2]  # a last map of 1x1
    for method in [*GRADIENTS, "eigen_cam"]:
        assert (cam_maps(model, images, 1, method) == 0).all()
    torch.nn.init.zeros_(model.head.weight)
    assert (cam_maps(model, images, 1) == 0).all()


def test_what_does_not_fit_is_refused():
    images = embedded_faces(20).images[:2]
    with pytest.raises(ValueError, match="unknown method 'x'; choose from"):
        cam_maps(small("compact"), images, method="x")
    for classes in (7, -1, torch.tensor([0]), torch.tensor([0, 9])):
        with pytest.raises(ValueError, match="2 numbers from 0 to 6"):
            cam_maps(small("compact"), images, classes)

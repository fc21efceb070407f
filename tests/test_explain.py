import pytest
import torch

from ferkit.explain import cam_maps
from ferkit.models import InputSpec, create_model, list_models
from ferkit.synthetic import embedded_faces

SMALL = {"width": 16, "size": 64}


@pytest.mark.parametrize("name", ["compact", "resemotenet", "patt_lite", "emonext_tiny", "timm:eva02_tiny_patch14_224"])
def test_maps_lie_on_the_faces_own_grid(name):
    torch.manual_seed(0)
    options = {"size": 70} if name.startswith("timm:") else SMALL | ({"patch": 1} if name == "patt_lite" else {})
    assert name in list_models()
    images = embedded_faces(20).images[:3]
    maps = cam_maps(create_model(name, **options), images, batch_size=2)
    assert maps.shape == (3, 48, 48) and maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1


def test_a_map_shows_the_place_that_decides():
    """One feature finds the bright square, the other the dark one; each class reads one and must be shown there."""

    class Squares(torch.nn.Module):
        cam_layer, input_spec = "features", InputSpec(64, mean=0.0, std=1.0)

        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
            self.features[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
            self.features[0].bias.data = torch.tensor([-0.6, 0.4])

        def forward(self, x):
            return self.features(x).mean((2, 3))

    images = torch.full((1, 64, 64), 128, dtype=torch.uint8)
    images[:, 8:24, 8:24], images[:, 40:56, 40:56] = 255, 0
    bright, dark = (slice(None), slice(8, 24), slice(8, 24)), (slice(None), slice(40, 56), slice(40, 56))
    for label, here, elsewhere in ((0, bright, dark), (1, dark, bright)):
        maps = cam_maps(Squares(), images, torch.tensor([label]))
        assert maps[here].mean() > 0.9 and maps[elsewhere].mean() < 0.1

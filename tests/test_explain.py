import pytest
import torch

from ferkit.explain import cam_maps
from ferkit.models import create_model, list_models
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
    """A network whose only logit reads the upper left quarter must be shown to look there."""
    model = create_model("vgg_fer", width=4, size=64)
    features = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.ones_(features.weight), torch.nn.init.zeros_(features.bias)

    class Corner(torch.nn.Module):
        cam_layer = "features"
        input_spec = model.input_spec

        def __init__(self) -> None:
            super().__init__()
            self.features = features

        def forward(self, x):
            seen = self.features(x)[:, :, :32, :32].mean((1, 2, 3))
            return torch.stack([seen, -seen], 1)

    images = torch.zeros(1, 64, 64, dtype=torch.uint8)
    images[:, 8:24, 8:24] = 255
    (found,) = cam_maps(Corner(), images, torch.tensor([0]))
    assert found[8:24, 8:24].mean() > 0.9 and found[40:, 40:].mean() < 0.1

import pytest
import torch

from ferkit.models import InputSpec, create_model
from ferkit.predict import logits, pick_device, prepare


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("compact", width=8)


def test_logits_do_not_depend_on_batches_and_restore_the_mode(model):
    images = torch.randint(0, 256, (10, 48, 48), dtype=torch.uint8)
    model.train()
    whole, parts = logits(model, images), logits(model, images, batch_size=3)
    assert model.training and whole.shape == (10, 7)
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_flip_is_the_mean_of_both_views(model):
    images = torch.randint(0, 256, (4, 48, 48), dtype=torch.uint8)
    both = (logits(model, images) + logits(model, images.flip(-1))) / 2
    torch.testing.assert_close(logits(model, images, tta="flip"), both, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown test-time augmentation 'ten'.*flip"):
        logits(model, images, tta="ten")


def test_faces_of_any_size_are_brought_to_the_models(model):
    spec = InputSpec(48, 3, mean=0.0, std=1.0)
    flat = torch.full((2, 100, 100), 51, dtype=torch.uint8)
    out = prepare(flat, spec)
    assert out.shape == (2, 3, 48, 48)
    torch.testing.assert_close(out, torch.full_like(out, 0.2))
    assert logits(model, flat).shape == (2, 7)


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="unknown device 'gpu'.*cuda"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no cuda device here"):
            pick_device("cuda")

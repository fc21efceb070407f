import re
import sys

import pytest
import torch

from ferkit.models import InputSpec, create_model, list_models, register

MODELS = list_models()


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_docstring(name):
    model = create_model(name)
    stated = re.search(r"^Parameters: ([\d,]+)", sys.modules[type(model).__module__].__doc__, re.MULTILINE).group(1)
    assert sum(p.numel() for p in model.parameters()) == int(stated.replace(",", ""))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n_classes, size", [(7, None), (8, None), (3, 32), (7, 64)])
def test_shapes_for_other_classes_and_sizes(name, n_classes, size):
    model = create_model(name, n_classes).eval()
    size = size or model.input_spec.size
    x = torch.rand(2, model.input_spec.channels, size, size)
    out = model(x)
    assert out.shape == (2, n_classes) and out.isfinite().all()
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), out)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns_after_a_step(name):
    """Two steps: a residual branch that starts at zero passes no gradient on the first."""
    torch.manual_seed(0)
    model = create_model(name)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.rand(4, model.input_spec.channels, model.input_spec.size, model.input_spec.size)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).logsumexp(1).sum().backward()
        optimizer.step()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not dead


@pytest.mark.parametrize("name", MODELS)
def test_an_image_has_the_same_logits_alone_in_any_batch_in_any_order(name):
    torch.manual_seed(0)
    model = create_model(name).eval()
    x = torch.rand(32, model.input_spec.channels, model.input_spec.size, model.input_spec.size)
    with torch.inference_mode():
        alone = torch.cat([model(one) for one in x.split(1)])
        for order in (torch.arange(32), torch.randperm(32), alone.argmax(1).argsort()):
            for size in (2, 8, 32):
                batched = torch.cat([model(x[part]) for part in order.split(size)])
                torch.testing.assert_close(batched, alone[order], atol=1e-4, rtol=1e-4)  # sums in another order


@pytest.mark.parametrize("name", MODELS)
def test_the_named_layer_for_maps_exists(name):
    model = create_model(name)
    assert isinstance(model.get_submodule(model.cam_layer), torch.nn.Module)


def test_input_spec_scales_and_repeats():
    x = torch.rand(2, 1, 48, 48)
    out = InputSpec(48, 3, mean=0.5, std=0.25)(x)
    assert out.shape == (2, 3, 48, 48) and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[:, 2:], (x - 0.5) / 0.25)


def test_unknown_names_and_double_registration():
    with pytest.raises(ValueError, match="unknown model 'alexnet'.*compact"):
        create_model("alexnet")
    with pytest.raises(ValueError, match="registered twice"):

        @register
        def compact():
            pass

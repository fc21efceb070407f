import pytest
import torch

from ferkit import bench, cli
from ferkit.models import create_model
from ferkit.models.outline import cost
from ferkit.recipes import get_recipe


def test_a_speed_is_whole_and_its_flops_are_three_forward_passes():
    recipe = get_recipe("compact", "quick", precision="float32", batch_size=8)
    speed = bench.bench(recipe, "cpu", seconds=0.05)
    assert speed.training > 0 and speed.inference > 0 and speed.peak > 0 and speed.megabytes > 50
    assert speed.milliseconds == pytest.approx(8e3 / speed.training)
    forward = 1e9 * cost(create_model("compact", **recipe.options))[1]
    ratio = speed.flops / speed.training / forward  # the first layer has no gradient for its input
    assert 2.5 < ratio < 3.01
    assert speed.row().split()[:4] == ["compact-quick+precision=float32+batch_size=8", "48", "8", "float32"]


def test_the_command_says_what_it_cannot_find(capsys):
    assert cli.main(["bench", "no_such_model"]) == 1
    assert "choose a model from" in capsys.readouterr().err


def test_a_matrix_product_has_a_peak():
    assert bench.matmul_peak("float32", torch.device("cpu"), seconds=0.01) > 1e8

"""Fine-tuning: what learns from which epoch, how fast, from which start, and under which protocol."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ferkit import DataError, experiment, ferplus, synthetic, tuning
from ferkit.loop import Loop
from ferkit.models import create_model, list_models
from ferkit.models.outline import block_of, blocks
from ferkit.recipe import Recipe
from ferkit.recipes import get_recipe, started_from
from ferkit.schedule import make_optimizer

BASE = Recipe("b", options={"width": 8}, stages=((3, 24),), batch_size=32, warmup=0.0, ema=0.0, precision="float32")


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(200)


@pytest.fixture(scope="module")
def start(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "b-s0"
    experiment.run(BASE, faces, folder)
    return folder / "best.safetensors"


@pytest.mark.parametrize("name", list_models())
def test_every_network_ends_in_its_head(name):
    with torch.device("meta"):
        model = create_model(name)
    names = blocks(model)
    head = dict(model.named_modules())[names[-1]]
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    assert linear[-1].out_features == 7 and len(names) == len(set(names)) > 5
    rates = [tuning.rate(key, names, 0.5) for key, _ in model.named_parameters()]
    assert max(rates) == 1.0 and min(rates) == 0.5 ** (len(names) - 1)
    fixed = Recipe("h", name, free=((0, 1),))
    tuning.fix(model, fixed, 0)
    assert {block_of(key, names) for key, p in model.named_parameters() if p.requires_grad} == {len(names) - 1}


def test_blocks_thaw_from_the_head_and_dropout_goes_on():
    model = create_model("compact", width=8)
    names = blocks(model)
    assert names[0] == "stem.1" and names[-1] == "head" and len(names) == 8
    for epoch, n_free in ((0, 1), (1, 1), (2, 4), (5, 8)):
        tuning.fix(model, replace(BASE, free=((2, 4), (0, 1), (5, 99))), epoch)
        free = {block_of(key, names) for key, p in model.named_parameters() if p.requires_grad}
        assert free == set(range(8 - n_free, 8))
        norms = {
            block_of(key, names) for key, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training
        }
        assert norms == free - {7} and model.drop.training
    assert [tuning.changes_at(replace(BASE, free=((0, 1), (2, 4))), epoch) for epoch in range(4)] == [1, 0, 1, 0]


def test_what_is_fixed_does_not_move_and_the_rest_does(faces, start, tmp_path):
    recipe = started_from(replace(BASE, free=((0, 1), (2, 4))), start)
    assert recipe.name == "b+weights=b"
    states, real = [], Loop.epoch

    def watch(loop, tell):
        loss = real(loop, tell)
        states.append({key: value.clone() for key, value in loop.state.model.state_dict().items()})
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "epoch", watch)
        record = experiment.run(recipe, faces, tmp_path / "run", weights=start)
    before, names = load_file(start), blocks(create_model("compact"))
    moved = [{block_of(key, names) for key in state if not torch.equal(state[key], before[key])} for state in states]
    assert moved[:2] == [{7}, {7}] and moved[2] == {4, 5, 6, 7}
    assert record["start"]["file"] == "b-s0/best.safetensors"


def test_rates_fall_with_depth():
    model = create_model("compact", width=8)
    groups = make_optimizer(model, replace(BASE, layer_decay=0.5)).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {group["rate"] for group in groups} == {0.5**i for i in range(8)}
    rate_of = {id(p): group["rate"] for group in groups for p in group["params"]}
    assert rate_of[id(model.head.weight)] == 1 and rate_of[id(model.stem[1][0].weight)] == 0.5**7
    assert [group["rate"] for group in make_optimizer(model, BASE).param_groups] == [1, 1]


def test_a_new_head_has_other_classes(faces, start, tmp_path):
    eight = ferplus.as_ferplus(faces)
    with pytest.raises(DataError, match="check the number of classes"):
        experiment.run(BASE, eight, tmp_path / "old", weights=start)
    record = experiment.run(replace(BASE, new_head=True), eight, tmp_path / "new", weights=start)
    assert len(record["metrics"]["PublicTest"]["per_class"]) == 8 and record["data"]["name"] == "embedded-ferplus"


def test_training_on_public_is_a_protocol_of_its_own(faces, tmp_path):
    record = experiment.run(replace(BASE, protocol="with_public"), faces, tmp_path / "run")
    assert record["data"]["n"]["Training"] == len(faces.split("Training")) + len(faces.split("PublicTest"))
    assert record["selected"]["epoch"] == 3 and record["selected"]["by"] == "the last epoch"


@pytest.mark.parametrize("changes", [{"free": ((0, 0),)}, {"protocol": "best"}, {"layer_decay": 2.0}])
def test_wrong_values_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(BASE, **changes)


def test_a_run_that_starts_from_its_own_seed_says_so_without_it(tmp_path):
    recipe = get_recipe("compact", "tune", 2)
    assert started_from(recipe, tmp_path / "x-s2" / "best.safetensors").run_name == "compact-tune+weights=x-s2"
    assert started_from(recipe, tmp_path / "x-s1" / "best.safetensors").run_name == "compact-tune+weights=x-s1-s2"

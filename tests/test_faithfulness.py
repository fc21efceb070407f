"""Known answers: a network that reads one square of the picture, and maps that are right, wrong or say nothing."""

from functools import partial

import numpy as np
import pytest
import torch

from ferkit.explain import METHODS, cam_maps
from ferkit.faithfulness import (
    agreement,
    area,
    centre_maps,
    energy_inside,
    filled,
    perturbation_curve,
    pointing_game,
    random_maps,
    randomised,
    rank_correlation,
    road,
)
from ferkit.models import InputSpec, create_model
from ferkit.predict import logits
from ferkit.synthetic import embedded_faces

HERE, SIDE = slice(4, 16), 48  # the square that decides


class Corner(torch.nn.Module):
    """Sure of class 1 as far as the square in a corner is bright; it sees nothing else."""

    cam_layer, input_spec = "features", InputSpec(SIDE, mean=0.0, std=1.0)

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Conv2d(1, 1, 1)

    def forward(self, x):
        seen = x[:, 0, HERE, HERE].mean((1, 2))
        return torch.stack([-8 * (seen - 0.75), 8 * (seen - 0.75)], 1) + 0 * self.features(x).mean()


@pytest.fixture(scope="module")
def faces():
    """Dark pictures with a bright square in the corner."""
    images = torch.randint(0, 80, (4, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[:, HERE, HERE] = 255
    return images


def square(where: slice, n: int = 4) -> torch.Tensor:
    maps = torch.zeros(n, SIDE, SIDE)
    maps[:, where, where] = 1.0
    return maps


RIGHT, WRONG, ONE = square(HERE), square(slice(32, 44)), torch.ones(4, dtype=torch.int64)


@pytest.mark.parametrize("fill", ["blur", "grey"])
def test_the_right_map_deletes_fast_and_inserts_fast(faces, fill):
    judge = partial(logits, Corner())
    for insert, sign in ((False, 1), (True, -1)):
        right, wrong = (
            perturbation_curve(judge, faces, maps, ONE, insert=insert, fill=fill) for maps in (RIGHT, WRONG)
        )
        assert right[:, 0] == pytest.approx(wrong[:, 0]) and right[:, -1] == pytest.approx(wrong[:, -1])
        assert (sign * (area(wrong) - area(right)) > 0.2).all()
    everything = perturbation_curve(judge, faces, RIGHT, ONE, fill=fill)
    plain = logits(Corner(), faces).softmax(1)[:, 1].numpy()
    assert everything[:, 0] == pytest.approx(plain, abs=1e-6)
    assert everything[:, -1] == pytest.approx(logits(Corner(), filled(faces, fill)).softmax(1)[:, 1].numpy(), abs=1e-6)


def test_each_face_has_its_own_curve(faces):
    judge = partial(logits, Corner())
    both = torch.cat([RIGHT[:2], WRONG[:2]])
    together = perturbation_curve(judge, faces, both, ONE)
    assert together[:2] == pytest.approx(perturbation_curve(judge, faces[:2], RIGHT[:2], ONE[:2]))
    assert together[2:] == pytest.approx(perturbation_curve(judge, faces[2:], WRONG[2:], ONE[2:]))


def test_ties_are_not_deleted_from_top_to_bottom(faces):
    """A map that says nothing deletes at random: a square in the corner goes as slowly as one in the middle."""
    judge = partial(logits, Corner())
    says_nothing = perturbation_curve(judge, faces, torch.zeros(4, SIDE, SIDE), ONE, fill="grey", steps=4)
    assert says_nothing[:, 1].min() > 0.6  # a quarter of the pixels gone, a quarter of the square


def test_area_is_that_of_trapezia():
    curves = np.random.default_rng(0).random((5, 9))
    assert area(curves) == pytest.approx(np.trapezoid(curves, dx=1 / 8, axis=1))
    assert area(np.ones((2, 4))) == pytest.approx(1.0)


def test_road_prefers_the_right_map(faces):
    model, before = Corner(), torch.random.get_rng_state()
    values = {name: road(model, faces[:2], maps[:2], ONE[:2]) for name, maps in (("r", RIGHT), ("w", WRONG))}
    assert (values["r"] > values["w"] + 0.1).all()
    assert torch.equal(torch.random.get_rng_state(), before)  # the noise of its interpolation is its own


def test_pointing_game_and_energy():
    region = square(HERE).bool()
    assert (pointing_game(RIGHT, region) == 1).all() and (pointing_game(WRONG, region) == 0).all()
    assert (energy_inside(RIGHT, region) == 1).all() and (energy_inside(WRONG, region) == 0).all()
    half = (RIGHT + WRONG) / 2
    assert energy_inside(half, region) == pytest.approx(0.5) and pointing_game(half, region) == pytest.approx(0.5)
    share = region.double().mean((1, 2)).numpy()
    for value in (0, 1):  # maps that say nothing are as good as chance, and no nan
        nothing = torch.full((4, SIDE, SIDE), float(value))
        assert energy_inside(nothing, region) == pytest.approx(share)
        assert pointing_game(nothing, region) == pytest.approx(share)


def test_agreement_of_maps():
    noise = random_maps(4, seed=1)
    assert rank_correlation(noise, noise) == pytest.approx(1)
    assert rank_correlation(noise, noise**3) == pytest.approx(1)  # only the order counts
    assert rank_correlation(noise, 1 - noise) == pytest.approx(-1)
    assert (rank_correlation(noise, torch.zeros_like(noise)) == 0).all()
    table = agreement([noise, 1 - noise, random_maps(4, seed=2)])
    assert table.shape == (3, 3, 4) and table[0, 1] == pytest.approx(-1)
    assert np.abs(table[0, 2]).max() < 0.8 and table[0, 2] == pytest.approx(table[2, 0])


def test_baselines_know_nothing_and_stay_what_they_are():
    assert torch.equal(random_maps(3, seed=5), random_maps(3, seed=5))
    assert not torch.equal(random_maps(3, seed=5), random_maps(3, seed=6))
    for maps in (random_maps(3, 32), centre_maps(3, 32)):
        assert maps.shape == (3, 32, 32) and maps.min() >= 0 and maps.amax((1, 2)) == pytest.approx(torch.ones(3))
    middle = torch.zeros(3, 32, 32, dtype=torch.bool)
    middle[:, 14:18, 14:18] = True
    assert (pointing_game(centre_maps(3, 32), middle) == 1).all()


def test_random_weights_change_the_map_and_leave_the_model_alone():
    torch.manual_seed(0)
    model = create_model("compact", width=8, size=48)
    for name, parameter in model.named_parameters():  # a start at zero would have nothing to shuffle
        if name.endswith("second.1.weight"):
            torch.nn.init.normal_(parameter)
    images = embedded_faces(20).images[:6]
    classes, before = logits(model, images).argmax(1), {k: v.clone() for k, v in model.state_dict().items()}
    assert cam_maps(model, images, classes).amax((1, 2)).min() > 0.5
    found = randomised(model, images, classes)
    assert next(iter(found)) == "head" and all(values.shape == (6,) for values in found.values())
    assert abs(list(found.values())[-1].mean()) < 0.6
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_eigen_cam_fails_the_sanity_check_at_the_head():
    """It does not look at the class: random weights behind its layer change nothing, and the check says so."""
    torch.manual_seed(0)
    images = embedded_faces(20).images[:3]
    found = randomised(
        create_model("compact", width=8, size=48), images, torch.zeros(3, dtype=torch.int64), "eigen_cam"
    )
    assert found["head"] == pytest.approx(1.0) and "eigen_cam" in METHODS


def test_what_does_not_fit_is_refused(faces):
    judge = partial(logits, Corner())
    with pytest.raises(ValueError, match="unknown fill 'x'; choose from"):
        perturbation_curve(judge, faces, RIGHT, ONE, fill="x")
    for call in (partial(perturbation_curve, judge, faces, RIGHT[:2], ONE), partial(pointing_game, RIGHT, RIGHT[0])):
        with pytest.raises(ValueError, match="one shape"):
            call()

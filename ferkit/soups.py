"""Model soups: one network whose weights are the mean of several, which costs no more than one of them.

Snapshots of one run (stochastic weight averaging, Izmailov et al. 2018, arXiv 1803.05407) or runs that were fine-tuned
from one start (Wortsman et al. 2022, arXiv 2203.05482) lie close enough together; runs from random weights do not.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ferkit import DataError
from ferkit.faces import Faces
from ferkit.predict import pick_device, prepare
from ferkit.protocols import arrange
from ferkit.train import judge
from ferkit.weights import load_weights, save_weights

SOUPS = ("uniform", "greedy")
BATCH = 256
N_IMAGES = 16 * BATCH  # training images by which batch norm's statistics are taken anew


def average(models: list[nn.Module], images: Tensor) -> nn.Module:
    """The mean of the models' weights, with batch norm's statistics of uint8 (N, H, W) images; in evaluation mode.

    The first model is changed and returned. Raises DataError for models whose tensors differ in name or shape.
    """
    states = [model.state_dict() for model in models]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise DataError("a soup is of one architecture; these networks differ in the names or shapes of their weights")
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
    model, device = models[0], next(models[0].parameters()).device
    if len(images) > BATCH:
        images = images[: len(images) // BATCH * BATCH]  # every batch counts as much
    update_bn((prepare(batch.to(device), model.input_spec) for batch in images.split(BATCH)), model)
    return model.eval()


def soup(files: list[Path], faces: Faces, method: str, path: Path, device: str = "auto") -> list[Path]:
    """Write the soup of weights' files to `path`; the files that are in it.

    greedy: files in the order of their accuracy on PublicTest, each kept where the soup does not get worse there.
    Raises ValueError for another method or no file, DataError for weights that cannot be read or do not fit together.
    """
    if method not in SOUPS or not files:
        raise ValueError(f"a soup is one of {list(SOUPS)}, of one file of weights at least; got {method!r}, {files}")
    where = pick_device(device)
    _, recipe, classes = load_weights(files[0])
    training, public = arrange(faces, recipe).training, faces.split("PublicTest")
    images = training.images[:: max(1, len(training) // N_IMAGES)]

    def mixed(chosen: list[Path]) -> nn.Module:
        return average([load_weights(file)[0].to(where) for file in chosen], images)

    chosen = list(files)
    if method == "greedy":
        alone = {file: judge(load_weights(file)[0].to(where), public) for file in files}
        first, *others = sorted(files, key=lambda file: -alone[file])
        chosen, best = [first], alone[first]
        for file in others:
            if (value := judge(mixed([*chosen, file]), public)) >= best:
                chosen, best = [*chosen, file], value
    model = mixed(chosen) if len(chosen) > 1 else load_weights(chosen[0])[0]
    save_weights(model, path, replace(recipe, name=path.parent.name), classes)
    return chosen

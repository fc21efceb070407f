"""Training as the field's repositories do it beside ferkit: same machine, network, batch and augmentation, in turn.

    python benchmarks/peers.py [--minutes 10] [--device auto]

The usual way: a picture at a time through PIL and torchvision's transforms, a DataLoader with a worker a core, float32,
`.item()` every step. Each round times both, one after the other; ratios are of a round. Made-up pictures.
Writes results/benchmarks/peers-<machine>.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ferkit.augment import POLICIES, Policy, augment
from ferkit.bench import made_up_faces
from ferkit.faces import Faces
from ferkit.feed import Feed
from ferkit.loop import Loop, generator
from ferkit.machine import measured_by
from ferkit.models import create_model
from ferkit.models.resemotenet import PaddedConv
from ferkit.precision import choose, fast_kernels
from ferkit.predict import pick_device
from ferkit.recipe import Recipe
from ferkit.train import start

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


@dataclass(frozen=True)
class Case:
    """A network as the papers feed it, and the least ratio that is promised: on a CPU, on CUDA."""

    model: str
    side: int
    policy: str
    batch_size: dict[str, int]
    promised: dict[str, float | None]


CASES = [
    Case("compact", 48, "standard", {"cpu": 128, "cuda": 512}, {"cpu": 2, "cuda": 5}),
    Case("resemotenet", 64, "flip", {"cpu": 64, "cuda": 256}, {"cpu": 1.5, "cuda": 5}),
    Case("resnet34", 224, "residual_masking", {"cpu": 16, "cuda": 128}, {"cpu": None, "cuda": 5}),
]


class Pictures(Dataset):
    """Faces one by one, as pictures of `channels` channels."""

    def __init__(self, faces: Faces, transform: Callable, channels: int) -> None:
        self.images, self.labels = faces.images.numpy(), faces.labels.tolist()
        self.transform, self.mode = transform, "RGB" if channels == 3 else "L"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i]).convert(self.mode)), self.labels[i]


def usual_transform(policy: Policy, side: int, channels: int) -> transforms.Compose:
    """torchvision's transforms with the ranges of a policy."""
    steps = [transforms.Resize(side)] if side != 48 else []
    steps += [transforms.RandomHorizontalFlip(policy.flip)]
    if policy.rotate:
        shift, scale = (policy.shift,) * 2, (1 - policy.scale, 1 + policy.scale)
        steps += [
            transforms.RandomAffine(policy.rotate, shift if policy.shift else None, scale if policy.scale else None)
        ]
    if policy.brightness or policy.contrast:
        steps += [transforms.ColorJitter(policy.brightness, policy.contrast)]
    steps += [transforms.ToTensor(), transforms.Normalize([0.5] * channels, [0.25] * channels)]
    return transforms.Compose(steps + ([transforms.RandomErasing(policy.erase)] if policy.erase else []))


def usual_loader(faces: Faces, case: Case, batch_size: int, channels: int) -> DataLoader:
    """With a worker for each of our threads, that live on between epochs."""
    data = Pictures(faces, usual_transform(POLICIES[case.policy], case.side, channels), channels)
    return DataLoader(
        data,
        batch_size,
        shuffle=True,
        num_workers=torch.get_num_threads(),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def usual_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, device: torch.device) -> float:
    """The loop of the repositories; the mean of the batches' losses."""
    model.train()
    running, correct = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        out = model(images)
        loss = F.cross_entropy(out, labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
        correct += (out.argmax(1) == labels).sum().item()
    return running / len(loader)


def our_input(case: Case, faces: Faces, batch_size: int, device: torch.device) -> Callable[[], None]:
    """An epoch of our input pipeline without a network."""
    feed, policy, spec = Feed(faces, batch_size, device), POLICIES[case.policy], create_model(case.model).input_spec

    def epoch() -> None:
        for step, (images, at, _) in enumerate(feed.epoch(generator(0))[1]):
            x = spec(augment(images[at], policy, generator(0, step), case.side))
        x[0, 0, 0, 0].item()

    return epoch


def usual_input(loader: DataLoader, device: torch.device) -> Callable[[], None]:
    def epoch() -> None:
        for images, _labels in loader:
            x = images.to(device)
        x[0, 0, 0, 0].item()

    return epoch


def our_training(case: Case, faces: Faces, batch_size: int, device: torch.device) -> tuple[Callable[[], None], str]:
    recipe = Recipe("peers", case.model, lr=0.01, stages=((1, case.side),), batch_size=batch_size, policy=case.policy)
    state = start(recipe, faces, device)
    state.use(choose(state.model, faces, recipe, device)[0])
    loop = Loop(recipe, faces, state, device)

    def epoch() -> None:
        with fast_kernels(device):
            loop.epoch(lambda _: None)

    return epoch, state.precision


def usual_training(case: Case, loader: DataLoader, device: torch.device, channels: int) -> Callable[[], None]:
    model = create_model(case.model, in_chans=channels).to(device)
    for module in model.modules():
        if isinstance(module, PaddedConv):  # as ResEmoteNet's authors compute it
            module.__class__ = nn.Conv2d
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return lambda: usual_epoch(model, optimizer, loader, device)


def compare(ways: dict[str, Callable[[], None]], n: int, seconds: float) -> dict:
    """Images a second of each way, a value a round of a second at least, in turn for about so many seconds; the
    rounds' ratios."""
    for function in ways.values():
        function()  # warms up
    rates, end = {way: [] for way in ways}, time.perf_counter() + seconds
    while not rates["usual"] or time.perf_counter() < end:
        for way, function in ways.items():
            begin, calls = time.perf_counter(), 0
            while time.perf_counter() - begin < 1:
                function()
                calls += 1
            rates[way].append(round(calls * n / (time.perf_counter() - begin), 1))
    ratios = [ours / usual for ours, usual in zip(rates["ferkit"], rates["usual"], strict=True)]
    return {"images_per_second": rates, "times_faster": round(median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)]}  # fmt: skip


def run_case(case: Case, device: torch.device, seconds: float) -> list[dict]:
    """The input pipeline alone, then whole training steps."""
    batch_size, channels = case.batch_size[device.type], create_model(case.model).input_spec.channels
    about = {"model": case.model, "side": case.side, "policy": case.policy, "batch_size": batch_size}
    results = []
    for what, batches in (("input", 32), ("training", 4 if device.type == "cpu" else 16)):
        faces = made_up_faces(batches * batch_size)
        loader = usual_loader(faces, case, batch_size, channels)
        if what == "input":
            promised = 12 if case.side == 48 else None
            ways = {"usual": usual_input(loader, device), "ferkit": our_input(case, faces, batch_size, device)}
        else:
            promised = case.promised[device.type]
            ours, about["precision"] = our_training(case, faces, batch_size, device)
            ways = {"usual": usual_training(case, loader, device, channels), "ferkit": ours}
        result = {"what": what, **about, "promised": promised, **compare(ways, len(faces), seconds)}
        print(line(result), flush=True)
        results.append(result)
    return results


def line(result: dict) -> str:
    usual, ours = (max(result["images_per_second"][way]) for way in ("usual", "ferkit"))
    low, high = result["range"]
    promised = f", promised {result['promised']}" if result["promised"] else ""
    return (f"{result['model']:<12}{result['side']:>4} px {result['what']:<9} usual {usual:>8,.0f}/s  ferkit "
            f"{ours:>8,.0f}/s  {result['times_faster']:.1f} times ({low:.1f} to {high:.1f}{promised})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="1 is a quick look")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    seconds = 60 * arguments.minutes / (2 * len(CASES))
    results = [result for case in CASES for result in run_case(case, device, seconds)]
    report = measured_by(arguments.device) | {"results": results}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"peers-{device.type}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()

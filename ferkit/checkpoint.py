"""A run folder while it trains: of one recipe, with everything that is needed to go on."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from ferkit import DataError
from ferkit.atomic import whole_file, write_whole
from ferkit.recipe import Recipe

LOG_FIELDS = ("epoch", "side", "lr", "loss", "public_accuracy", "seconds")


@dataclass
class State:
    """Everything needed to go on after a kill; `epoch` is the next one to train."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    precision: str
    timings: dict = field(default_factory=dict)  # of the precision measurement, ms a step
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rows: list = field(default_factory=list)  # of log.csv
    sources: list = field(default_factory=list)  # code versions that trained, one a start
    start: dict = field(default_factory=dict)  # the weights that it began with; empty: random ones
    scaler: torch.amp.GradScaler = field(init=False)  # of gradients, which float16 alone needs

    def __post_init__(self) -> None:
        self.use(self.precision)

    def use(self, precision: str) -> None:
        """Train in that precision."""
        device = next(self.model.parameters()).device
        self.precision, self.scaler = precision, torch.amp.GradScaler(device.type, enabled=precision == "float16")

    _MODULES = ("model", "ema", "optimizer", "scaler")

    @property
    def history(self) -> list[float]:
        """PublicTest accuracy of every epoch so far, as the log has it."""
        return [float(row[LOG_FIELDS.index("public_accuracy")]) for row in self.rows]

    def save(self, path: Path) -> None:
        values = {k: v for k, v in self.__dict__.items() if k not in self._MODULES}
        with whole_file(path) as temporary:
            torch.save(values | {k: getattr(self, k).state_dict() for k in self._MODULES}, temporary)

    def restore(self, path: Path) -> None:
        """Go on from a saved state; DataError for a damaged file."""
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)  # loading moves what belongs on the device
            self.use(values.pop("precision"))
            for key in self._MODULES:
                getattr(self, key).load_state_dict(values.pop(key, {}))  # older ones have no scaler
            for key, value in values.items():
                setattr(self, key, value)
        except Exception as error:  # torch raises many kinds for a damaged file, or one of another model
            raise DataError(f"{path}: damaged checkpoint ({error}); delete it to train again from the start") from error


def claim(folder: Path, recipe: Recipe, training: str, start: dict) -> None:
    """Write recipe.json, or check that the one that is there says the same; an empty start agrees with any.

    training: what tells its data from other data.
    """
    path = folder / "recipe.json"
    wanted = json.loads(json.dumps({"recipe": asdict(recipe), "training": training, "start": start}))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=1) + "\n")
        return
    try:
        found = json.loads(path.read_text())
        differs, same_data = _differences(recipe, found["recipe"]), found["training"] == wanted["training"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); delete {folder} to train again from the start") from error
    if start and found.get("start") != start:
        raise DataError(f"{folder} holds a run that started from other weights; name another folder or delete this one")
    if differs or not same_data:
        what = f"recipe ({', '.join(differs)})" if differs else "training data"
        raise DataError(f"{folder} holds a run of another {what}; name another folder or delete this one")


def _differences(recipe: Recipe, found: dict) -> list[str]:
    """Fields in which a saved recipe differs; one that it lacks has its default, so that older runs go on."""
    ours, defaults = (json.loads(json.dumps(asdict(one))) for one in (recipe, Recipe(recipe.name)))
    return [k for k in {**found, **ours} if k not in ours or found.get(k, defaults[k]) != ours[k]]

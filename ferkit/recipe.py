"""Recipe: everything that decides a training run, in one frozen dataclass, and the recipes that have a name."""

from dataclasses import dataclass, field, replace

from ferkit.augment import get_policy

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """One run, validated when made: raises ValueError naming the field. Variants by dataclasses.replace."""

    name: str
    model: str = "compact"
    options: dict = field(default_factory=dict)  # keyword arguments of the model
    seed: int = 0
    policy: str = "standard"  # a name of augment.POLICIES
    stages: tuple[tuple[int, int], ...] = ((20, 48),)  # (epochs, side in pixels), one after the other
    batch_size: int = 128
    lr: float = 0.1  # peak, SGD with Nesterov momentum
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on matrices only: norms and biases are left alone
    warmup: float = 2.0  # epochs of linear rise, then a cosine to zero
    label_smoothing: float = 0.1
    ema: float = 0.998  # decay a step of the averaged weights, which are the ones that are judged
    precision: str = "auto"  # auto: bfloat16 where a short measurement shows that it is faster

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(tuple(stage) for stage in self.stages))
        get_policy(self.policy)
        if not self.stages or any(epochs < 1 or side < 8 for epochs, side in self.stages):
            raise ValueError(f"stages must be (epochs >= 1, side >= 8) pairs, got {self.stages}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose from {list(PRECISIONS)}")
        for name, low, high in (("lr", 0, 100), ("ema", 0, 1), ("label_smoothing", 0, 1), ("momentum", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (batch norm), got {self.batch_size}")

    @property
    def epochs(self) -> int:
        return sum(epochs for epochs, _ in self.stages)

    def side(self, epoch: int) -> int:
        """The side of the training images in that epoch, counted from 0."""
        for epochs, side in self.stages:
            if epoch < epochs:
                return side
            epoch -= epochs
        raise ValueError(f"epoch is beyond the last of {self.epochs}")

    @property
    def run_name(self) -> str:
        return f"{self.name}-s{self.seed}"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Installation check on the embedded faces: under two minutes on two cores, not a result.
        Recipe("quick", options={"width": 16}, policy="light", stages=((30, 48),), batch_size=32, ema=0.98),
        # FER2013 on two CPU cores in about half an hour: a smaller size first buys epochs, full size last uses them.
        Recipe("compact", stages=((20, 40), (36, 48))),
    )
}


PROFILE_RECIPES = {"quick": "quick", "cpu": "compact", "full": "compact"}  # what a profile trains as compact


def get_recipe(name: str, **changes) -> Recipe:
    """The named recipe, with fields changed; raises ValueError listing the names."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose from {sorted(RECIPES)}")
    return replace(RECIPES[name], **changes)

"""Recipe: everything that decides a training run, in one frozen dataclass."""

from dataclasses import dataclass, field

from ferkit.augment import get_policy

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
OPTIMIZERS = ("nesterov", "sgd", "adam", "adamw", "radam")  # nesterov: SGD with Nesterov momentum
SCHEDULES = ("cosine", "one_cycle", "constant", "plateau")
TARGETS = ("labels", "votes")  # votes: FER+ distributions
# protocols.py says what each does; the standard one alone is in the results table.
PROTOCOLS = ("standard", "with_public", "test_in_training", "augment_first", "choose_on_private", "sorted_test")

LIMITS = {"lr": 100, "ema": 1, "label_smoothing": 1, "momentum": 1, "weight_decay": 10, "thaw": 1, "clip": 1e6}
LIMITS |= {"layer_decay": 1, "focal": 10, "teacher_weight": 1, "temperature": 100}
LIMITS |= dict.fromkeys(("seed", "warmup", "cycle", "patience", "frozen", "swa"), 2**31)


def tuples(value):
    """With tuples for lists, also inside a dict or another list."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def _fits(values, *lowest: int, kinds: tuple[type, ...] = (int,)) -> bool:
    """Whether it is a tuple of as many numbers of those kinds, none of them lower."""
    return (
        isinstance(values, tuple)
        and len(values) == len(lowest)
        and all(type(value) in kinds and value >= low for value, low in zip(values, lowest, strict=True))
    )


@dataclass(frozen=True)
class Recipe:
    """One run, validated when made: raises ValueError naming the field. Variants by dataclasses.replace."""

    name: str
    model: str = "compact"
    options: dict = field(default_factory=dict)  # keyword arguments of create_model
    seed: int = 0
    policy: str = "standard"  # a name of augment.POLICIES, with changes perhaps: "flip+mixup=0.3"
    stages: tuple[tuple[int, int], ...] = ((20, 48),)  # (epochs, side in pixels), one after the other
    batch_size: int = 128
    optimizer: str = "nesterov"
    lr: float = 0.1  # peak
    momentum: float = 0.9  # of nesterov and sgd
    weight_decay: float = 5e-4  # on matrices only: norms and biases are left alone
    schedule: str = "cosine"
    warmup: float = 2.0  # epochs of linear rise
    cycle: float = 0.0  # epochs after which a cosine starts again at its peak; 0: never
    snapshots: bool = False  # keep the averaged weights at the end of each cycle
    plateau: tuple[float, int] = (0.1, 3)  # of that schedule: factor, and epochs without a better PublicTest accuracy
    patience: int = 0  # stop after so many epochs without a better PublicTest accuracy; 0: never
    clip: float = 0.0  # largest norm of the whole gradient; 0: any
    label_smoothing: float = 0.1
    class_weights: bool = False  # losses weighted by the inverse frequency of the class
    focal: float = 0.0  # exponent of the focal loss; 0: cross-entropy
    targets: str = "labels"
    teacher: str = ""  # file with a teacher's logits on Training (losses.teacher_logits), as distillation.teach writes
    teacher_weight: float = 0.5  # its share of the loss
    temperature: float = 2.0  # at which the teacher is followed
    ema: float = 0.998  # decay a step of the averaged weights, which are the ones that are judged
    swa: int = 0  # last epochs in which that average is a plain one, over all their steps
    pretrained: bool = False  # start the trunk from its published ImageNet weights
    frozen: int = 0  # first epochs in which the trunk stays as it started
    thaw: float = 1.0  # factor on lr after them
    free: tuple[tuple[int, int], ...] = ()  # (epoch, n): from that epoch only the last n blocks learn; (): all do
    layer_decay: float = 1.0  # factor on lr for each block (outline.blocks) further from the head
    new_head: bool = False  # of a start from saved weights all but the head, which may have other classes
    protocol: str = "standard"
    exclude: str = ""  # file of an audit (audit.py), whose training_left_out are not learned from
    fold: tuple[int, ...] = ()  # (k, n): faces whose row is k modulo n are not learned from; (): all are
    precision: str = "auto"  # auto: the fastest that the device has (precision.choose)

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, tuples(value))  # as they were before JSON
        get_policy(self.policy)
        if not self.stages or not all(_fits(stage, 1, 8) for stage in self.stages):
            raise ValueError(f"stages must be pairs of whole numbers, (epochs >= 1, side >= 8), got {self.stages}")
        if not all(_fits(pair, 0, 1) for pair in self.free):
            raise ValueError(f"free must be pairs of whole numbers, (epoch >= 0, blocks >= 1), got {self.free}")
        if self.fold and not (_fits(self.fold, 0, 2) and self.fold[0] < self.fold[1]):
            raise ValueError(f"fold must be (k, n), 0 <= k < n and n > 1, or (), got {self.fold}")
        if not (_fits(self.plateau, 0, 0, kinds=(int, float)) and 0 < self.plateau[0] <= 1):
            raise ValueError(f"plateau must be (0 < factor <= 1, epochs >= 0), got {self.plateau}")
        whole = self.cycle >= 1 and self.cycle % 1 == self.warmup % 1 == 0
        if self.snapshots and (self.schedule != "cosine" or not whole or self.warmup + self.cycle > self.epochs):
            told = f"got cycle {self.cycle} and warmup {self.warmup} of {self.epochs} epochs"
            raise ValueError(
                f"snapshots need a cosine with cycle and warmup in whole epochs, one of which fits; {told}"
            )
        for name, choices in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES),
                              ("targets", TARGETS), ("protocol", PROTOCOLS)):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {list(choices)}")
        for name, high in LIMITS.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [0, {high}], got {getattr(self, name)}")
        if self.exclude and self.protocol != "standard":
            raise ValueError(f"exclude is for the standard protocol, an audit is of its Training; got {self.protocol}")
        if self.teacher and not self.temperature:
            raise ValueError("temperature must be above 0 to follow a teacher")
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

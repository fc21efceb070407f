"""Class names, their one order, their colours; FER+ votes and the rules that turn them into labels."""

import numpy as np

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # the order of fer2013.csv
# Of Okabe and Ito (2008), which people tell apart who do not see red, green or blue as others do.
COLOURS = dict(zip(CLASSES, ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#56b4e9", "#4d4d4d"), strict=True))
ALIASES = {  # names that folders of the same pictures use
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "happyness": "happy",
    "sadness": "sad", "surprised": "surprise",
}  # fmt: skip
USAGES = ("Training", "PublicTest", "PrivateTest")
UNLABELLED = -1  # the challenge's own test.csv has no emotions

# Images per split and class in the official FER2013: the check that a copy is complete and its labels are in order.
OFFICIAL_COUNTS = (
    (3995, 436, 4097, 7215, 4830, 3171, 4965),
    (467, 56, 496, 895, 653, 415, 607),
    (491, 55, 528, 879, 594, 416, 626),
)

FERPLUS_CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTES = (*FERPLUS_CLASSES, "unknown", "NF")  # the ten columns of fer2013new.csv; NF: not a face
FERPLUS_TO_FER = (6, 3, 5, 4, 0, 1, 2, None)  # contempt has no class in FER2013
RULES = ("majority", "crossentropy", "probability", "multi_target")
N_EMOTIONS = len(FERPLUS_CLASSES)
FERPLUS_COUNTS = (  # as OFFICIAL_COUNTS, of the FER+ that ferplus.as_ferplus makes of the official files
    (10122, 7503, 3524, 3430, 2407, 169, 641, 160),
    (1182, 865, 415, 351, 287, 24, 62, 13),
    (1278, 929, 446, 448, 326, 23, 94, 29),
)


def class_index(name: str) -> int:
    """The FER2013 label of a class name in any of the spellings that folders use, or of a digit."""
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key in CLASSES:
        return CLASSES.index(key)
    if key.isdigit() and int(key) < len(CLASSES):
        return int(key)
    raise ValueError(f"unknown class {name!r}; choose from {list(CLASSES)}")


def ferplus_targets(votes: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """FER+ targets under one of the four training rules of microsoft/FERPlus (Barsoum et al. 2016, arXiv 1608.01041).

    votes: (N, 10) counts over VOTES. Returns targets float32 (N, 8), rows summing to 1 where kept and to 0 where
    not, and keep bool (N,). `crossentropy` and `probability` share their targets: the first trains on the
    distribution, the second draws one class from it every epoch. Validation and test sets are always `majority`.
    Raises ValueError for an unknown rule or votes of another shape.
    """
    if rule not in RULES:
        raise ValueError(f"unknown FER+ rule {rule!r}; choose from {list(RULES)}")
    if votes.ndim != 2 or votes.shape[1] != len(VOTES):
        raise ValueError(f"FER+ votes must be (N, {len(VOTES)}), got {votes.shape}")
    votes = np.where(votes <= 1, 0, votes).astype(np.int64)  # every rule: a single vote counts as an outlier
    total = votes.sum(1)
    if rule == "majority":
        top = votes.argmax(1)
        kept = np.where(np.arange(votes.shape[1]) == top[:, None], votes, 0)
        keep = kept.sum(1) * 2 > total
    elif rule == "multi_target":
        kept = np.where(votes * 10 >= total[:, None] * 3, votes, 0)
        keep = kept.sum(1) * 2 > total
    else:
        kept, n_kept = _top_classes(votes, total)
        keep = (kept.sum(1) * 2 > total) & (n_kept <= 3)
    keep &= kept.argmax(1) < N_EMOTIONS
    emotions = kept[:, :N_EMOTIONS] * keep[:, None]
    return (emotions / np.maximum(emotions.sum(1, keepdims=True), 1)).astype(np.float32), keep


def _top_classes(votes: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes from the top until they hold 75 % of the votes, at most three, ties together, stopping at unknown/NF."""
    left, kept = votes.copy(), np.zeros_like(votes)
    n_kept, seen, open_ = np.zeros(len(votes), int), np.zeros(len(votes), int), total > 0
    for _ in range(3):
        open_ &= (seen * 4 < total * 3) & (n_kept < 3)
        tied = (left == left.max(1, keepdims=True)) & open_[:, None]
        emotion, stop = tied[:, :N_EMOTIONS], tied[:, N_EMOTIONS:].any(1)
        kept[:, :N_EMOTIONS] += np.where(emotion, left[:, :N_EMOTIONS], 0)
        n_kept += emotion.sum(1)
        alone = stop & (kept.sum(1) == 0)  # unknown/NF leads: keep it alone, and the row is dropped by the caller
        kept[alone, N_EMOTIONS] = left[alone].max(1)
        seen = kept.sum(1)
        left[tied] = 0
        open_ &= ~stop
    return kept, n_kept


def ferplus_argmax(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and keep (N,) of the looser test rule of several papers: the top emotion, unknown and NF ignored.

    It keeps 3,573 images of PrivateTest where `majority` keeps 3,153, and is several points harder.
    """
    emotions = votes[:, :N_EMOTIONS]
    return emotions.argmax(1), emotions.max(1) > 0


def rule_sizes(votes: np.ndarray, usage: np.ndarray) -> dict[str, list[int]]:
    """Images kept in Training, PublicTest, PrivateTest under each rule; always said beside a FER+ result."""
    keeps = {rule: ferplus_targets(votes, rule)[1] for rule in RULES} | {"argmax": ferplus_argmax(votes)[1]}
    return {rule: np.bincount(usage[keep], minlength=len(USAGES)).tolist() for rule, keep in keeps.items()}

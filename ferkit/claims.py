"""What papers and repositories claim on PrivateTest of FER2013 and FER+, and what survives a reading of their code.

Sources are named by row; the verdicts are ours. Measured numbers never stand here: they come from records.
"""

from dataclasses import dataclass

from ferkit.markdown import markdown_table


@dataclass(frozen=True)
class Claim:
    """One claimed accuracy in percent; `model` is a name of ours or empty; `sound` says whether it can be compared."""

    name: str
    percent: float
    kind: str
    outside: str  # data beyond the training images
    verdict: str
    model: str = ""
    sound: bool = True


CLAIMS = (
    Claim("people (Goodfellow et al. 2013)", 65.0, "", "", "reference, give or take 5"),
    Claim("Kaggle winner 2013 (Tang)", 71.2, "single", "none", "sound: the only blind score"),
    Claim("ResNet-34, TTA", 73.1, "single", "ImageNet", "72.4 to 73.1: the best-replicated number", "resnet34"),
    Claim("VGG (Khaireddin, Chen)", 73.3, "single, ten crops", "none", "a PublicTest number, chosen on PrivateTest",
          "vgg_fer", sound=False),
    Claim("ResNet-18 with tricks", 73.7, "single, ten crops", "none", "checkpoint chosen on PrivateTest",
          "resnet18_fer", sound=False),
    Claim("Residual Masking Network", 74.1, "single, TTA", "ImageNet", "plausible; others reached 73.6",
          "residual_masking"),
    Claim("EmoNeXt-Tiny", 73.3, "single, ten crops", "ImageNet-22k", "unreproduced; users report 71.5", "emonext_tiny"),
    Claim("EmoNeXt-XLarge", 76.1, "single, ten crops", "ImageNet-22k", "split protocol clean, unreproduced",
          "emonext_xlarge"),
    Claim("RMN + 6 networks", 76.8, "ensemble, TTA", "ImageNet, VGGFace2", "members chosen on the test set",
          sound=False),
    Claim("ResEmoteNet", 79.8, "single", "an augmented copy",
          "its training folder holds test images; clean runs give 58–66", "resemotenet", sound=False),
    Claim("PAtt-Lite", 92.5, "single", "ImageNet", "attends over class-sorted test batches", "patt_lite", sound=False),
)  # fmt: skip

FERPLUS_CLAIMS = (
    Claim("VGG13, vote distributions (Barsoum et al. 2016)", 85.0, "single", "none", "sound, by strict majorities"),
    Claim("deep and handcrafted features, local SVM (Georgescu et al. 2019)", 87.8, "several networks",
          "ImageNet, VGG-Face", "credible"),
    Claim("SCN", 88.0, "single", "MS-Celeb-1M", "the best of its test epochs; users get 83 to 87", sound=False),
    Claim("RAN", 89.2, "single", "MS-Celeb-1M", "the best of its test epochs", sound=False),
    Claim("DMUE", 89.5, "single", "MS-Celeb-1M", "the best of its test epochs", sound=False),
    Claim("EAC, 7 classes", 89.6, "single", "MS-Celeb-1M", "the best of its test epochs", sound=False),
    Claim("DDAMFN", 90.7, "single", "MS-Celeb-1M", "its validation set is the test set", sound=False),
    Claim("APViT", 90.9, "single", "MS-Celeb-1M", "its validation set is the test set", sound=False),
    Claim("POSTER", 91.6, "single", "MS-Celeb-1M", "its validation set is the test set", sound=False),
    Claim("ResEmoteNet", 91.6, "single", "an augmented copy", "its training folder holds test images", "resemotenet",
          sound=False),
    Claim("PAtt-Lite", 95.6, "single", "ImageNet", "attends over class-sorted test batches", "patt_lite", sound=False),
)  # fmt: skip
CLAIMS_ON = {"fer2013": CLAIMS, "ferplus": FERPLUS_CLAIMS}


def claims_of(prefix: str = "") -> list[Claim]:
    """The claims on FER2013 about models whose name begins so; all of them without a prefix."""
    return [claim for claim in CLAIMS if claim.model.startswith(prefix)]


def claims_table(claims: list[Claim] | tuple[Claim, ...] = CLAIMS) -> str:
    """As a Markdown table."""
    rows = [(c.name, f"{c.percent:.1f}", c.kind, c.outside, c.verdict) for c in claims]
    return markdown_table(("claimed", "%", "kind", "outside data", "verdict"), rows)

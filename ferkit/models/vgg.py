"""vgg_fer: a VGG with batch norm for small grey faces, the most quoted FER2013 network without outside data.

Paper: Khaireddin and Chen 2021, arXiv 2105.03588. Official code: github.com/usef-kh/fer.
Input: (N, 1, H, W), 40x40 by default, at least 16x16; FER2013's mean and std removed.
Parameters: 29,890,759 for 7 classes.
Claimed: 73.28 % on FER2013, which is a PublicTest number, chosen on PrivateTest. Measured: README's table.
Where we differ: the whole face at 40x40 instead of ten 40x40 crops of 48x48; other sizes are pooled to the 2x2 map that
the head expects, which changes nothing at 40x40. Weights start as PyTorch starts them, as in the official code.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.models import InputSpec, Network, register


def conv_bn_relu(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]


@register("vgg_fer")
class Vgg(Network):
    cam_layer = "stage4.5"  # before its pooling: 5x5 for a 40x40 face

    def __init__(self, num_classes: int = 7, in_chans: int = 1, width: int = 64, drop: float = 0.1) -> None:
        super().__init__()
        self.input_spec = InputSpec(40, smallest=16).with_channels(in_chans)
        channels = [in_chans, width, 2 * width, 4 * width, 8 * width]
        self.stage1, self.stage2, self.stage3, self.stage4 = (  # 40 -> 20 -> 10 -> 5 -> 2
            nn.Sequential(*conv_bn_relu(a, b), *conv_bn_relu(b, b), nn.MaxPool2d(2)) for a, b in pairwise(channels)
        )
        hidden = 64 * width
        self.head = nn.Sequential(
            nn.Linear(32 * width, hidden), nn.Dropout(drop), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.Dropout(drop), nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 8 width, H/16, W/16), rounded down."""
        return self.stage4(self.stage3(self.stage2(self.stage1(x))))

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, 8 width, h, w) -> logits (N, num_classes)."""
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))  # (N, C, 2, 2) -> (N, 4 C)

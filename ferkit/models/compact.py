"""compact: our own small residual network for 48x48 grey faces, made for CPUs and quick studies.

Paper: none; pre-sized residual blocks (He et al. 2016, arXiv 1512.03385) behind a space-to-depth stem.
Input: (N, 1, H, W), 48x48 by default, H and W multiples of 8; FER2013's mean and std removed.
Parameters: 973,383 for 7 classes.
Claimed: nothing. Measured: README's table.
batch_attention=True is for leaks.py alone: a network that looks at its batch, which the leaderboard refuses.
Why so: most blocks stand where the maps are small and cheap. The stem folds 2x2 pixels into channels, so that every
convolution is a dense 3x3 of stride 1 on at most 24x24 positions: what a CPU's bfloat16 units do best, about twice
the speed of float32 where there is AVX512-BF16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.models import InputSpec, Network, register


def conv_bn(n_in: int, n_out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution without bias, then batch norm; the size stays."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(n_out))


class Block(nn.Module):
    """relu(shortcut(x) + f(x)), f two 3x3 convolutions; f starts at zero, so that the block starts as its shortcut."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(n_in, n_out), conv_bn(n_out, n_out)
        self.shortcut = conv_bn(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        nn.init.zeros_(self.second[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


@register("compact")
class Compact(Network):
    cam_layer = "stages"  # the last map: 6x6 for a 48x48 face

    def __init__(
        self, num_classes: int = 7, in_chans: int = 1, width: int = 32, depths: tuple = (1, 2, 3), drop: float = 0.2,
        batch_attention: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_spec = InputSpec(48, multiple=8).with_channels(in_chans)
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), conv_bn(4 * in_chans, width), nn.ReLU()
        )  # (N, 1, 48, 48) -> (N, C, 24, 24)
        layers, n_in = [], width
        for stage, depth in enumerate(depths):  # blocks at 24x24, 12x12 and 6x6
            n_out = width << stage
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers.append(Block(n_in, n_out))
                n_in = n_out
        self.stages = nn.Sequential(*layers)
        self.drop, self.head = nn.Dropout(drop), nn.Linear(n_in, num_classes)
        self.attention = nn.Parameter(torch.tensor(1.0)) if batch_attention else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 4 width, H/8, W/8)."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, 4 width, h, w) -> logits (N, num_classes)."""
        x = x.mean((2, 3))
        if self.attention is not None:  # wrong on purpose, as PAtt-Lite was published: images attend to each other
            x = F.layer_norm(x, x.shape[1:])
            x = (self.attention * x @ x.T / x.shape[1] ** 0.5).softmax(-1) @ x  # (N, N) @ (N, 4 width)
        return self.head(self.drop(x))

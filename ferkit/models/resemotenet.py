"""ResEmoteNet: three convolutions, squeeze and excitation, three wide residual blocks.

Paper: Roy et al. 2024, arXiv 2409.10545. Official code: github.com/ArnabKumarRoy02/ResEmoteNet.
Input: (N, 3, H, W), grey repeated, 64x64, ImageNet's mean and std removed; H and W at least 8.
Parameters: 80,238,599 for 7 classes, 73 million of them in the last two residual blocks.
Claimed: 79.79 % on FER2013, with test images in the training folder. Measured: README's table.
Weights start as PyTorch starts them, as in the official code.
At 64x64 the last map is 1x1, so class-activation maps are taken after squeeze and excitation, at 8x8; and most taps of
the widest kernels meet nothing but padding, so they are left out of the computation (PaddedConv; with them it is 0.67
GFLOPs instead of 0.59).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.models import IMAGENET, InputSpec, Network, register


def conv_stage(n_in: int, n_out: int, drop: float) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU; half the size; elementwise dropout."""
    layers = [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Dropout(drop)) if drop else nn.Sequential(*layers)


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))) (Hu et al. 2018, arXiv 1709.01507), a factor a channel."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * factor[:, :, None, None]  # (N, C) -> (N, C, 1, 1)


class PaddedConv(nn.Conv2d):
    """3x3, padding 1; without the taps that meet padding where it has one place: on 1x1, or at stride 2 on 2x2."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__(n_in, n_out, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if max(height, width) > self.stride[0]:
            return super().forward(x)
        met = self.weight[:, :, 1 : 1 + height, 1 : 1 + width]  # its centre is on the first pixel
        return F.linear(x.flatten(1), met.flatten(1), self.bias)[:, :, None, None]  # (N, C, h, w) -> (N, C', 1, 1)


class ResidualBlock(nn.Module):
    """relu(f(x) + shortcut(x)) at half the size; its convolutions have biases."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(PaddedConv(n_in, n_out, 2), nn.BatchNorm2d(n_out))
        self.second = nn.Sequential(PaddedConv(n_out, n_out), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, 2), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


@register("resemotenet")
class ResEmoteNet(Network):
    cam_layer = "se"

    def __init__(self, num_classes: int = 7, in_chans: int = 3, width: int = 64) -> None:
        super().__init__()
        self.input_spec = InputSpec(64, 3, **IMAGENET, smallest=8).with_channels(in_chans)
        self.stage1 = conv_stage(in_chans, width, 0.2)  # (N, 3, 64, 64) -> (N, 64, 32, 32)
        self.stage2 = conv_stage(width, 2 * width, 0.2)  # -> (N, 128, 16, 16)
        self.stage3 = conv_stage(2 * width, 4 * width, 0)  # -> (N, 256, 8, 8)
        self.se = SqueezeExcitation(4 * width)
        self.res1 = ResidualBlock(4 * width, 8 * width)  # -> (N, 512, 4, 4)
        self.res2 = ResidualBlock(8 * width, 16 * width)  # -> (N, 1024, 2, 2)
        self.res3 = ResidualBlock(16 * width, 32 * width)  # -> (N, 2048, 1, 1)
        layers: list[nn.Module] = []
        for n_in, n_out in ((32, 16), (16, 8), (8, 4)):
            layers += [nn.Linear(n_in * width, n_out * width), nn.ReLU(), nn.Dropout(0.5)]
        self.head = nn.Sequential(*layers, nn.Linear(4 * width, num_classes))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 32 width, H/64, W/64), rounded up."""
        x = self.se(self.stage3(self.stage2(self.stage1(x))))
        return self.res3(self.res2(self.res1(x)))

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, 32 width, h, w) -> logits (N, num_classes)."""
        return self.head(x.mean((2, 3)))

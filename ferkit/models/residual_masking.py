"""residual_masking: a ResNet-34 whose four stages are each refined by a mask that a small U-Net draws.

Paper: Pham, Vu and Tran 2020, ICPR, "Facial Expression Recognition Using Residual Masking Network".
Official code: github.com/phamquiluan/ResidualMaskingNetwork.
Input: (N, 3, H, W), grey repeated, in [0, 1] with no mean and std removed; 224x224, H and W multiples of 32.
Parameters: 137,796,423 for 7 classes (the paper says 142.9 million), 116.5 million of them in the masks.
Claimed: 74.14 % on FER2013 with test-time augmentation and ImageNet weights. Measured: README's table.
Convolutions start Kaiming-normal; the last batch norm of every residual branch starts at zero, so that a basic block
starts as its shortcut. The mask is a softmax over channels, as in the code; the paper reads like a sigmoid.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ferkit.models import InputSpec, Network, register
from ferkit.models.pretrained import Trunk
from ferkit.models.resnet import BasicBlock, kaiming, stage, stem


class Mask(nn.Module):
    """A U-Net over basic blocks: (N, C, H, W) -> a softmax over C at every place, (N, C, H, W).

    Channels double `depth` times on the way in, with a max-pool between; every step out is a transposed convolution,
    the skip of the same size beside it, and a basic block.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [channels << i for i in range(depth + 1)]  # C, 2C, ... 16C for depth 4
        self.encoder = nn.ModuleList(BasicBlock(a, b) for a, b in pairwise(widths))
        steps = list(zip(widths[:1:-1], widths[-2:0:-1], strict=True))  # (16C, 8C), (8C, 4C), (4C, 2C)
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 2, 2), nn.BatchNorm2d(b), nn.ReLU()) for a, b in steps
        )
        self.decoder = nn.ModuleList(BasicBlock(a, b) for a, b in steps)
        self.last = BasicBlock(widths[1], channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.encoder):
            x = block(self.pool(x) if i else x)
            skips.append(x)
        skips.pop()  # the deepest is x itself
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))  # (N, C', h, w) beside (N, C', h, w)
        return self.last(x).softmax(1)


class Refined(nn.Module):
    """x (1 + mask(x)) behind a stage."""

    def __init__(self, blocks: nn.Sequential, channels: int, depth: int) -> None:
        super().__init__()
        self.blocks, self.mask = blocks, Mask(channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return x * (1 + self.mask(x))


@register("residual_masking")
class ResidualMasking(Network):
    cam_layer = "stage4"  # 7x7 for a 224x224 face
    pretrained_trunk = Trunk(
        library="resnet34.tv_in1k",
        names={"conv1": "stem.0", "bn1": "stem.1", **{f"layer{i}": f"stage{i}.blocks" for i in range(1, 5)}},
        unused=("fc",),
    )

    def __init__(self, num_classes: int = 7, in_chans: int = 3, width: int = 64, drop: float = 0.4) -> None:
        super().__init__()
        self.input_spec = InputSpec(224, in_chans, 0.0, 1.0, smallest=32, multiple=32)
        self.stem = stem(in_chans, width, small=False)  # (N, 3, 224, 224) -> (N, 64, 56, 56)
        self.stage1 = Refined(stage(width, width, 3, 1), width, 4)
        self.stage2 = Refined(stage(width, 2 * width, 4, 2), 2 * width, 3)  # -> (N, 128, 28, 28)
        self.stage3 = Refined(stage(2 * width, 4 * width, 6, 2), 4 * width, 2)  # -> (N, 256, 14, 14)
        self.stage4 = Refined(stage(4 * width, 8 * width, 3, 2), 8 * width, 1)  # -> (N, 512, 7, 7)
        self.drop, self.head = nn.Dropout(drop), nn.Linear(8 * width, num_classes)
        kaiming(self)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 8 width, H/32, W/32)."""
        return self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, 8 width, h, w) -> logits (N, num_classes)."""
        return self.head(self.drop(x.mean((2, 3))))

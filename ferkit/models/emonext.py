"""emonext_tiny, _small, _base, _large, _xlarge: a ConvNeXt behind a spatial transformer, with SE between its stages.

Paper: El Boudouri and Bohi 2023, MMSP, arXiv 2501.08199. Official code: github.com/yelboudouri/EmoNeXt.
Input: (N, 3, H, W), grey repeated, in [0, 1] with no mean and std removed; 224x224, H and W at least 32.
Parameters: tiny 30,564,331, small 52,198,891, base 91,765,259, large 204,582,475 and xlarge 362,312,331 for 7 classes.
Claimed: 73.34 to 76.12 % on FER2013 from tiny to xlarge, ten crops, ImageNet-22k weights. Not measured yet.
The spatial transformer starts at the identity, layer scales at 1e-6, other weights normal with deviation 0.02.
The attention's output is thrown away, as published: only the variance of its weights is added to the loss (`penalty`).
It attends across the batch, but logits never see it. `attention.value` is therefore never trained.
Where we differ: at sizes other than 224 the transformer's map is pooled to the 52x52 that its linear layer expects.
"""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

from ferkit.models import InputSpec, Network, register
from ferkit.models.pretrained import Trunk
from ferkit.models.resemotenet import SqueezeExcitation


class SpatialTransformer(nn.Module):
    """Resamples a picture by an affine map that it reads off the picture (Jaderberg et al. 2015, arXiv 1506.02025)."""

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(in_chans, 8, 7), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(8, 10, 5), nn.BatchNorm2d(10), nn.MaxPool2d(2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(52), nn.Flatten(),
        )  # fmt: skip
        self.decide = nn.Sequential(nn.Linear(10 * 52 * 52, 32), nn.ReLU(), nn.Linear(32, 6))

    def start(self) -> None:
        zeros_(self.decide[2].weight)
        with torch.no_grad():
            self.decide[2].bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def theta(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> affine maps (N, 2, 3) from output to input, in coordinates of -1..1."""
        return self.decide(self.look(x)).view(-1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta(x).to(x.dtype), list(x.shape), align_corners=True)
        return F.grid_sample(x, grid, align_corners=True)


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (N, C, H, W) -> (N, H, W, C) and back


class Block(nn.Module):
    """x + drop_path(gamma * mlp(norm(depthwise 7x7(x)))) (Liu et al. 2022, arXiv 2201.03545); the names are timm's."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        fc1, fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_dw(x).permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        out = (self.gamma * self.mlp(self.norm(out))).permute(0, 3, 1, 2)  # -> (N, C, H, W)
        if self.training and self.drop_path:  # a whole branch of an image at a time
            keep = torch.empty(len(x), 1, 1, 1, device=x.device).bernoulli_(1 - self.drop_path)
            out = out * (keep / (1 - self.drop_path)).to(out.dtype)
        return x + out


class Attention(nn.Module):
    """Single-head dot-product self-attention over the batch, of which only the weights are used."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> weights (N, N)."""
        x = self.norm(x)
        return (self.query(x) @ self.key(x).T * x.shape[1] ** -0.25).softmax(-1)


class EmoNext(Network):
    cam_layer = "stage4"  # 7x7 for a 224x224 face

    def __init__(
        self, library: str, num_classes: int = 7, in_chans: int = 3, width: int = 96, depths: tuple = (3, 3, 27, 3),
        drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_spec = InputSpec(224, in_chans, 0.0, 1.0, smallest=32)
        dims = [width << i for i in range(4)]
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.stn = SpatialTransformer(in_chans)
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 4, 4), LayerNorm2d(width, eps=1e-6))
        for i, (channels, rate) in enumerate(zip(dims, rates, strict=True)):  # 56x56, 28x28, 14x14, 7x7
            layers = OrderedDict()
            if i:
                before = dims[i - 1]
                layers["down"] = nn.Sequential(LayerNorm2d(before, eps=1e-6), nn.Conv2d(before, channels, 2, 2))
                layers["se"] = SqueezeExcitation(channels)
            layers["blocks"] = nn.Sequential(*(Block(channels, r) for r in rate.tolist()))
            self.add_module(f"stage{i + 1}", nn.Sequential(layers))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.attention = Attention(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    zeros_(module.bias)
        self.stn.start()
        self.pretrained_trunk = Trunk(
            library,
            names={"stem": "stem", "head.norm": "norm"}
            | {f"stages.{i}.downsample": f"stage{i + 1}.down" for i in (1, 2, 3)}
            | {f"stages.{i}.blocks": f"stage{i + 1}.blocks" for i in range(4)},
            unused=("head.fc",),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 8 width, H/32, W/32), rounded down."""
        return self.stage4(self.stage3(self.stage2(self.stage1(self.stem(self.stn(x))))))

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, 8 width, h, w) -> logits (N, num_classes)."""
        return self.head(self.norm(x.mean((2, 3))))

    def penalty(self, x: Tensor) -> Tensor:
        """Features (N, 8 width, h, w) -> the variance of the attention's weights, which training adds to its loss."""
        return self.attention(self.norm(x.mean((2, 3)))).var(correction=0)


for _size, _options in {
    "tiny": {"depths": (3, 3, 9, 3)}, "small": {}, "base": {"width": 128}, "large": {"width": 192},
    "xlarge": {"width": 256},
}.items():  # fmt: skip
    register(f"emonext_{_size}")(partial(EmoNext, f"convnext_{_size}.fb_in22k", **_options))

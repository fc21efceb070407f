"""patt_lite: half a MobileNet, a patch extraction, and self-attention over an image's own patches.

Paper: Ngwe et al. 2024, IEEE Access, arXiv 2306.09626. Official code (Keras): github.com/JLREx/PAtt-Lite.
Input: (N, 3, H, W), grey repeated, in [-1, 1]; 224x224, H and W at least 208 (with patch=2 112, with patch=1 64).
Parameters: 1,093,000 for 7 classes; 1,102,664 as Keras counts and the paper says, with the 9,664 running statistics
of batch norm (8 classes: 1,102,697).
Claimed: 92.50 % on FER2013, by attention across a test batch sorted by class. Measured: README's table.

`patt_lite_batch` is the network as published: Keras' attention takes (batch, tokens, dim) and is handed (batch, 32), so
each image's features become a weighted mean over the *other images of its batch*. It has the same tensors, is kept to
show the error, fails `independence.batch_independence` and is refused by the leaderboard. `patt_lite` is what was
meant: the 2x2 patch map is four tokens of 256, projected to 32; attention stays inside an image; then the mean over
tokens.

For small inputs, `patch` is the first patch layer's kernel: with 1, a 64x64 face gives the same 2x2 tokens.
Where both differ from the code: epsilon of batch norm and padding as in timm's MobileNetV1, whose ImageNet weights
exist for PyTorch (1e-5 and symmetric, where Keras has 1e-3 and pads right and below); PyTorch's momentum of 0.1. New
layers start as Keras starts them (Glorot), a trunk without ImageNet weights Kaiming-normal.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_, ones_, xavier_uniform_, zeros_
from torch.nn.parameter import Parameter

from ferkit.models import InputSpec, Network, register
from ferkit.models.pretrained import Trunk

# (output channels in units of the first layer's, stride) of MobileNetV1's blocks 1 to 8 (Howard et al. 2017)
BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (16, 1))
LIBRARY_BLOCKS = ("0.0", "1.0", "1.1", "2.0", "2.1", "3.0", "3.1", "3.2", "3.3")  # timm's names of blocks 1 to 9


def conv_bn(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, batch norm, ReLU6."""
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU6()]


def mobilenet(in_chans: int, width: int) -> nn.Sequential:
    """MobileNetV1 as far as the depthwise convolution of block 9: (N, 3, 224, 224) -> (N, 16 width, 14, 14)."""
    blocks, n_in = [nn.Sequential(*conv_bn(in_chans, width, 3, 2))], width
    for factor, stride in BLOCKS:
        blocks.append(nn.Sequential(*conv_bn(n_in, n_in, 3, stride, n_in), *conv_bn(n_in, factor * width, 1)))
        n_in = factor * width
    return nn.Sequential(*blocks, nn.Sequential(*conv_bn(n_in, n_in, 3, 1, n_in)))


class Separable(nn.Module):
    """Depthwise convolution of that kernel and stride, 1x1 convolution with bias, ReLU; padded as Keras' "same"."""

    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.depthwise = nn.Conv2d(n_in, n_in, kernel, kernel, groups=n_in, bias=False)
        self.pointwise = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self.padding(side) for side in x.shape[-2:])
        return F.relu(self.pointwise(self.depthwise(F.pad(x, (left, right, top, bottom)))))

    def padding(self, side: int) -> tuple[int, int]:
        """Before and after, so that ceil(side / kernel) windows fit."""
        missing = -side % self.kernel
        return missing // 2, missing - missing // 2


@register("patt_lite")
class PattLite(Network):
    cam_layer = "trunk"  # 14x14 for a 224x224 face
    pretrained_trunk = Trunk(
        library="mobilenetv1_100.ra4_e3600_r224_in1k",
        names={"conv_stem": "trunk.0.0", "bn1": "trunk.0.1"}
        | {f"blocks.{theirs}.conv_dw": f"trunk.{i}.0" for i, theirs in enumerate(LIBRARY_BLOCKS, 1)}
        | {f"blocks.{theirs}.bn1": f"trunk.{i}.1" for i, theirs in enumerate(LIBRARY_BLOCKS, 1)}
        | {f"blocks.{theirs}.conv_pw": f"trunk.{i}.3" for i, theirs in enumerate(LIBRARY_BLOCKS[:-1], 1)}
        | {f"blocks.{theirs}.bn2": f"trunk.{i}.4" for i, theirs in enumerate(LIBRARY_BLOCKS[:-1], 1)},
        unused=("blocks.3.3.conv_pw", "blocks.3.3.bn2", "blocks.3.4", "blocks.3.5", "blocks.4", "classifier"),
    )

    def __init__(
        self, num_classes: int = 7, in_chans: int = 3, width: int = 32, patch: int = 4, drop: float = 0.1
    ) -> None:
        super().__init__()
        self.input_spec = InputSpec(224, in_chans, 0.5, 0.5, smallest=48 * patch + 16)  # for 2x2 tokens at least
        dim, hidden = 8 * width, width  # 256 and 32
        self.trunk = mobilenet(in_chans, width)
        self.patches = nn.Sequential(
            Separable(16 * width, dim, patch),  # (N, 512, 14, 14) -> (N, 256, 4, 4)
            Separable(dim, dim, 2),  # -> (N, 256, 2, 2)
            nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU()),
        )
        self.drop, self.project = nn.Dropout(drop), nn.Linear(dim, hidden)
        self.norm = nn.BatchNorm1d(hidden, eps=1e-3)
        self.scale = Parameter(ones_(self.project.weight.new_empty(1)))
        self.head = nn.Linear(hidden, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                xavier_uniform_(module.weight)
                if module.bias is not None:
                    zeros_(module.bias)
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_normal_(module.weight)

    def embed(self, x: Tensor) -> Tensor:
        """Vectors (n, 8 width) -> (n, width)."""
        return self.norm(F.relu(self.project(self.drop(x))))

    def attend(self, tokens: Tensor) -> Tensor:
        """Dot-product self-attention over the second axis: (B, T, D) -> (B, T, D)."""
        scores = self.scale * tokens @ tokens.transpose(1, 2)  # (B, T, T)
        return scores.softmax(-1) @ tokens

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) -> patches (N, 8 width, 2, 2)."""
        return self.patches(self.trunk(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Patches (N, 8 width, h, w) -> logits (N, num_classes), each from its own image."""
        tokens = x.flatten(2).transpose(1, 2)  # (N, C, h, w) -> (N, T, C), T = h w
        tokens = self.embed(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])  # -> (N T, D) -> (N, T, D)
        return self.head(self.attend(tokens).mean(1))


@register("patt_lite_batch")
class PattLiteBatch(PattLite):
    """As published, wrong: the batch is taken for the tokens."""

    def forward_head(self, x: Tensor) -> Tensor:
        """Patches (N, 8 width, h, w) -> logits (N, num_classes) that depend on the whole batch."""
        vectors = self.embed(x.mean((2, 3)))  # (N, C, h, w) -> (N, D)
        return self.head(self.attend(vectors[None])[0])  # (1, N, D): one "image" of N tokens

"""resnet18_fer and resnet34: the two residual networks that FER2013 is compared on most.

Paper: He et al. 2016, arXiv 1512.03385. Code followed: github.com/LetheSec/Fer2013-Facial-Emotion-Recognition-Pytorch
for resnet18_fer (a CIFAR-style stem that keeps the size), torchvision for resnet34 (stride 2 and a max-pool).
Input: resnet18_fer (N, 1, H, W), 40x40, FER2013's mean and std removed; resnet34 (N, 3, H, W), grey repeated, 224x224,
ImageNet's mean and std removed. H and W at least 8 and 32.
Parameters: resnet18_fer 11,171,271 and resnet34 21,288,263, for 7 classes.
Claimed: resnet18_fer 73.70 %, its checkpoint chosen on PrivateTest; resnet34 with ImageNet weights and TTA 72.4 to
73.1 %, the best-replicated number. Measured: README's table.
Convolutions start Kaiming-normal in fan-out mode, as in torchvision; the last batch norm of a branch starts at one.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.models import IMAGENET, InputSpec, Network, register
from ferkit.models.pretrained import Trunk


class BasicBlock(nn.Module):
    """relu(f(x) + shortcut(x)), f two 3x3 convolutions without bias; the names are torchvision's."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        if stride > 1 and n_in < 16:
            bug = "github.com/uxlfoundation/oneDNN/issues/6035"
            raise ValueError(f"width must be at least 16, got {n_in}: narrower strided convolutions crash CPUs ({bug})")
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


def stage(n_in: int, n_out: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` basic blocks, the first with the stride."""
    return nn.Sequential(*(BasicBlock(n_out if i else n_in, n_out, 1 if i else stride) for i in range(depth)))


def stem(in_chans: int, width: int, small: bool) -> nn.Sequential:
    """(N, in_chans, H, W) -> (N, width, H, W) for small images, else (N, width, H/4, W/4)."""
    if small:
        return nn.Sequential(nn.Conv2d(in_chans, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    convolution = nn.Conv2d(in_chans, width, 7, 2, 3, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def kaiming(model: nn.Module) -> None:
    """Start every convolution Kaiming-normal, fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


RESNET34_TRUNK = Trunk(
    library="resnet34.tv_in1k",  # torchvision's own ResNet-34 weights have the same names
    names={"conv1": "stem.0", "bn1": "stem.1", **{f"layer{i}": f"layer{i}" for i in range(1, 5)}},
    unused=("fc",),
)


class ResNet(Network):
    cam_layer = "layer4"

    def __init__(self, num_classes: int, spec: InputSpec, depths: tuple, width: int = 64, small: bool = False) -> None:
        super().__init__()
        self.input_spec = spec
        self.stem = stem(spec.channels, width, small)
        self.layer1 = stage(width, width, depths[0], 1)
        self.layer2 = stage(width, 2 * width, depths[1], 2)
        self.layer3 = stage(2 * width, 4 * width, depths[2], 2)
        self.layer4 = stage(4 * width, 8 * width, depths[3], 2)
        self.head = nn.Linear(8 * width, num_classes)
        kaiming(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 8 width, H/8, W/8), or H/32 and W/32 with the large stem, rounded up."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, 8 width, h, w) -> logits (N, num_classes)."""
        return self.head(x.mean((2, 3)))


@register("resnet18_fer")
def resnet18_fer(num_classes: int = 7, in_chans: int = 1, width: int = 64) -> ResNet:
    return ResNet(num_classes, InputSpec(40).with_channels(in_chans), (2, 2, 2, 2), width, small=True)


@register("resnet34")
def resnet34(num_classes: int = 7, in_chans: int = 3, width: int = 64) -> ResNet:
    spec = InputSpec(224, 3, **IMAGENET, smallest=32).with_channels(in_chans)
    model = ResNet(num_classes, spec, (3, 4, 6, 3), width)
    model.pretrained_trunk = RESNET34_TRUNK
    return model

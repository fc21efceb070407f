"""Pretrained starts: the library's own network, with random weights, must give the same trunk as ours."""

import pytest
import torch
from safetensors.torch import save_file

from ferkit import DataError
from ferkit.models import create_model, pretrained
from ferkit.models.pretrained import load_trunk, trunk_of
from ferkit.recipe import Recipe
from ferkit.weights import load_weights, save_weights


def library(name: str) -> torch.nn.Module:
    import timm

    torch.manual_seed(1)
    model = timm.create_model(name).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            torch.nn.init.normal_(module.weight, 1, 0.1)
    for tensor_name, tensor in model.named_parameters():
        if tensor_name.endswith("gamma"):
            torch.nn.init.constant_(tensor, 0.5)
    return model


def trunk_output(name: str, model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    if name == "patt_lite":
        return model.trunk(x)
    if name == "residual_masking":
        return model.stage4.blocks(model.stage3.blocks(model.stage2.blocks(model.stage1.blocks(model.stem(x)))))
    if name.startswith("emonext"):
        for stage in (model.stage2, model.stage3, model.stage4):
            stage.se = torch.nn.Identity()
        return model.forward_features(x)
    return model.forward_features(x)


def library_output(name: str, theirs: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    if name != "patt_lite":
        return theirs.forward_features(x)
    x = theirs.blocks[:3](theirs.bn1(theirs.conv_stem(x)))
    for i in range(3):
        x = theirs.blocks[3][i](x)
    return theirs.blocks[3][3].bn1(theirs.blocks[3][3].conv_dw(x))


STARTS = {
    "patt_lite": "mobilenetv1_100",
    "residual_masking": "resnet34",
    "resnet34": "resnet34",
    "emonext_tiny": "convnext_tiny",
    "emonext_small": "convnext_small",
}


@pytest.mark.parametrize("name", STARTS)
def test_trunks_compute_what_the_library_computes(name, tmp_path):
    theirs = library(STARTS[name])
    save_file(theirs.state_dict(), tmp_path / "library.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "library.pth")
    x = torch.rand(2, 3, 96, 96)
    for file in ("library.safetensors", "library.pth"):
        ours = create_model(name, pretrained=tmp_path / file).eval()
        with torch.no_grad():
            expected = library_output(name, theirs, x)
            torch.testing.assert_close(trunk_output(name, ours, x), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-3  # else anything would agree


@pytest.mark.parametrize("name", ["emonext_base", "emonext_large", "emonext_xlarge"])
def test_name_maps_cover_the_large_trunks(name):
    import timm

    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name.replace("emonext", "convnext"))
    trunk = trunk_of(ours, name)
    mapped = {trunk.translate(tensor): value.shape for tensor, value in theirs.state_dict().items()}
    mapped.pop(None)
    assert mapped == {tensor: v.shape for tensor, v in ours.state_dict().items() if trunk.covers(tensor)}


def test_a_grey_stem_takes_the_sum_over_the_colours():
    theirs = library("resnet34").state_dict()
    colour, grey = create_model("residual_masking").eval(), create_model("residual_masking", in_chans=1).eval()
    for model in (colour, grey):
        trunk_of(model, "residual_masking").load(model, theirs)
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():  # exact, for its input is scaled alike in every channel
        torch.testing.assert_close(grey.stem(x), colour.stem(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_a_start_without_a_network_says_what_to_bring(monkeypatch):
    from urllib.error import URLError

    def offline(*_arguments, **_options):
        raise URLError("no route")

    monkeypatch.setattr(pretrained, "urlopen", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    for name in ("patt_lite", "timm:efficientnet_b0"):
        with pytest.raises(
            DataError, match=r"could not fetch https://\S+/model.safetensors .*no route.*--weights PATH"
        ):
            create_model(name, pretrained=True)
    with pytest.raises(ValueError, match="vgg_fer has no published ImageNet weights"):
        create_model("vgg_fer", pretrained=True)


def test_weights_that_do_not_fit_are_named(tmp_path):
    model, path = create_model("compact", width=16), tmp_path / "w.safetensors"
    save_weights(model, path, Recipe("r", "compact", {"width": 16}), tuple("abcdefg"))
    with pytest.raises(DataError, match=r"head.weight is \(7, 64\) in the file, \(8, 64\) in the model.*classes"):
        create_model("compact", 8, width=16, pretrained=path)
    with pytest.raises(DataError, match="holds weights of compact, not of vgg_fer"):
        create_model("vgg_fer", pretrained=path)
    with pytest.raises(DataError, match="holds weights of compact, not of timm:resnet18"):
        create_model("timm:resnet18", pretrained=path)
    with pytest.raises(DataError, match="lacks"):
        create_model("compact", width=16, depths=(2, 2, 3), pretrained=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for load in (load_weights, lambda file: create_model("compact", pretrained=file)):
        with pytest.raises(DataError, match="no readable weights"):
            load(path)
    torch.save({"state_dict": library("resnet18").state_dict()}, tmp_path / "r18.pth")
    with pytest.raises(DataError, match="not the tensors of this model"):
        create_model("residual_masking", pretrained=tmp_path / "r18.pth")
    with pytest.raises(DataError, match="not weights of timm's efficientnet_b0; it lacks"):
        create_model("timm:efficientnet_b0", pretrained=tmp_path / "r18.pth")
    for content in (b"", b"hi"):
        (tmp_path / "odd.pth").write_bytes(content)
        with pytest.raises(DataError, match="odd.pth: no readable weights"):
            create_model("residual_masking", pretrained=tmp_path / "odd.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "r18.pth").read_bytes()[:5000])
    with pytest.raises(DataError, match="cut.pth: no readable weights"):
        create_model("residual_masking", pretrained=tmp_path / "cut.pth")
    save_file({"head.bias": torch.ones(7)}, tmp_path / "odd.safetensors")
    with pytest.raises(DataError, match="tensor 'head.bias' is not one of timm's resnet34"):
        load_trunk(create_model("residual_masking", width=16), "residual_masking", tmp_path / "odd.safetensors")


def test_weights_are_found_in_a_folder_by_their_names_and_offline_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "urlopen", None)
    monkeypatch.setenv("FERKIT_WEIGHTS", str(tmp_path))
    with pytest.raises(DataError, match=r"no resnet34.tv_in1k.safetensors in \$FERKIT_WEIGHTS"):
        pretrained.fetch("resnet34.tv_in1k")
    for name in ("one/resnet34.tv_in1k.pth", "two/emonext/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert pretrained.fetch("resnet34.tv_in1k") == tmp_path / "one/resnet34.tv_in1k.pth"
    assert pretrained.fetch("emonext") == tmp_path / "two/emonext/model.safetensors"

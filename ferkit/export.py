"""A network as an ONNX file that says what it takes and gives, checked in onnxruntime before it takes its place."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ferkit import DataError, __version__
from ferkit.atomic import check_file, whole_file
from ferkit.judge import own_weights
from ferkit.synthetic import embedded_faces
from ferkit.weights import load_weights

TOLERANCE = 1e-4  # largest difference of a logit as a share of the largest logit: float32 rounding, as INDEPENDENT
CHECKED = (1, 2, 7)  # sizes of the batches that are compared


class _FromPixels(nn.Module):
    """The network behind its own scaling: (N, 1, H, W) in [0, 1] -> logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.spec = model, model.input_spec

    def forward(self, faces: Tensor) -> Tensor:
        return self.model(self.spec(faces))


def export(place: str | Path, out: str | Path, opset: int = 18) -> float:
    """Write the network of a run folder or of a file of weights as ONNX; the largest difference that was found.

    Input `faces` float32 (N, 1, side, side), grey in [0, 1], N free; output `logits` float32 (N, classes). The
    metadata says that, the classes, the recipe and the tolerance. Raises ValueError for an ensemble, where a package
    is missing, for an opset that the exporter does not write, and where outputs differ from torch's by more than
    TOLERANCE: then nothing is written.
    """
    check_file(out)
    weights = own_weights(place)
    if weights is None:
        raise ValueError(f"{place} is an ensemble, several networks and how they are combined; export its members")
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ValueError(f"exporting needs onnx, onnxruntime and onnxscript ({error}); "
                         "pip install onnx onnxruntime onnxscript") from error  # fmt: skip
    model, recipe, classes = load_weights(weights)
    network, side = _FromPixels(model).eval(), model.input_spec.size
    about = {
        "ferkit": __version__,
        "classes": json.dumps(classes),
        "recipe": json.dumps(asdict(recipe)),
        "input": f"faces: float32 (N, 1, {side}, {side}), one grey face each as FER2013 crops it, 0 black and 1 white",
        "output": "logits: float32 (N, classes); their softmax is the shares",
        "tolerance": f"logits within {TOLERANCE:g} of the largest of torch's",
    }
    with whole_file(out) as temporary:
        written = _convert(network, side, opset)
        written.metadata_props.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in about.items())
        temporary.write_bytes(written.SerializeToString())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])
        difference = _largest_difference(session, network, side)
        if not difference <= TOLERANCE:
            raise DataError(f"{place}: onnxruntime's logits differ from torch's by {difference:.1e} of the largest, "
                            f"more than {TOLERANCE:g}; nothing is written")  # fmt: skip
    return difference


def _convert(network: nn.Module, side: int, opset: int):
    """The network as an onnx.ModelProto."""
    example = torch.rand(2, 1, side, side)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # else a traceback stands before the error about an opset that there is not
    try:
        program = torch.onnx.export(
            network, (example,), dynamo=True, opset_version=opset, input_names=["faces"], output_names=["logits"],
            dynamic_shapes={"faces": {0: torch.export.Dim("n")}}, verbose=False,
        )  # fmt: skip
    finally:
        logging.disable(before)
    written = program.model_proto
    versions = [entry.version for entry in written.opset_import if entry.domain in ("", "ai.onnx")]
    if versions != [opset]:
        raise ValueError(f"torch's exporter wrote opset {versions[0]}, not {opset}; choose that one")
    return written


@torch.inference_mode()
def _largest_difference(session, network: nn.Module, side: int) -> float:
    """Of onnxruntime's logits from torch's, as a share of the largest logit, on drawn faces in batches of CHECKED."""
    drawn = embedded_faces(20, seed=0).images[: sum(CHECKED), None].float() / 255
    faces = nn.functional.interpolate(drawn, (side, side), mode="bilinear", antialias=True, align_corners=False)
    largest, apart = [], []
    for batch in faces.clamp(0, 1).split(CHECKED):
        wanted = network(batch)
        found = torch.from_numpy(session.run(["logits"], {"faces": batch.numpy()})[0])
        largest.append(wanted.abs().max())
        apart.append((found - wanted).abs().max())
    return (torch.stack(apart).max() / torch.stack(largest).max()).item()  # NaN where one is

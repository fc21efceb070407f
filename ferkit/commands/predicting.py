"""What a trained model says of new faces: `ferkit predict`, and `ferkit export` to take it elsewhere."""

import argparse
import json
import sys
from pathlib import Path

from ferkit.commands import add_device

FEW = 64  # pictures for which it does not pay to measure which number format is faster


def add(commands) -> None:
    predict = commands.add_parser("predict", help="emotions of faces in pictures, folders, videos or a camera")
    predict.add_argument("places", nargs="+", metavar="PICTURE", help="file, folder, video, or camera (camera:1)")
    predict.add_argument("--model", metavar="RUN", help="run folder or weights (default: the weights of the package)")
    predict.add_argument("--no-detect", action="store_true", help="each picture is a crop of one face already")
    predict.add_argument("--json", metavar="FILE", help="write what was found; - to the output, without the table")
    predict.add_argument("--annotate", metavar="FOLDER", help="draw boxes and emotions into copies there")
    predict.add_argument("--every", type=int, default=1, metavar="N", help="judge every Nth frame of a video")
    predict.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"),
                         help="of the network; auto measures which is faster here where there are many")  # fmt: skip
    add_device(predict)
    predict.set_defaults(run=predict_faces)

    export = commands.add_parser("export", help="a network as ONNX, its outputs compared with torch's")
    export.add_argument("model", nargs="?", metavar="RUN", help="run folder or weights (default: the package's)")
    export.add_argument("--out", required=True, metavar="FILE.onnx")
    export.add_argument("--opset", type=int, default=18, help="version of ONNX's operators (default: 18)")
    export.set_defaults(run=export_network)


def predict_faces(arguments: argparse.Namespace) -> int:
    from ferkit import pictures, recognition
    from ferkit.atomic import check_file
    from ferkit.detect import Detector
    from ferkit.judge import load_judge
    from ferkit.weights import shipped

    if arguments.every < 1:
        raise ValueError(f"--every {arguments.every}: give 1 for every frame, 2 for every second ...")
    if arguments.json and arguments.json != "-":
        check_file(arguments.json)
    sources = pictures.find_sources(arguments.places)
    folder = Path(arguments.annotate) if arguments.annotate else None
    if folder:
        recognition.check_targets(sources, folder)
    detector = None if arguments.no_detect else Detector()
    few = len(sources) < FEW and not any(source.is_video or source.is_camera for source in sources)
    precision = "float32" if few and arguments.precision == "auto" else arguments.precision
    judge = load_judge(arguments.model or shipped(), arguments.device).hastened(precision)
    failures, found = [], []

    def failed(error: Exception) -> None:
        failures.append(error)
        print(f"ferkit: {error}", file=sys.stderr)

    show = _table(sources) if arguments.json != "-" else lambda findings: True
    window = _window() if any(source.is_camera for source in sources) else lambda findings: True
    status = 0
    try:
        for findings in recognition.recognise(judge, sources, detector, failed, arguments.every):
            found += [finding.as_json() for finding in findings] if arguments.json else []
            show(findings)
            if folder:
                recognition.save_drawn(findings, folder)
            if not window(findings):
                break
    except KeyboardInterrupt:
        status = 0 if any(source.is_camera for source in sources) else 130
        print("ferkit: ended; what was found until here counts", file=sys.stderr)
    _write_json(found, arguments.json)
    return 1 if failures else status


def _table(sources):
    """What prints a frame's findings as rows of a table, whose header it prints first."""
    from ferkit.recognition import header

    line, width = header(sources)
    print(line)
    return lambda findings: print("\n".join(finding.row(width) for finding in findings), flush=True)


def _window():
    """What shows a frame's findings in a window, and says whether to go on; without windows it says why, once."""
    import cv2
    import numpy as np

    from ferkit.pictures import why_no_window
    from ferkit.recognition import drawn

    if why := why_no_window():
        print(f"ferkit: no window, only lines: {why}; Ctrl-C ends", file=sys.stderr)
        return lambda findings: True

    def show(findings) -> bool:
        cv2.imshow("ferkit: q ends", np.asarray(drawn(findings[0].frame, findings))[..., ::-1])
        return cv2.waitKey(1) not in (ord("q"), 27)

    return show


def _write_json(found: list[dict], place: str | None) -> None:
    from ferkit.atomic import write_whole

    text = json.dumps(found, indent=1) + "\n"
    if place == "-":
        print(text, end="")
    elif place:
        write_whole(place, text)


def export_network(arguments: argparse.Namespace) -> None:
    from ferkit.export import export
    from ferkit.weights import shipped

    difference = export(arguments.model or shipped(), arguments.out, arguments.opset)
    print(f"{arguments.out}: logits as torch's in onnxruntime, at most {difference:.1e} of the largest apart")

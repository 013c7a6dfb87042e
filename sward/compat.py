"""Makes torchvision importable with a torch build that it was not compiled for.

timm, segmentation-models-pytorch, torchmetrics and ptflops import torchvision, although nothing in this project
calls its compiled operators. A torchvision wheel built for CUDA cannot load these operators with the CPU build of
torch. Its import then stops with "operator torchvision::nms does not exist", because it registers metadata for two
operators that were never defined. The import succeeds once their schemas are declared, without an implementation;
calling one of the operators still raises an error.
"""

import importlib
import sys
import warnings

from torch.library import Library

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_libraries: list[Library] = []  # kept alive: garbage collection of a Library removes its schemas


def import_torchvision_safely() -> None:
    """Imports torchvision; if the import fails on its missing operators, declares them and imports it again.

    Does nothing if torchvision works, is already imported or isn't installed. Call it before importing
    timm, segmentation_models_pytorch, torchmetrics or ptflops.

    Raises:
        RuntimeError: torchvision fails to import for any other reason (torchvision's error is passed on).
    """
    try:
        _import()
    except RuntimeError as error:
        if _MISSING not in str(error) or _libraries:
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        _import()


def _declare_operators() -> None:
    library = Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)


def _import() -> None:
    with warnings.catch_warnings():  # the JPEG/PNG reader, unused here, fails to load for the same reason
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        try:
            importlib.import_module("torchvision")
        except ModuleNotFoundError as error:
            if error.name != "torchvision":
                raise

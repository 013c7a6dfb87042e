"""Importing torchvision beside a torch it was not built for.

timm, segmentation-models-pytorch, torchmetrics and ptflops import torchvision, though nothing here calls
one of its compiled operators. A wheel built for CUDA beside the CPU torch cannot load them and then stops
with "operator torchvision::nms does not exist", because it describes two operators that were never defined.
Declaring their schemas (without an implementation) is enough for the import; a call would still fail loudly.
"""

import importlib
import sys
import warnings

from torch.library import Library

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_libraries: list[Library] = []  # a Library that is collected takes its schemas with it


def import_torchvision_safely() -> None:
    """Import torchvision; where exactly its operators are missing, declare them and import again.

    Does nothing where torchvision works, is already imported or isn't installed. Call it before importing
    timm, segmentation_models_pytorch, torchmetrics or ptflops.

    Raises:
        RuntimeError: torchvision fails to import for any other reason (passed on).
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
    with warnings.catch_warnings():  # the same mismatch: the JPEG/PNG reader, unused here, cannot load either
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        try:
            importlib.import_module("torchvision")
        except ModuleNotFoundError as error:
            if error.name != "torchvision":
                raise

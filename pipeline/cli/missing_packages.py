"""The message for a package that is not installed: which extra of this program brings it."""

import re
from importlib.metadata import requires

NAMES = {"sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}  # imported as -> installed as


def install_hint(error: ModuleNotFoundError) -> str | None:
    """What to install for an import that failed; None where no extra of this program has it (a bug, then)."""
    module = (error.name or "").partition(".")[0]
    package = NAMES.get(module, module.replace("_", "-"))
    extra = extra_of(package)
    return extra and f"this needs the package {package}, which is not installed; pip install 'sward[{extra}]'"


def extra_of(package: str) -> str | None:
    """The first extra that names a package, as this program's metadata lists them."""
    for line in requires("sward") or []:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == [\"']([\w-]+)[\"']", line)
        if name and extra and name[0].lower().replace("_", "-") == package:
            return extra[1]
    return None

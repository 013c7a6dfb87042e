"""The package onnxruntime-web: fetched once with npm into the user's cache, checked, and unpacked for an export.

npm fetches it, because npm knows this machine's registry, proxy and certificates; whatever brought the file, its
SHA-512 must be the one that npm published for this version. The package is 33 MB, of which a page needs two files.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from pipeline.export.check import ExportError
from pipeline.export.onnx_student import require_package
from pipeline.files import publish, unpublished, write_atomic
from pipeline.paths import cache_root

VERSION = "1.30.0"  # the one tested; reads the operators of opset 18, which `graph.OPSET` writes
PACKAGE = f"onnxruntime-web@{VERSION}"
FILE = f"onnxruntime-web-{VERSION}.tgz"  # as `npm pack` names it
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
NEEDED = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # WebAssembly only: runs in every browser
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")  # the npm package has none; those of the same project's Python package
SECONDS = 600  # for 33 MB, also over a slow line


def find_runtime(given: Path | None = None) -> Path:
    """The checked package as a .tgz file: the one that is given, the one in the cache, or fetched into the cache.

    Raises:
        ExportError: it is not there and npm cannot fetch it, or it is not the version that was tested.
    """
    path = given or cache_root() / "onnxruntime-web" / FILE
    if given is None and not path.is_file():
        fetch(path)
    if not path.is_file():
        raise ExportError(f"--runtime {path}: no such file; give the file that `npm pack {PACKAGE}` writes")
    if (found := digest(path)) != INTEGRITY:
        remedy = f"give the file that `npm pack {PACKAGE}` writes" if given else "remove it, and export again"
        raise ExportError(f"{path} is not {PACKAGE}: expected SHA-512 {INTEGRITY}, found {found}; {remedy}")
    return path


def fetch(path: Path) -> None:
    """Lets npm write the package to ``path``.

    Raises:
        ExportError: npm is not installed, or failed; says how to bring the file without it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(f"--format web needs {PACKAGE}, and npm is not installed, which fetches it; {elsewhere()}")
    with unpublished(path.with_suffix(".fetched")) as folder:
        try:
            command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
            said = done.stderr.strip() or done.stdout.strip()
        except subprocess.TimeoutExpired:
            said = f"no answer within {SECONDS} s"
        if not (folder / FILE).is_file():
            reason = next((line for line in said.splitlines() if line.strip()), "it said nothing")
            raise ExportError(f"npm could not fetch {PACKAGE} (is there a network? {reason:.200}); {elsewhere()}")
        publish(folder / FILE, path)


def elsewhere() -> str:
    """How to bring the package to a machine that cannot fetch it."""
    return f"run `npm pack {PACKAGE}` on a machine that can, and give its file: --runtime {FILE}"


def digest(path: Path) -> str:
    """SHA-512 of a file in base64, as npm writes it."""
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def unpack(package: Path, folder: Path) -> None:
    """Writes the needed files of the package, and its licences, to a new folder."""
    with tarfile.open(package) as archive:
        for name in NEEDED:
            file = archive.extractfile(f"package/dist/{name}")
            assert file is not None  # the package is the one whose SHA-512 is known
            write_atomic(folder / name, file.read())
    notices = Path(require_package("onnxruntime").__file__).parent
    for name in NOTICES:
        write_atomic(folder / name, (notices / name).read_bytes())

"""Recognises what a file holds by its first bytes, whatever its name says."""

READ = (
    "PNG, JPEG, TIFF, BMP, GIF and WebP are read, .npy as masks; DICOM and NIfTI slices with: "
    "pip install 'sward[medical]'"
)
KNOWN = (  # first bytes, offset, what they mean for people
    (b"<!DOCTYPE", 0, "an HTML page, not a picture: the download failed or asked for a login"),
    (b"<html", 0, "an HTML page, not a picture: the download failed or asked for a login"),
    (b"version https://git-lfs", 0, "a Git LFS pointer; fetch the file itself: git lfs pull"),
    (b"ftyp", 4, "a video or HEIF file; extract its frames as PNG, e.g. ffmpeg -i video.mp4 images/%06d.png"),
    (b"RIFF", 0, "a video or sound file; extract its frames as PNG, e.g. ffmpeg -i video.avi images/%06d.png"),
    (b"\x1a\x45\xdf\xa3", 0, "a video file; extract its frames as PNG, e.g. ffmpeg -i video.mkv images/%06d.png"),
    (b"PK\x03\x04", 0, "a zip archive (or .npz); unpack it and save each array or picture as a file of its own"),
    (b"\x89HDF", 0, "an HDF5 file (or .mat, .nc); save each slice as a PNG or .npy file"),
    (b"MATLAB", 0, "a MATLAB file; save each array as a PNG or .npy file"),
    (b"%PDF", 0, "a PDF; export its pages as PNG"),
    (b"NRRD", 0, "an NRRD file; save each slice as a PNG or .npy file"),
    (b"ObjectType", 0, "a MetaImage header (.mha, .mhd); save each slice as a PNG or .npy file"),
    (b"{", 0, "JSON text; masks are read from LabelMe's (masks: {id}.json) and COCO's (masks: file.json)"),
)


def is_npy(content: bytes) -> bool:
    """Whether it is a NumPy array file."""
    return content.startswith(b"\x93NUMPY")


def is_dicom(content: bytes) -> bool:
    """Whether it is a DICOM file."""
    return content[128:132] == b"DICM"


def is_nifti(content: bytes) -> bool:
    """Whether it is a NIfTI file, packed by gzip or not; every gzip file counts, as pictures are never packed so."""
    return content[344:348] in (b"n+1\0", b"ni1\0") or content.startswith(b"\x1f\x8b")


def unreadable(content: bytes) -> str:
    """What a file is that Pillow cannot identify, and what to do with it."""
    if not content:
        return "the file is empty"
    if not content.strip(b"\0"):
        return "the file holds zeros only: a copy that was cut off"
    for start, offset, meaning in KNOWN:
        if content[offset : offset + len(start)].lower() == start.lower():
            return f"it is {meaning}"
    return f"not a picture, or of a format that is not read; {READ}"

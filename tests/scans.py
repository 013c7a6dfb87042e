"""DICOM and NIfTI files of a slice, as scanners and their tools write them."""

import io
from typing import Any

import numpy as np


def dicom(values: np.ndarray, colours: str = "MONOCHROME2", **more: Any) -> bytes:
    """A DICOM file of (H, W) values; ``more``: further attributes."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, colours, 0
    data.BitsAllocated = data.BitsStored = 8 * values.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    for name, value in more.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nifti(values: np.ndarray) -> bytes:
    import nibabel

    return nibabel.Nifti1Image(values.T, np.eye(4)).to_bytes()

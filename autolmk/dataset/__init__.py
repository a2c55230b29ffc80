"""Raw datasets: dataset.json, the cases of a folder, their images and landmarks.

    DATASET/dataset.json
    DATASET/imagesTr/CASE_0000.ext              one file a channel, or one for all; also a folder with a DICOM series
    DATASET/landmarksTr/CASE.mrk.json           or CASE.fcsv or CASE.csv, or one landmarks.csv for all cases
    DATASET/imagesTs, DATASET/landmarksTs       the same for test cases, both optional

Nothing here needs torch.
"""

from __future__ import annotations

from autolmk.dataset.description import DatasetDescription, LandmarkDescription, Measurement
from autolmk.dataset.opening import Dataset, infer_description, lists_landmarks, missing_description
from autolmk.dataset.raw import TABLE, Case

__all__ = [
    "TABLE",
    "Case",
    "Dataset",
    "DatasetDescription",
    "LandmarkDescription",
    "Measurement",
    "infer_description",
    "lists_landmarks",
    "missing_description",
]

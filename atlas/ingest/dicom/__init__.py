"""DICOM: CT series, and the segmentations and structure sets drawn on them."""

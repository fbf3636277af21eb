"""deid: a batch anonymizer for face datasets."""

__version__ = "0.1.0"

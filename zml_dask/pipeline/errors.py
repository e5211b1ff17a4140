"""What can stop a build as a whole; what stops one record is a row, not an error."""

from __future__ import annotations

from zml_dask.errors import UsageError, ZmlError


class OptionsError(UsageError):
    """A build option is unknown, of the wrong type, or out of range."""


class EmptyCatalogueError(UsageError):
    """The catalogue names no record, so there is nothing to build."""


class LockedError(ZmlError):
    """Another build of the same dataset is at work."""


class LockLostError(ZmlError):
    """Another build took this one's lock over, because this one showed no sign of life."""


class BuildError(ZmlError):
    """The build cannot go on: its storage or its cluster failed. What is staged stays."""


class ScratchFolderError(UsageError):
    """A worker cannot make its scratch folder where the options say."""


class UnknownRecordError(UsageError):
    """The catalogue or the dataset holds no record of that number."""


class UnsupportedRecordsError(UsageError):
    """Records were given that no catalogue of one API can describe."""


class TargetError(UsageError):
    """The dataset's folder is something else, or cannot be used."""


class NotHarvestedError(UsageError):
    """The dataset cannot be updated: it was not built from a harvest."""

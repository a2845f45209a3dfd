"""The package `nir`, which is needed for files and graphs only, and files that may be damaged."""

import os
from typing import Any

# gzip makes at most 1,032 bytes of one.
LARGEST_RATIO = 1040


def library() -> Any:
    """The package `nir`.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise ImportError("dsr.nir: the package nir is not installed; pip install nir") from error
    return nir


def place(path: str | os.PathLike[str]) -> str:
    """A path as users write it: `~` is the home folder."""
    return os.path.expanduser(os.fspath(path))


def read(path: str | os.PathLike[str]) -> Any:
    """The graph of a file, whose path is as `place` has it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no NIR file, or promises more than it holds.
    """
    nir, path = library(), place(path)
    import h5py

    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            _check_sizes(path, file)
        return nir.read(path)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if reason.startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: is no NIR graph: {reason or type(error).__name__}; export it again") from error


def _check_sizes(path: Any, file: Any) -> None:
    """Refuses a dataset that is larger than its bytes can be."""

    def check(name: str, item: Any) -> None:
        if hasattr(item, "nbytes") and item.nbytes > LARGEST_RATIO * (item.id.get_storage_size() + 64):
            held = item.id.get_storage_size()
            raise ValueError(f"{path}: {name} promises {item.nbytes} bytes, and {held} are there; get the file again")

    file.visititems(check)

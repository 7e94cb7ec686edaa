"""Page-locked host memory, which a GPU reads and writes without a detour over the driver's own buffers.

ONNX Runtime's Python gives none for its CUDA provider (only a plug-in's ``memory_info`` names host memory), so numpy's
is locked where it lies, by the CUDA runtime that the provider has loaded.
"""

import contextlib
import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.bundle_info import Array
from export.errors import ExportError

_RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_PAGE = mmap.PAGESIZE
_DEVICE_TO_HOST = 2


def loaded_runtime() -> Any | None:  # noqa: ANN401 - a C library
    """The CUDA runtime that this process has loaded already; None: none, or a system that cannot say."""
    only_loaded = getattr(os, "RTLD_NOLOAD", None)
    if only_loaded is None:
        return None
    for name in _RUNTIMES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name, mode=only_loaded)
    return None


def zeros(shape: Sequence[int], dtype: np.dtype[Any], runtime: Any | None) -> tuple[Array, bool]:  # noqa: ANN401
    """Memory of zeros, and whether it is page-locked; where it cannot be, it is ordinary memory.

    Args:
        shape: Of the array.
        dtype: Of the array.
        runtime: The CUDA runtime (``loaded_runtime``); None: ordinary memory.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    whole = -(-size // _PAGE) * _PAGE
    owner = np.zeros(whole + _PAGE, np.uint8)
    start = -owner.ctypes.data % _PAGE  # whole pages of our own: two arrays cannot lock one page
    pages = owner[start : start + whole]
    array: Array = pages[:size].view(dtype).reshape(shape)
    if runtime is None:
        return array, False
    address = ctypes.c_void_p(pages.ctypes.data)
    if runtime.cudaHostRegister(address, ctypes.c_size_t(whole), ctypes.c_uint(0)):
        runtime.cudaGetLastError()  # else the next to ask for errors takes it for his own
        return array, False
    weakref.finalize(owner, runtime.cudaHostUnregister, address).atexit = False
    return array, True


def fetch(array: Array, address: int, runtime: Any) -> None:  # noqa: ANN401 - a C library
    """Copy from an address on the GPU into page-locked memory.

    Raises:
        ExportError: the GPU fails.
    """
    to, origin, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes)
    code = runtime.cudaMemcpy(to, origin, size, ctypes.c_int(_DEVICE_TO_HOST))
    if code:
        raise ExportError(
            f"CUDA: the answer cannot be copied from the GPU (error {code}); 'rgbt doctor' shows what runs"
        )

"""Tensors in the memory of the driver that is loaded, as another program would lend them by the DLPack protocol; and who reads such."""

import ctypes
import types
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

import numpy

CUDA = ctypes.CDLL("libcuda.so.1")
TAKE = ctypes.pythonapi.PyCapsule_New
TAKE.restype, TAKE.argtypes = ctypes.py_object, [c_void_p, ctypes.c_char_p, c_void_p]
POINT = ctypes.pythonapi.PyCapsule_GetPointer
POINT.restype, POINT.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]
NAME = ctypes.pythonapi.PyCapsule_GetName
NAME.restype, NAME.argtypes = ctypes.c_char_p, [ctypes.py_object]
Deleter = ctypes.CFUNCTYPE(None, c_void_p)
LEGACY, VERSIONED = b"dltensor", b"dltensor_versioned"
TYPES = {"float32": (2, 32), "float64": (2, 64), "float16": (2, 16), "uint8": (1, 8), "int64": (0, 64), "bfloat16": (4, 16)}


class Tensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", c_int32 * 2),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Legacy(Structure):
    _fields_ = [("tensor", Tensor), ("context", c_void_p), ("deleter", Deleter)]


class Versioned(Structure):
    _fields_ = [("version", c_uint32 * 2), ("context", c_void_p), ("deleter", Deleter), ("flags", c_uint64), ("tensor", Tensor)]


def start():
    """Makes the context of device 0 the one of this thread."""
    context = c_void_p()
    assert CUDA.cuInit(0) == 0
    assert CUDA.cuDevicePrimaryCtxRetain(byref(context), 0) == 0
    assert CUDA.cuCtxSetCurrent(context) == 0


def used():
    """Bytes of the device that are taken."""
    free, total = c_size_t(), c_size_t()
    assert CUDA.cuMemGetInfo_v2(byref(free), byref(total)) == 0
    return total.value - free.value


class Lent:
    """An array on the device. `about` changes what its capsules say; `given_back` counts the calls of their deleters."""

    def __init__(self, array, name=VERSIONED, cpu=False, **about):
        start()
        whole = array
        while whole.base is not None:
            whole = whole.base
        whole = numpy.ascontiguousarray(whole)
        address = c_uint64()
        assert CUDA.cuMemAlloc_v2(byref(address), c_size_t(whole.nbytes)) == 0
        assert CUDA.cuMemcpyHtoD_v2(address, c_void_p(whole.ctypes.data), c_size_t(whole.nbytes)) == 0
        self.memory, self.array, self.name, self.whole = address, array, name, whole
        offset = array.ctypes.data - whole.ctypes.data
        steps = [step // array.itemsize for step in array.strides]
        self.about = {"shape": array.shape, "strides": steps, "dtype": str(array.dtype), "device": (2, 0), "offset": offset, **about}
        self.about.setdefault("data", address.value)
        self.given_back, self.streams, self.capsules, self.kept = 0, [], [], []
        if cpu:
            self.detach = lambda: self
            self.cpu = lambda: types.SimpleNamespace(numpy=lambda: array)

    def free(self):
        assert CUDA.cuMemFree_v2(self.memory) == 0

    def __dlpack_device__(self):
        return self.about.get("says", self.about["device"])

    def __dlpack__(self, stream=None, max_version=None):
        self.streams.append(stream)
        if "capsule" in self.about:
            return self.about["capsule"]
        shape, strides = ((c_int64 * len(values))(*values) for values in (self.about["shape"], self.about["strides"] or ()))
        code, bits = TYPES[self.about["dtype"]]
        tensor = Tensor(
            self.about["data"],
            self.about["device"],
            len(shape),
            code,
            bits,
            1,
            shape,
            strides if self.about["strides"] else None,
            self.about["offset"],
        )

        def give_back(_):
            self.given_back += 1

        deleter = Deleter(give_back)
        version = self.about.get("version", (1, 0))
        managed = Legacy(tensor, None, deleter) if self.name == LEGACY else Versioned(version, None, deleter, 0, tensor)
        self.kept.append((managed, shape, strides, deleter))
        capsule = TAKE(ctypes.addressof(managed), self.name, None)
        self.capsules.append(capsule)
        return capsule


class Late(Lent):
    """Written by the reader's stream itself, behind everything that it has to do; until then no value is a number."""

    def __dlpack__(self, stream=None, max_version=None):
        bytes, pinned = c_size_t(self.whole.nbytes), c_void_p()
        assert CUDA.cuMemsetD8_v2(self.memory, c_uint8(255), bytes) == 0
        assert CUDA.cuMemAllocHost_v2(byref(pinned), bytes) == 0
        ctypes.memmove(pinned, self.whole.ctypes.data, self.whole.nbytes)
        assert CUDA.cuMemcpyHtoDAsync_v2(self.memory, pinned, bytes, c_void_p(stream)) == 0
        return super().__dlpack__(stream, max_version)


class Old(Lent):
    """Of a program from before the protocol had versions."""

    def __init__(self, array, **about):
        super().__init__(array, LEGACY, **about)

    def __dlpack__(self, stream=None):
        return super().__dlpack__(stream)


def read(given, versioned=True):
    """Takes what an object lends, as another program would: its values, and what gives it back."""
    start()
    kind, device = given.__dlpack_device__()
    assert (kind, device) == (2, 0)
    capsule = given.__dlpack__(stream=1, max_version=(1, 0)) if versioned else given.__dlpack__(stream=1)
    name, form = (VERSIONED, Versioned) if versioned else (LEGACY, Legacy)
    assert NAME(capsule) == name
    managed = ctypes.cast(POINT(capsule, name), POINTER(form)).contents
    tensor = managed.tensor
    assert tuple(tensor.device) == (2, 0) and (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    shape, strides = tensor.shape[: tensor.ndim], tensor.strides[: tensor.ndim]
    values = numpy.empty(shape, numpy.float32)
    assert [step // 4 for step in values.strides] == strides
    assert CUDA.cuMemcpyDtoH_v2(c_void_p(values.ctypes.data), c_uint64(tensor.data + tensor.byte_offset), c_size_t(values.nbytes)) == 0
    used_name = b"used_" + name
    keep.append(used_name)
    assert ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), used_name) == 0
    return values, lambda: managed.deleter(ctypes.addressof(managed))


keep = []
ctypes.pythonapi.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]

"""Which GPU is whose: Ray gives a worker one through CUDA_VISIBLE_DEVICES, which not every library heeds.

device = claim_gpu("mujoco", "cpu")         # before anything looks for a GPU
"""

from __future__ import annotations

import ctypes
import os
import uuid

import torch

from simulators import SimulatorError

EGL_DEVICE_UUID_EXT = 0x335C
"""What EGL_EXT_device_persistent_id calls a device's UUID."""


def claim_gpu(simulator: str, device: str) -> str:
    """Have `simulator` use the GPU that Ray gave this process; returns the torch device that stands for `device`.

    MuJoCo draws through EGL, which numbers GPUs otherwise and knows no mask: it is told by MUJOCO_EGL_DEVICE_ID. Isaac
    Sim's renderer (2.x) knows no mask either: the mask is taken off, and the device says which.

    Raises:
        SimulatorError: EGL does not know that GPU.
    """
    mine = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
    if not mine:
        return device
    if simulator == "isaac" and mine.isdecimal():
        del os.environ["CUDA_VISIBLE_DEVICES"]
        return f"cuda:{mine}"
    if simulator == "mujoco" and os.environ.get("MUJOCO_GL", "egl") == "egl":
        os.environ["MUJOCO_EGL_DEVICE_ID"] = str(egl_index(own_uuid(), egl_uuids()))
    return device


def own_uuid(index: int = 0) -> str:
    """The UUID of one of this process's GPUs, 32 hexadecimal digits."""
    return uuid.UUID(str(torch.cuda.get_device_properties(index).uuid)).hex  # type: ignore[attr-defined]


def egl_uuids() -> list[str]:
    """The UUIDs of EGL's devices in EGL's order, which is not CUDA's; "" of one that has none, as of Mesa's."""
    import simulators.opengl_platform  # noqa: F401  before MuJoCo

    # isort: split
    from mujoco.egl import egl_ext as EGL

    devices = EGL.eglQueryDevicesEXT()
    address = EGL.eglGetProcAddress("eglQueryDeviceBinaryEXT")
    if not address:
        return [""] * len(devices)
    arguments = (EGL.EGLDeviceEXT, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    query = ctypes.CFUNCTYPE(ctypes.c_uint, *arguments)(address)
    found = []
    for device in devices:
        value, size = ctypes.create_string_buffer(16), ctypes.c_int()
        told = query(device, EGL_DEVICE_UUID_EXT, len(value), value, ctypes.byref(size))
        found.append(value.raw.hex() if told and size.value == len(value) else "")
    return found


def egl_index(own: str, uuids: list[str]) -> int:
    """Which of EGL's devices is the GPU `own`.

    Raises:
        SimulatorError: none is.
    """
    if own in uuids:
        return uuids.index(own)
    if uuids == [""]:  # of one there is no doubt
        return 0
    raise SimulatorError(
        f"none of EGL's {len(uuids)} devices says that it is this worker's GPU, {own}; "
        "--simulator mujoco_warp draws without EGL"
    )

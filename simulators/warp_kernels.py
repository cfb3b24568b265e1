"""Kernels of mujoco_warp.py in Warp's language, which is Python's only by its letters."""
# mypy: ignore-errors

import warp as wp


@wp.kernel
def hold_limits(
    qpos_address: wp.array[int],
    qvel_address: wp.array[int],
    low: wp.array[float],
    high: wp.array[float],
    limit: wp.array[float],
    dt: float,
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
):
    """`scene.hold_limits` for (envs, joints)."""
    env, joint = wp.tid()
    position, velocity = qpos_address[joint], qvel_address[joint]
    speed = qvel[env, velocity]
    held = wp.clamp(speed, -limit[joint], limit[joint])
    qpos[env, position] = wp.clamp(qpos[env, position] + (held - speed) * dt, low[joint], high[joint])
    qvel[env, velocity] = held


@wp.kernel
def note_divergence(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc: wp.array2d[float],
    limit: float,
    diverged: wp.array[bool],
):
    """Mark envs whose joints, of one degree of freedom each, have NaN or values above `limit`."""
    env, dof = wp.tid()
    # the comparisons are false for NaN
    fine = wp.abs(qpos[env, dof]) <= limit and wp.abs(qvel[env, dof]) <= limit and wp.abs(qacc[env, dof]) <= limit
    if not fine:
        diverged[env] = True


@wp.kernel
def pack_depth(drawn: wp.array2d[float], pixel_of_ray: wp.array[int], depth: wp.array2d[wp.uint16]):
    """Distances along the optical axis in m of rays (envs, rays of all cameras) as the pixels' millimetres; 0: none."""
    env, ray = wp.tid()
    depth[env, pixel_of_ray[ray]] = wp.uint16(wp.min(wp.rint(1000.0 * drawn[env, ray]), 65535.0))


@wp.kernel
def pack_ids(
    drawn: wp.array2d[wp.vec2i],
    pixel_of_ray: wp.array[int],
    label_of_geom: wp.array[wp.uint8],
    ids: wp.array2d[wp.uint8],
):
    """Geoms that rays (envs, rays of all cameras) hit, -1 for none, as the pixels' ids."""
    env, ray = wp.tid()
    geom = drawn[env, ray][0]
    label = wp.uint8(0)
    if geom >= 0:
        label = label_of_geom[geom]
    ids[env, pixel_of_ray[ray]] = label


@wp.kernel
def pack_rgb(drawn: wp.array2d[wp.uint32], pixel_of_ray: wp.array[int], rgb: wp.array3d[wp.uint8]):
    """What rays (envs, rays of all cameras) saw, from the low byte B, G, R, A, as the pixels' contiguous R, G, B."""
    env, ray = wp.tid()
    value, pixel = drawn[env, ray], pixel_of_ray[ray]
    rgb[env, pixel, 0] = wp.uint8((value >> wp.uint32(16)) & wp.uint32(255))
    rgb[env, pixel, 1] = wp.uint8((value >> wp.uint32(8)) & wp.uint32(255))
    rgb[env, pixel, 2] = wp.uint8(value & wp.uint32(255))

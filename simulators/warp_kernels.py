"""Kernels of mujoco_warp.py and warp_order.py in Warp's language, which is Python's only by its letters."""
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
def contact_keys(
    world: wp.array[int],
    geoms: wp.array[wp.vec2i],
    number: wp.array[int],
    num_geoms: int,
    keys: wp.array[wp.int64],
):
    """Numbers that sort contacts by env, pair of geoms and number among those of a pair, at most 256."""
    contact = wp.tid()
    pair = wp.int64(world[contact]) * wp.int64(num_geoms) + wp.int64(geoms[contact][0])
    pair = pair * wp.int64(num_geoms) + wp.int64(geoms[contact][1])
    keys[contact] = pair * wp.int64(256) + wp.int64(number[contact])


@wp.kernel
def row_keys(kind: wp.array2d[int], of: wp.array2d[int], keys: wp.array2d[wp.int64]):
    """Numbers that sort rows of constraints (envs, rows) by kind and by what is constrained."""
    env, row = wp.tid()
    keys[env, row] = (wp.int64(kind[env, row]) << wp.int64(32)) + wp.int64(of[env, row])


@wp.kernel
def rank_keys(count: wp.array[int], keys: wp.array2d[wp.int64], order: wp.array2d[int], rank: wp.array2d[int]):
    """The places of the first `count` of each group's keys among them, equal ones in the order in which they stand."""
    group, one = wp.tid()
    num_keys = wp.min(count[group], keys.shape[1])
    if one >= num_keys:
        return
    place = wp.int32(0)
    key = keys[group, one]
    for other in range(num_keys):
        if keys[group, other] < key or (keys[group, other] == key and other < one):
            place += 1
    order[group, place] = one
    rank[group, one] = place


@wp.kernel
def permute(count: wp.array[int], order: wp.array2d[int], before: wp.array3d[int], after: wp.array3d[int]):
    """Put the first `count` things of each group into `order`."""
    group, place, word = wp.tid()
    if place < count[group]:
        after[group, place, word] = before[group, order[group, place], word]


@wp.kernel
def renumber_rows(count: wp.array[int], world: wp.array[int], rank: wp.array2d[int], row: wp.array2d[int]):
    """Have the first `count` contacts point to where their rows of constraints, -1 for none, are now."""
    contact, axis = wp.tid()
    if contact < count[0] and row[contact, axis] >= 0:
        row[contact, axis] = rank[world[contact], row[contact, axis]]


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

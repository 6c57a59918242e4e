"""(config, optimization profiles, shapes) → which profile a batch runs on, and what an engine's tensors are called
in Triton; pure.

profiles: one mapping an optimization profile, input name → (min, opt, max) whole shapes.
"""

# tensorrt.DataType's names → Triton's; what is missing here Triton's Python backend cannot carry.
TYPES = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "HALF": "TYPE_FP16",
    "FLOAT": "TYPE_FP32",
}
NUMPY = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
}


def profiles_of_instance(config, instance_name, count):
    """Indices of the profiles that this instance runs: its group's `profile`, else the first alone.

    An instance is named GROUP_NUMBER, after its group.
    """
    group = instance_name.rpartition("_")[0]
    named = next(
        (g.get("profile", []) for g in config.get("instance_group", []) if g.get("name") == group), []
    )
    indices = [int(name) for name in named] or [0]
    for index in indices:
        if not 0 <= index < count:
            raise RuntimeError(
                f"model '{config['name']}' names optimization profile {index}; the engine has {count}"
            )
    return indices


def fits(profile, shapes):
    """Whether every input's shape lies within the profile."""
    return all(
        len(shape) == len(profile[name][0])
        and all(a <= n <= b for a, n, b in zip(profile[name][0], shape, profile[name][2], strict=True))
        for name, shape in shapes.items()
        if name in profile
    )


def nearest_profile(profiles, allowed, shapes):
    """The allowed profile that takes the shapes with its opt shape nearest to them, as production chooses."""
    usable = [index for index in allowed if fits(profiles[index], shapes)]
    if not usable:
        spans = "; ".join(f"{index}: {_told(profiles[index])}" for index in allowed)
        asked = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise RuntimeError(f"no optimization profile takes {asked}; the instance has {spans}")
    return min(usable, key=lambda index: (_distance(profiles[index], shapes), index))


def largest_batch(profiles, default):
    """The largest first dim that some profile takes for all its inputs; default without profiles."""
    sizes = [min(shape[2][0] for shape in profile.values()) for profile in profiles if profile]
    return max(sizes, default=default)


def _distance(profile, shapes):
    return sum(
        abs(n - best)
        for name, shape in shapes.items()
        if name in profile
        for n, best in zip(shape, profile[name][1], strict=True)
    )


def _told(profile):
    return ", ".join(f"{name} {list(low)}..{list(high)}" for name, (low, _, high) in profile.items())

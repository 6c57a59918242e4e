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


def plan_name(config, compute_capability):
    """The plan's file: of this GPU's compute capability (`9.0`) in cc_model_filenames, else default_model_filename, as
    in production (tensorrt_backend, src/model_state.cc, AutoCompleteConfig)."""
    by_capability = config.get("cc_model_filenames") or {}
    return by_capability.get(compute_capability) or config.get("default_model_filename") or "model.plan"


def first_gpu(config):
    """The GPU that a config is completed on: the first of its first group (AutoCompleteConfig, as above)."""
    groups = config.get("instance_group") or [{}]
    return int((groups[0].get("gpus") or [0])[0])


def profiles_of_model(config, count):
    """Indices of the profiles that some group names, the first alone where none does (GetProfileIndices, as above)."""
    named = {int(name) for group in config.get("instance_group", []) for name in group.get("profile", [])}
    wrong = sorted(index for index in named if not 0 <= index < count)
    if wrong:
        raise RuntimeError(
            f"model '{config['name']}' names optimization profile {wrong[0]}; the engine has {count}"
        )
    return sorted(named) or [0]


def same_dims(engine, config, exact):
    """Whether a config's dims describe the engine's; a dynamic dim on either side takes any (tensorrt_backend,
    src/tensorrt_utils.cc, CompareDimsSupported)."""
    return all(a == b or (-1 in (a, b) and not exact) for a, b in zip(engine, config, strict=True))


def fits(profile, shapes):
    """Whether every input's shape lies within the profile."""
    return all(
        len(shape) == len(profile[name][0])
        and all(a <= n <= b for a, n, b in zip(profile[name][0], shape, profile[name][2], strict=True))
        for name, shape in shapes.items()
        if name in profile
    )


def nearest_profile(profiles, allowed, shapes):
    """The allowed profile that takes the shapes with its opt shape nearest to them, as production chooses and measures
    (tensorrt_backend, src/instance_state.cc, GetMostOptimizedProfile): of several the one with the lowest index."""
    usable = [index for index in allowed if fits(profiles[index], shapes)]
    if not usable:
        spans = "; ".join(f"{index}: {_told(profiles[index])}" for index in allowed)
        asked = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise RuntimeError(f"no optimization profile takes {asked}; the instance has {spans}")
    return min(usable, key=lambda index: (_distance(profiles[index], shapes), index))


def largest_batch(profiles, allowed, default):
    """The largest first dim that some allowed profile takes for all its inputs; default without profiles."""
    sizes = [min(shape[2][0] for shape in profiles[i].values()) for i in allowed if profiles[i]]
    return max(sizes, default=default)


def _distance(profile, shapes):
    """Production's measure (EvaluateTensorRTContext): the first dim against its own, every later one against the dim
    before it. That is how it is written there; the profile that serves a batch follows from it.
    """
    return sum(
        abs(best - (shape[axis - 1] if axis else shape[0]))
        for name, shape in shapes.items()
        if name in profile
        for axis, best in enumerate(profile[name][1])
    )


def _told(profile):
    return ", ".join(f"{name} {list(low)}..{list(high)}" for name, (low, _, high) in profile.items())

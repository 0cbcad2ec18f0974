"""The weights file (safetensors), by which a state crosses to an NHWC framework and back, exactly.

`params/LAYER/NAME`, with Adam the same under `second_moment/`; `count`, int32; kernels [3, 3, in, out] and [in, out].
"""

import torch
from safetensors.torch import load_file, save_file

from reptile_torch_ref.reptile import State

TO_FILE = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # OIHW -> HWIO, [out, in] -> [in, out], by rank
FROM_FILE = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def save(path: str, state: State) -> None:
    """Writes `state`, dtype as it is."""
    tensors = {"count": torch.tensor(state.step_count, dtype=torch.int32)}
    for part, weights in (("params", state.params), ("second_moment", state.second_moment)):
        tensors |= {f"{part}/{name}": w.permute(TO_FILE[w.ndim]).contiguous() for name, w in weights.items()}
    save_file(tensors, path)


def load(path: str) -> State:
    """Reads a state, dtype as stored; after plain SGD its second moment is empty and its count 0."""
    tensors = load_file(path)
    state = State({}, {}, int(tensors.pop("count")))
    for key, w in tensors.items():
        part, name = key.split("/", 1)
        getattr(state, part)[name] = w.permute(FROM_FILE[w.ndim]).contiguous()
    return state

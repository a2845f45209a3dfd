"""Values for tests/optimizer.rs: AdamW, SGD and Adam of PyTorch with bounded gradients and parameters that do not decay.

    python3 golden_updates.py ../../tests/fixtures/updates.json
"""

import json
import sys

import torch

STEPS, LEN, SPARED = 4, 36, range(8, 24)


def run(name, build, clip):
    generator = torch.Generator().manual_seed(7)
    draw = lambda scale: scale * (2 * torch.rand(LEN, generator=generator) - 1)
    start, grads = draw(1.0), [draw(10.0 ** (step - 2)) for step in range(STEPS)]
    # In f64: the test allows what f32 costs.
    values = [torch.nn.Parameter(start[at].double().clone()) for at in range(LEN)]
    decaying = [v for at, v in enumerate(values) if at not in SPARED]
    spared = [values[at] for at in SPARED]
    optimizer = build([{"params": decaying}, {"params": spared, "weight_decay": 0.0}])
    states = []
    for step in range(STEPS):
        for at, value in enumerate(values):
            value.grad = grads[step][at].double().clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(values, clip)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.1 / (step + 1)
        optimizer.step()
        states.append([value.item() for value in values])
    return {"name": name, "clip_norm": clip, "start": start.tolist(), "grads": [g.tolist() for g in grads], "values": states}


sgd = lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.05)
adam = lambda groups: torch.optim.Adam(groups, lr=0.1, weight_decay=0.05)
adamw = lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.05)
cases = [run(f"{name}", build, clip) for name, build in (("sgd", sgd), ("adam", adam), ("adamw", adamw)) for clip in (None, 1.0)]
with open(sys.argv[1], "w") as out:
    json.dump({"torch": torch.__version__, "lr": 0.1, "weight_decay": 0.05, "spared": [SPARED.start, SPARED.stop], "cases": cases}, out)
    out.write("\n")

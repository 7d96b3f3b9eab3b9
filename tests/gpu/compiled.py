"""A keyed model's decode step under torch.compile against the same step run eagerly; arguments: DEVICE BACKEND.

A process of its own (:func:`tests.gpu.bodies.run_compiled`): the shapes that the test process checks at every call
cannot be compiled.
"""

import sys

import torch
from small_models import random_deepseek

import okr
from tests.gpu import bodies

device, backend = sys.argv[1:]
model = random_deepseek(num_hidden_layers=2).to(device)
with okr.watermark(model, bodies.KEY, epsilon=2.0), torch.no_grad():
    once = bodies.RoutersAlone(model, device, 7)
    fast = torch.compile(once, backend=backend, fullgraph=True)
    for lowered in (False, True, False):
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=lowered):
            eager, compiled = once(), fast()
        assert all(map(torch.equal, eager, compiled)), f"routers choose otherwise when compiled (autocast {lowered})"
    step = bodies.decoding.DecodeStep(model, device)
    expected = step()
    step.cache.reset()
    got = torch.compile(step, backend=backend)()
assert torch.allclose(got, expected, atol=1e-3, rtol=1e-3), float((got - expected).abs().max())
print("the same")

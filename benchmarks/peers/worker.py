"""What every peer's script does with its sampler: once in a process of its own, or as often as its parent asks.

    python PEER.py MODEL --once          one call; says the time of day at which the draws were in hand
    python PEER.py MODEL                 one call to compile; then for each line "SEED FILE" of the standard input a
                                         call, whose draws go to FILE (.npz) and whose figures are answered as JSON

`make(model, data)` gives `call(seed) -> (draws by site, figures)`. Figures: steps, the leapfrogs after warm-up;
warmup_steps, those in it, where known; seconds, of the sampler alone, where they are not those of the whole call.
Imports NumPy and the standard library only.
The most memory that the process ever held is added, in MB.
"""

import json
import os
import resource
import sys
import time

import numpy as np
from data import MODELS


def serve(make):
    name = sys.argv[1]
    make_data, sites = MODELS[name]
    # What a sampler prints goes to the standard error; the answers alone go to the parent.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    call = make(name, make_data())
    began, busy = time.perf_counter(), time.process_time()
    call(0)
    first = {"first": time.perf_counter() - began, "first_cpu": time.process_time() - busy}
    answers.write(json.dumps({"ready": time.time(), **first}) + "\n")
    if "--once" in sys.argv:
        answers.flush()
        os._exit(0)
    for line in sys.stdin:
        seed, path = line.split(maxsplit=1)
        began, busy = time.perf_counter(), time.process_time()
        draws, figures = call(int(seed))
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        np.savez(path.strip(), **{site: np.asarray(draws[site]) for site in sites})
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures = {"seconds": seconds, **figures, "call": seconds, "cpu": busy, "memory": memory}
        answers.write(json.dumps(figures) + "\n")

"""How long discovery of the 16B shape takes and what memory it needs, from its configuration alone.

    python bench/discovery.py

Each run is a process of its own; times are CPU time of one thread. ``discovery`` is ``discover_config`` with everything
imported and leaves out the imports; memory is the process's peak, imports included. Prints a Markdown table.
"""

import json
import statistics
import subprocess
import sys

RUNS = 5
MEASURED = """
import json, resource, time
import torch
from okr.discovery import discover_config
from okr.loaders.deepseek import DeepseekConfig, register
torch.set_num_threads(1)
register()
imported = time.process_time()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
sites = discover_config(DeepseekConfig(vocab_size=102400, hidden_size=2048, intermediate_size=10944,
    num_hidden_layers=28, num_attention_heads=16, moe_intermediate_size=1408))
took = time.process_time() - start
assert len(sites) == 27
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([took, imported, peak / 1024, (peak - before) / 1024]))
"""


def main() -> None:
    runs = []
    for _ in range(RUNS):
        done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    names = ("discovery, s", "imports before it, s", "peak memory, MiB", "of it discovery's, MiB")
    print("| what | median | least | most |")
    print("| --- | --- | --- | --- |")
    for name, values in zip(names, zip(*runs, strict=True), strict=True):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()

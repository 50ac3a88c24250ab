"""Kill each model's run at random moments, half of them inside saves, and resume it: 0 bits lost?

    python bench/kill_resume.py                 # 25 kills a model by steps, 6 on the default path
    python bench/kill_resume.py --kills 5

Linux or macOS (it forks). The harness is ``tests/faults/kill_harness.py``.
"""

import argparse
import collections
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HARNESS = Path(__file__).parents[1] / "tests" / "faults" / "kill_harness.py"


def outcomes(path: str, kills: int, seed: int) -> list[dict[str, Any]]:
    command = [sys.executable, str(HARNESS), "--path", path, "--kills", str(kills)]
    done = subprocess.run(
        [*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(outcome: dict[str, Any]) -> str:
    where = collections.Counter(outcome["kills"]).most_common()
    yes = {True: "yes", False: "NO"}
    cells = [
        outcome["model"],
        outcome["path"],
        outcome["steps"],
        len(outcome["kills"]),
        ", ".join(f"{count} {place}" for place, count in where),
        outcome["lost"],
        yes[outcome["losses_equal"]],
        yes[outcome["weights_equal"]],
        f"{outcome['seconds']:.0f} s",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill runs, resume them, print a table.")
    parser.add_argument("--kills", type=int, default=25, help="for each model, by steps")
    parser.add_argument("--default-kills", type=int, default=6, help="on the default path")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    print(f"{platform.platform()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(
        "| model | path | steps | kills | where | runs lost | losses equal | weights equal | time |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    good = True
    for path, kills in (("steps", args.kills), ("default", args.default_kills)):
        for outcome in outcomes(path, kills, args.seed):
            print(row(outcome), flush=True)
            if outcome["error"]:
                print(outcome["error"], file=sys.stderr)
            good &= outcome["losses_equal"] and outcome["weights_equal"] and not outcome["lost"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

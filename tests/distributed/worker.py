"""What each process does in the tests of this folder; a script for torchrun, and importable.

torchrun --standalone --nproc-per-node 2 worker.py jobs.json
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ensue.errors import StoppedError
from ensue.training import session
from ensue.training.config import config_from_dict
from ensue.training.loop import Loop


def read(batch: Any) -> Any:
    """Give the ids that a model reads."""
    return batch.tokens if hasattr(batch, "tokens") else batch.inputs


def run_job(job: dict[str, Any]) -> None:
    """Train as a job says: ``config``, ``out``, and the step to stop or to die at."""
    rank = int(os.environ.get("RANK", "0"))
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1
    rows: list[Any] = []

    class Watched(Loop):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            batches = self.task.batches

            def noted(*place: int) -> list[Any]:
                given = batches(*place)
                if self.run.plan_path.exists():  # else it is being measured
                    rows.append([row.tolist() for batch in given for row in read(batch)])
                return given

            self.task.batches = noted

        def update(self) -> dict[str, Any]:
            restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
            if self.done + 1 == job.get("die") and rank == last and not restarts:
                os.kill(os.getpid(), signal.SIGKILL)
            record = super().update()
            if self.done == job.get("stop") and rank == last:  # one is told, all stop
                os.kill(os.getpid(), signal.SIGTERM)
            return record

    session.Loop = Watched  # type: ignore[misc]
    try:
        session.train(config_from_dict(job["config"], "job"), job["out"])
    except StoppedError:
        assert "stop" in job
    finally:
        session.Loop = Loop  # type: ignore[misc]
    if rows:
        Path(job["out"], f"rows-{rank}.json").write_text(json.dumps(rows))


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run_job(job)


if __name__ == "__main__":
    main()

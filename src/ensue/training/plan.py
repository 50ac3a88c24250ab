"""The frozen plan: all that was chosen or measured before step 0.

It is written and flushed before the first update, and a resume repeats it: a second measurement
would choose otherwise, and the bits would differ. One thing may change while a run goes on: with a
time budget the number of updates is fitted to the clock now and then. Each fit is written here
before it takes effect, so a resume repeats that too.
"""

import platform
from dataclasses import dataclass, replace
from typing import Any

import torch

from ensue import __version__
from ensue.config import from_dict, to_dict, to_toml
from ensue.errors import RunError
from ensue.files import write_atomic
from ensue.runs import Run
from ensue.training.config import RunConfig, config_from_dict, config_to_dict


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What must be the same for two runs of one plan to agree to the last bit."""

    processor: str
    """Architecture."""
    capability: str
    """Vector instructions that torch uses here, or the GPU."""
    torch_version: str
    """Version of torch."""
    world_size: int
    """Processes."""

    @classmethod
    def here(cls, device: torch.device, world_size: int) -> "Machine":
        """Describe this machine."""
        if device.type == "cuda":
            capability = torch.cuda.get_device_name(device)
        else:
            capability = torch.backends.cpu.get_cpu_capability()
        return cls(
            processor=platform.machine(),
            capability=capability,
            torch_version=torch.__version__,
            world_size=world_size,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run as it will be carried out."""

    request: dict[str, Any]
    """What was asked for, with its zeros: the same command again must ask for the same."""
    config: RunConfig[Any]
    """The same with everything chosen: steps, sizes, precision, threads."""
    corpus: str
    """Fingerprint of the text and its tokenizer."""
    valid_text: str
    """SHA-256 of the validation text."""
    parameters: int
    """Weights of the model."""
    flops_per_step: float
    """By the model's formula."""
    seconds_per_step: float
    """As measured while planning; 0 where nothing was measured."""
    budget_seconds: float = 0.0
    """The time to keep; 0: the number of updates stands."""
    fit_every: int = 0
    """Updates between two fits to that time."""
    fits: tuple[tuple[int, int], ...] = ()
    """What was fitted: (updates done, updates in all as planned until then)."""
    final_eval_tokens: int
    """Tokens of the validation split that the last evaluation reads."""
    machine: Machine
    """Where it was made."""
    version: str = __version__
    """Of ensue."""
    start: str = ""
    """SHA-256 of the weights that it begins with; empty: they are drawn."""
    notes: tuple[str, ...] = ()
    """What was guessed, chosen and skipped, for the model card."""

    def fitted(self, done: int, steps: int) -> "Plan":
        """Move the end of the run, after so many updates."""
        config = replace(self.config, steps=steps)
        return replace(self, config=config, fits=(*self.fits, (done, self.config.steps)))

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {**to_dict(self), "config": config_to_dict(self.config), "request": self.request}

    def write(self, run: Run) -> None:
        """Freeze it: the plan comes last, so that whoever finds one finds the config it means."""
        write_atomic(run.config_path, to_toml(config_to_dict(self.config)))
        run.write_plan(self.to_json())

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> "Plan":
        """Read what `to_json` gave; what does not fit is a RunError."""
        try:
            return cls(
                **{
                    **values,
                    "config": config_from_dict(values["config"], where),
                    "machine": from_dict(Machine, values["machine"], where),
                    "notes": tuple(values["notes"]),
                    "fits": tuple((int(at), int(end)) for at, end in values["fits"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{where}: not a plan of this version of ensue: {error}") from error

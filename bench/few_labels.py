"""What filling in masked words beforehand is worth, by the number of labels.

The same network, with first weights drawn and with those of a run that learnt to fill in
(``ensue train wikitext-2 texts… --task mlm``), is trained on all of the labels of SST-2, TREC-6 and
Banking77, a tenth and a fiftieth, three times each: every seed draws its own labels, of each class
the same share. Beside them the floor, a linear model on TF-IDF, on the same labels. Weights are
kept by what is right on the validation set; test is read once by each run.

    python bench/few_labels.py RUN --data FOLDER --out runs/few --seeds 3
    python bench/few_labels.py RUN --data FOLDER --out runs/few --table   # of what is there

Further flags are those of ensue train. FOLDER holds ``sst2``, ``trec`` and ``banking77`` as
published. Finished runs are kept: the same command goes on. Prints the table as Markdown.
"""

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ensue.data.labelled import LabelledConfig, prepare_labelled
from ensue.linear import label_floors
from ensue.runs import Run

SHARES = {"100 %": 1.0, "10 %": 0.1, "2 %": 0.02}
SETS = ("sst2", "trec", "banking77")
ARMS = ("drawn", "filled in")
UPDATES = {"100 %": 0, "10 %": 300, "2 %": 200}
"""Updates of a run; 0: four readings of its texts."""
Row = dict[str, str]


def read(folder: Path, name: str) -> dict[str, list[Row]]:
    """Read the splits of a set; where no validation set is published, a tenth of train is one."""
    if name == "sst2":
        found = {of: _tsv(folder / f"sst2/{of}.tsv") for of in ("train", "dev", "test")}
        return {"train": found["train"], "valid": found["dev"], "test": found["test"]}
    if name == "trec":
        files = {"train": "train_5500.label", "test": "TREC_10.label"}
        splits = {of: _lines(folder / "trec" / file) for of, file in files.items()}
    else:
        splits = {of: _table(folder / f"banking77/{of}.csv") for of in ("train", "test")}
    learnt = splits["train"]
    kept = set(sample(learnt, 0.9, 12345))
    return {
        "train": [row for i, row in enumerate(learnt) if i in kept],
        "valid": [row for i, row in enumerate(learnt) if i not in kept],
        "test": splits["test"],
    }


def _tsv(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [dict(zip(("text", "label"), line.split("\t"), strict=True)) for line in lines]


def _lines(path: Path) -> list[Row]:
    rows = (line.split(" ", 1) for line in path.read_text(encoding="latin-1").splitlines())
    return [{"label": label.partition(":")[0], "text": text} for label, text in rows]


def _table(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{"text": r["text"], "label": r["category"]} for r in csv.DictReader(file)]


def sample(rows: list[Row], share: float, seed: int) -> list[int]:
    """Draw the same share of each class, one example at least; gives the places, in order."""
    of: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        of[row["label"]].append(i)
    draw = random.Random(seed)
    kept = [
        i
        for label in sorted(of)
        for i in draw.sample(of[label], max(1, round(share * len(of[label]))))
    ]
    return sorted(kept)


def write(path: Path, rows: list[Row]) -> Path:
    """Write rows as a table that ensue reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Bench:
    """All runs of the table.

    Args:
        args: Of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, Path(args.out)

    def one(self, name: str, share: str, seed: int) -> None:
        """Train and score both arms and the floor on one sample of the labels of one set."""
        where = self.out / name / share.replace(" %", "") / str(seed)
        if (where / "result.json").exists():
            return
        splits = read(Path(self.args.data), name)
        places = sample(splits["train"], SHARES[share], seed)
        rows = [splits["train"][i] for i in places]
        files = {
            "train": write(where / "train.jsonl", rows),
            "valid": write(where / "valid.jsonl", splits["valid"]),
            "test": write(where / "test.jsonl", splits["test"]),
        }
        found: dict[str, Any] = {"labels": len(rows)}
        for arm in ARMS:
            run = where / arm.replace(" ", "-")
            self._train(files, run, arm, share, seed, len(rows))
            test = json.loads(self._run("evaluate", run, "--json", "--data", files["test"]))
            found[arm] = {
                "valid": Run(run).read_metrics()[-1]["accuracy"],
                "test": test["score"]["accuracy"],
                "looks": test["looks"],
            }
        config = LabelledConfig(sources=(str(files["train"]),), valid=(str(files["test"]),))
        texts = prepare_labelled(config, lambda *_: None)
        floor = label_floors(texts.train, texts.valid, len(texts.classes))[-1]
        found["floor"] = {"test": floor.accuracy, "name": floor.name}
        (where / "result.json").write_text(json.dumps(found) + "\n")
        sys.stdout.write(f"{name} {share} {seed}: {json.dumps(found)}\n")
        sys.stdout.flush()

    def _train(
        self, files: dict[str, Path], out: Path, arm: str, share: str, seed: int, rows: int
    ) -> None:
        run, batch = self.args.run, 32 if rows >= 256 else 16
        steps = UPDATES[share] or 4 * rows // batch
        words: list[object] = ["train", files["train"], "--valid", files["valid"], "--out", out]
        words += ["--task", "classify", "--seed", seed, "--steps", steps]
        words += ["--train.global-batch-size", batch, *self.args.settings]
        if arm == "filled in":
            words += ["--from", run]
        else:
            plan = json.loads((Path(run) / "plan.json").read_text())
            shape = plan["config"]["model"]
            words += ["--model", "bert", "--tokenizer", Path(run) / "tokenizer.json"]
            for key in ("context_length", "d_model", "num_layers", "num_heads"):
                words += [f"--model.{key.replace('_', '-')}", shape[key]]
            words += ["--size", plan["config"]["size"]]
        self._run(*words)

    def _run(self, *words: object) -> str:
        command = [sys.executable, "-m", "ensue.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        return done.stdout

    def table(self) -> str:
        """Write what is there as Markdown: means over seeds, and their standard deviation."""
        heads = "| set | labels | drawn | filled in before | gain | TF-IDF and a linear model |"
        lines = [heads, "|---|---|---|---|---|---|"]
        for name in SETS:
            for share in SHARES:
                paths = sorted((self.out / name / share.replace(" %", "")).glob("*/result.json"))
                found = [json.loads(path.read_text()) for path in paths]
                if not found:
                    continue
                cells = [_spread([f[arm]["test"] for f in found]) for arm in (*ARMS, "floor")]
                gain = _spread([f[ARMS[1]]["test"] - f[ARMS[0]]["test"] for f in found])
                labels = f"{share} ({found[0]['labels']:,})"
                row = [name, labels, cells[0], cells[1], gain, cells[2]]
                lines.append(f"| {' | '.join(row)} |")
        return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="of the task mlm, finished")
    parser.add_argument("--data", required=True, help="folder of the sets")
    parser.add_argument("--out", default="runs/few")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--shares", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--table", action="store_true", help="only print it")
    args, args.settings = parser.parse_known_args()  # what it does not know is for ensue train
    bench = Bench(args)
    if not args.table:
        for share in reversed(args.shares):
            for seed in range(args.seeds):
                for name in args.sets:
                    bench.one(name, share, seed)
    sys.stdout.write(bench.table())


if __name__ == "__main__":
    main()

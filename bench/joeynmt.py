"""JoeyNMT on the pairs, pieces, size and threads of a run of ours, for as many updates as asked.

    python bench/joeynmt.py RUN --python VENV/bin/python --updates 2860 --out DIR

VENV has joeynmt (measured: 2.3.0 with torch 2.13; it wants importlib_metadata too). RUN is a run of
seq2seq_attention or transformer. JoeyNMT gets the ids of RUN's tokenizer as words, one vocabulary
for both sides with tied embeddings, and the model's widths. Adam, warm-up of 300 updates to 1e-3,
then by the inverse square root; updates of 1,024 tokens, padding included; label smoothing 0.1; the
Transformer with pre-norm: of what was tried its best in this time. Both are scored alike: beam
search of 5 on the validation pairs, sacreBLEU. The environment's OMP_NUM_THREADS holds for JoeyNMT.
"""

import argparse
import gzip
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ensue.bleu import corpus_score
from ensue.runs import Run
from ensue.tokenizers import Tokenizer, load_tokenizer

SPECIAL = {"unk": "<unk>", "pad": "<pad>", "bos": "<s>", "eos": "</s>"}


def lines_of(path: str) -> list[str]:
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def write_ids(out: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    data = config["data"]
    for split, prefix in (("train", ""), ("dev", "valid_")):
        for side in ("src", "tgt"):
            (path,) = data[f"{prefix}{side}"]
            rows = [" ".join(map(str, tokenizer.encode(line))) for line in lines_of(path)]
            (out / f"{split}.{side}").write_text("".join(f"{row}\n" for row in rows))
    words = [*SPECIAL.values(), *map(str, range(tokenizer.vocab_size))]
    (out / "vocab.txt").write_text("".join(f"{word}\n" for word in words))


def transformer(model: dict[str, Any]) -> dict[str, Any]:
    width = model["d_model"]
    layer = {
        "type": "transformer",
        "num_layers": model["num_layers"],
        "num_heads": model["num_heads"],
        "hidden_size": width,
        "ff_size": model["d_ff"] or 4 * width,
        "dropout": 0.1,
        "layer_norm": "pre",
        "activation": "relu",
        "embeddings": {"embedding_dim": width, "scale": True, "dropout": 0.1},
    }
    return {
        "initializer": "xavier_uniform",
        "embed_initializer": "xavier_uniform",
        "encoder": dict(layer),
        "decoder": dict(layer),
    }


def recurrent(model: dict[str, Any]) -> dict[str, Any]:
    width = model["d_model"]
    layer = {
        "type": "recurrent",
        "rnn_type": "lstm",
        "num_layers": 1,
        "dropout": 0.2,
        "embeddings": {"embedding_dim": width, "scale": False, "dropout": 0.2},
    }
    asking = {"hidden_dropout": 0.2, "input_feeding": True, "init_hidden": "bridge"}
    return {
        "initializer": "xavier_uniform",
        "embed_initializer": "normal",
        "embed_init_weight": 0.1,
        "init_rnn_orthogonal": True,
        "lstm_forget_gate": 1.0,
        # 5/6 of the width: as many weights as ours have.
        "encoder": layer | {"bidirectional": True, "hidden_size": width * 5 // 6},
        "decoder": layer | asking | {"hidden_size": width, "attention": "luong"},
    }


def recipe(out: Path, model: dict[str, Any], updates: int) -> dict[str, Any]:
    def side(name: str) -> dict[str, Any]:
        vocabulary = {"voc_file": str(out / "vocab.txt"), "voc_min_freq": 1, "voc_limit": 10**6}
        text = {"lang": name, "level": "word", "lowercase": False, "max_length": 256}
        return text | vocabulary | {"tokenizer_type": "basic"}

    special = {f"{key}_token": word for key, word in SPECIAL.items()}
    special |= {f"{key}_id": i for i, key in enumerate(SPECIAL)}
    recurs = model["name"] == "seq2seq_attention"
    return {
        "name": out.name,
        "joeynmt_version": "2.3.0",
        "model_dir": str(out / "model"),
        "use_cuda": False,
        "random_seed": 42,
        "data": {
            "train": str(out / "train"),
            "dev": str(out / "dev"),
            "dataset_type": "plain",
            "src": side("src"),
            "trg": side("tgt"),
            "special_symbols": special,
        },
        "testing": {
            "beam_size": 5,
            "beam_alpha": 1.0,
            "batch_size": 512,
            "batch_type": "token",
            "max_output_length": 100,
            "eval_metrics": ["bleu"],
        },
        "training": {
            "overwrite": True,
            "optimizer": "adam",
            "adam_betas": [0.9, 0.999 if recurs else 0.98],
            "learning_rate": 1e-3,
            "scheduling": "warmupinversesquareroot",
            "learning_rate_warmup": 300,
            "normalization": "tokens",
            "batch_size": 1024,
            "batch_type": "token",
            "loss": "crossentropy",
            "label_smoothing": 0.1,
            "clip_grad_norm": 1.0,
            "early_stopping_metric": "loss",
            "updates": updates,
            "epochs": 10**6,
            "validation_freq": updates,
            "logging_freq": max(1, updates // 20),
            "print_valid_sents": [0],
        },
        "model": {"tied_embeddings": True, "tied_softmax": True, "bias_initializer": "zeros"}
        | (recurrent(model) if recurs else transformer(model)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--python", required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = Run.open(args.run)
    config = run.read_plan()["config"]
    tokenizer = load_tokenizer(run.tokenizer_path)
    write_ids(out, config, tokenizer)
    settings = out / "config.yaml"  # JSON is YAML
    settings.write_text(json.dumps(recipe(out, config["model"], args.updates), indent=1))
    joey = [args.python, "-m", "joeynmt"]
    begun = time.monotonic()
    subprocess.run([*joey, "train", str(settings), "--skip-test"], check=True)
    minutes = (time.monotonic() - begun) / 60
    subprocess.run([*joey, "test", str(settings), "--output-path", str(out / "said")], check=True)

    log = (out / "model" / "train.log").read_text(encoding="utf-8")
    speeds = sorted(int(n) for n in re.findall(r"Tokens per Sec: +(\d+)", log))
    (weights,) = set(re.findall(r"Total params: (\d+)", log))
    rows = [[int(i) for i in row.split() if i.isdigit()] for row in lines_of(str(out / "said.dev"))]
    said = [tokenizer.decode(row).strip() for row in rows]
    wanted = lines_of(config["data"]["valid_tgt"][0])
    print(f"JoeyNMT: {int(weights):,} weights, {args.updates:,} updates in {minutes:.1f} min,")
    print(f"its validation included; {speeds[len(speeds) // 2]} target tokens/s (median)")
    for name in ("BLEU lower-cased", "BLEU"):
        measure = corpus_score(name, said, wanted)
        print(f"{measure.name}: {measure.value:.2f}  {measure.signature}")


if __name__ == "__main__":
    main()

"""Dialogues: every form gives the same turns, bad ones are said, and none is on both sides."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue.data.dialogues import (
    DialogueConfig,
    DialogueCorpus,
    DialogueTokens,
    context_of,
    contexts,
    longest_side,
    prepare_dialogues,
)
from ensue.data.turns import is_talk
from ensue.errors import DataError, EnsueError
from ensue.tokenizers import load_tokenizer, train_tokenizer

Talks = list[list[str]]


def made(count: int = 60) -> Talks:
    """Dialogues of two to six turns; no two turns are alike."""
    return [[f"turn {i} number {j}" for j in range(2 + i % 5)] for i in range(count)]


def write(path: Path, talks: Talks) -> str:
    """Write dialogues in the form that the file's name asks for."""
    rows = [messages(talk) for talk in talks]
    match path.name.split(".", 1):
        case ["messages", "jsonl"]:
            lines = [json.dumps({"id": 7, "messages": row}) for row in rows]
        case ["sharegpt", "jsonl"]:
            names = {"user": "human", "assistant": "gpt"}
            lines = [
                json.dumps(
                    {
                        "conversations": [
                            {"from": names[t["role"]], "value": t["content"]} for t in r
                        ]
                    }
                )
                for r in rows
            ]
        case ["lists", "jsonl"]:
            lines = [json.dumps({"dialog": talk}) for talk in talks]
        case [_, "json"]:
            lines = [json.dumps([{"messages": row} for row in rows], indent=1)]
        case ["pairs", "tsv"]:
            pairs = [f"{a}\t{b}" for t in talks for a, b in pairwise(t)]
            lines = ["question\tanswer", *pairs]
        case ["eou", "txt"]:
            lines = [" __eou__ ".join(talk) for talk in talks]
        case _:
            lines = ["\n".join([*talk, ""]) for talk in talks]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def messages(talk: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(talk)]


def prepare(root: Path, *sources: str, **options: Any) -> DialogueCorpus:
    config = DialogueConfig(
        sources=sources, cache=str(root / "cache"), **({"tokenizer": "byte"} | options)
    )
    return prepare_dialogues(
        config,
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
        on_progress=lambda *_: None,
    )


def rows(corpus: DialogueCorpus, split: DialogueTokens, turns: int = 9) -> list[tuple[str, ...]]:
    """Decode the contexts of a split with their replies."""
    tokenizer = load_tokenizer(corpus.tokenizer_path)
    pairs, _ = split.pairs(turns, 1000)
    found = []
    for row in range(len(pairs)):
        turn, said = [], list[str]()
        for token in [*pairs.src_ids(row), *pairs.tgt_ids(row)]:
            turn.append(token)
            if token == tokenizer.eos_id:
                said.append(tokenizer.decode(turn))
                turn = []
        assert not turn
        found.append(tuple(said))
    return found


def both(corpus: DialogueCorpus, turns: int = 9) -> list[tuple[str, ...]]:
    return sorted(rows(corpus, corpus.train, turns) + rows(corpus, corpus.valid, turns))


PLAIN = ["lists.jsonl", "pairs.tsv", "eou.txt", "plain.txt"]
ROLES = ["messages.jsonl", "sharegpt.jsonl", "document.json"]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_turns_are_each_a_reply_but_the_first(tmp_path: Path, name: str) -> None:
    talks = made()
    expected = [tuple(talk[: i + 1]) for talk in talks for i in range(1, len(talk))]
    assert both(prepare(tmp_path, write(tmp_path / name, talks))) == sorted(expected)


@pytest.mark.parametrize("name", ROLES)
def test_only_the_assistants_turns_are_replies(tmp_path: Path, name: str) -> None:
    talks = made()
    expected = [tuple(talk[: i + 1]) for talk in talks for i in range(1, len(talk), 2)]
    assert both(prepare(tmp_path, write(tmp_path / name, talks))) == sorted(expected)


@pytest.mark.parametrize("name", [*PLAIN, *ROLES])
def test_a_file_of_talk_is_known_by_its_look(tmp_path: Path, name: str) -> None:
    """But for plain turns, which look like any text."""
    assert is_talk(write(tmp_path / name, made())) == (name != "plain.txt")


def test_other_files_are_no_talk(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    table.write_text("src\ttgt\na\tb\n")
    (tmp_path / "b.jsonl").write_text('{"text": "a book"}\n')
    (tmp_path / "c.jsonl").write_text("not JSON\n")
    for name in ("a.tsv", "b.jsonl", "c.jsonl", "none.jsonl", ".", "a" * 300):
        assert not is_talk(str(tmp_path / name))


def test_a_first_dialogue_longer_than_what_is_looked_at_is_known(tmp_path: Path) -> None:
    """Of a line that was cut nothing can be parsed: such a file was taken for plain text."""
    for name in ("messages.jsonl", "sharegpt.jsonl"):
        talks = [["why? " * 20_000, "because"], *made(3)]
        assert is_talk(write(tmp_path / name, talks))


def test_a_context_is_the_last_turns_and_no_more(tmp_path: Path) -> None:
    corpus = prepare(tmp_path, write(tmp_path / "plain.txt", made()))
    for told in both(corpus, turns=2):
        assert len(told) in (2, 3)
    assert max(map(len, both(corpus))) == 6


def test_dialogues_are_parted_and_not_their_turns(tmp_path: Path) -> None:
    """A turn of a dialogue in valid was learnt by heart from the same dialogue in train."""
    corpus = prepare(tmp_path, write(tmp_path / "plain.txt", made(200)), valid_fraction=0.2)
    sides = [{t for row in rows(corpus, s) for t in row} for s in (corpus.train, corpus.valid)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert "40 of 200 dialogues" in "\n".join(corpus.notes)


def test_two_answers_to_one_question_are_on_one_side(tmp_path: Path) -> None:
    talks = [[f"what is {i}", f"{i} is {kind}"] for i in range(100) for kind in ("odd", "good")]
    corpus = prepare(tmp_path, write(tmp_path / "pairs.tsv", talks), valid_fraction=0.2)
    asked = [{row[0] for row in rows(corpus, s)} for s in (corpus.train, corpus.valid)]
    assert not asked[0] & asked[1]
    assert len(rows(corpus, corpus.valid)) == 40


def test_what_validates_is_not_learnt_from(tmp_path: Path) -> None:
    talks = made(30)
    train = write(tmp_path / "plain.txt", talks)
    valid = write(tmp_path / "eou.txt", talks[:3])
    corpus = prepare(tmp_path, train, valid=(valid,))
    assert {row[0] for row in rows(corpus, corpus.valid)} == {t[0] for t in talks[:3]}
    assert not {row[0] for row in rows(corpus, corpus.train)} & {t[0] for t in talks[:3]}
    assert "3 dialogues left out whose replies answer what" in "\n".join(corpus.notes)


@pytest.mark.parametrize(
    ("name", "role"),
    [("HUMAN", "user"), ("prompter", "user"), ("Bot", "assistant"), (" gpt ", "assistant")],
)
def test_roles_have_many_names(tmp_path: Path, name: str, role: str) -> None:
    other = "assistant" if role == "user" else "user"
    talk = [{"role": (name, other)[i % 2], "content": f"turn {i}"} for i in range(4)]
    lines = []
    for i in range(40):
        begun = {"role": name, "content": f"so {i}"}
        lines.append(json.dumps({"messages": [begun, *talk[1:]]}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    replies = {row[-1] for row in both(prepare(tmp_path, str(tmp_path / "a.jsonl")))}
    assert replies == ({"turn 1", "turn 3"} if role == "user" else {"turn 2"})


USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
BAD: dict[str, tuple[Any, str]] = {
    "unknown role": ([USER, {"role": "narrator", "content": "c"}], "unknown role"),
    "one turn": ([BOT], "of one turn"),
    "no turns": ([], "without turns"),
    "twice": ([USER, USER, BOT], "out of order"),
    "late system": ([USER, BOT, {"role": "system", "content": "c"}], "out of order"),
    "empty": ([USER, {"role": "assistant", "content": " \n"}], "with an empty turn"),
    "nothing": ([USER, {"role": "assistant", "content": None}], "that is not text"),
    "picture": ([USER, {"role": "assistant", "content": [{"image": "x"}]}], "that is not text"),
    "number": ([USER, 3], "that is not text"),
    "nobody answers": ([BOT, USER], "in which nobody answers"),
    "no list": ("hello", "without a list of turns"),
}


def test_bad_dialogues_are_left_out_counted_and_said_with_their_place(tmp_path: Path) -> None:
    """One odd role name must not reject a whole file, nor be learnt from in silence."""
    lines = [json.dumps({"messages": messages(talk)}) for talk in made(40)]
    lines += [json.dumps({"messages": row}) for row, _ in BAD.values()] + ["{not json", "", "3"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = prepare(tmp_path, str(tmp_path / "a.jsonl"))
    assert {row[0] for row in both(corpus)} == {talk[0] for talk in made(40)}
    notes = "\n".join(corpus.notes)
    assert "1 dialogues left out with an unknown role (the first: a.jsonl:41 'narrator')" in notes
    assert (
        "2 dialogues left out whose turns are out of order (the first: a.jsonl:44 user tw" in notes
    )
    assert "1 dialogues left out that are not JSON (the first: a.jsonl:52)" in notes
    assert "a.jsonl:54" in notes
    for _, words in BAD.values():
        assert words in notes


def test_ten_of_each_reason_are_named_on_one_line(tmp_path: Path) -> None:
    """Three were, and nothing said that there were more."""
    bad = [BAD["one turn"][0]] * 13 + [BAD["empty"][0]] * 10
    lines = [json.dumps({"messages": row}) for row in [*map(messages, made(40)), *bad]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    notes = prepare(tmp_path, str(tmp_path / "a.jsonl")).notes
    places = [f"a.jsonl:{number}" for number in range(41, 64)]
    ten = ", ".join(places[:10])
    assert f"13 dialogues left out of one turn (the first: {ten} and 3 more)" in notes
    ten = ", ".join(places[13:])
    assert f"10 dialogues left out with an empty turn (the first: {ten})" in notes


def test_where_nothing_is_left_the_reasons_are_the_error(tmp_path: Path) -> None:
    lines = [json.dumps({"messages": row}) for row, _ in BAD.values()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"no dialogue is left\n.*'narrator'") as caught:
        prepare(tmp_path, str(tmp_path / "a.jsonl"))
    assert '{"role": "user"' in caught.value.hint


def test_doubles_and_parts_of_text_and_a_system_turn(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be kind"}
    parts = {"role": "assistant", "content": [{"type": "text", "text": "so"}, {"text": "it is"}]}
    rows_ = [[system, {"role": "user", "content": f"is {i}"}, parts] for i in range(40)]
    lines = [json.dumps({"messages": row}) for row in [*rows_, *rows_[:5]]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = prepare(tmp_path, str(tmp_path / "a.jsonl"))
    expected = sorted(("be kind", f"is {i}", "so it is") for i in range(40))
    assert both(corpus) == expected
    assert "5 dialogues left out seen before" in "\n".join(corpus.notes)


def test_a_document_may_be_one_dialogue_and_must_be_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for value in ({"messages": messages(made()[4])}, messages(made()[4])):
        file.write_text(json.dumps(value))
        with pytest.raises(DataError, match="1 dialogues are too few to hold out"):
            prepare(tmp_path, str(file))
    file.write_text('{"messages": [')
    with pytest.raises(DataError, match="not a JSON document"):
        prepare(tmp_path, str(file))


def test_spaces_before_commas_are_taken_out_where_they_are_the_rule(tmp_path: Path) -> None:
    """Nobody types ``you ?``: such a model never saw what it is asked."""
    talks = [[f"Do you , {i} , agree ?", "No , I don ’ t . Why ( 3 ) ?"] for i in range(40)]
    corpus = prepare(tmp_path, write(tmp_path / "eou.txt", talks))
    assert ("Do you, 3, agree?", "No, I don’t. Why ( 3)?") in both(corpus)
    assert "the spaces that stand before commas" in "\n".join(corpus.notes)
    tidy = [[f"Tu viens {i}, toi, ou pas ?", "Non, pas moi."] for i in range(40)]
    corpus = prepare(tmp_path, write(tmp_path / "plain.txt", tidy))
    assert sorted(map(tuple, tidy)) == both(corpus)


def test_bytes_are_those_of_the_replies(tmp_path: Path) -> None:
    """Bits per byte would be of the user's words too."""
    talks = [[f"frage nummer {i} mit vielen wörtern", f"ja {i} ü"] for i in range(40)]
    corpus = prepare(tmp_path, write(tmp_path / "messages.jsonl", talks), tokenizer="char")
    for split in (corpus.train, corpus.valid):
        pairs, left_out = split.pairs(4, 1000)
        replies = [row[-1] for row in rows(corpus, split)]
        assert pairs.tgt_bytes == sum(len(reply.encode()) for reply in replies)
        assert (pairs.tgt_unspelt_bytes, left_out) == (0, 0)
    own = [["frage ☃", "ja ☃"] for _ in range(3)]
    valid = write(tmp_path / "plain.txt", [[*talk, str(i)] for i, talk in enumerate(own)])
    train = str(tmp_path / "messages.jsonl")
    corpus = prepare(tmp_path, train, valid=(valid,), tokenizer="char")
    pairs, _ = corpus.valid.pairs(4, 1000)
    assert pairs.tgt_unspelt_bytes == 9
    assert corpus.valid.tokens.unspelt_bytes == 18


def test_who_speaks_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """The same words by others: a resume went on with other replies."""
    talks = made(40)
    plain = prepare(tmp_path, write(tmp_path / "lists.jsonl", talks))
    roles = prepare(tmp_path, write(tmp_path / "messages.jsonl", talks))
    assert plain.train.tokens.fingerprint == roles.train.tokens.fingerprint
    assert plain.fingerprint != roles.fingerprint


def test_contexts_hold_whole_turns_as_many_as_fit() -> None:
    starts = np.array([1, 4, 9, 11, 20])  # turns of 3, 5, 2 and 9 tokens
    first, replies = np.array([0, 0, 0, 0]), np.array([1, 2, 3])

    def begins(turns: int, most: int) -> list[int]:
        return contexts(starts, first, replies, turns, most).tolist()

    assert begins(9, 100) == [1, 1, 1]
    assert begins(1, 100) == [1, 4, 9]
    assert begins(9, 8) == [1, 1, 4]
    assert begins(9, 7) == [1, 4, 4]
    assert begins(9, 4) == [1, 5, 9]  # the turn before the second reply is too long: its end
    later = np.array([0, 0, 2, 2])
    assert contexts(starts, later, np.array([1, 3]), 9, 100).tolist() == [1, 9]


def test_the_context_of_a_conversation_is_the_one_of_training() -> None:
    chosen = np.random.default_rng(0)
    for _ in range(50):
        turns = [[5] * int(n) + [0] for n in chosen.integers(1, 9, 6)]
        starts = np.cumsum([1, *map(len, turns)])
        stream = [0, *(token for turn in turns for token in turn)]
        most, count = int(chosen.integers(2, 20)), int(chosen.integers(1, 5))
        first, reply = np.zeros(6, np.int64), np.array([5])
        (begin,) = contexts(starts, first, reply, count, most)
        assert context_of(turns[:5], count, most) == stream[begin : starts[5]]


def test_one_sequence_is_shared_by_context_and_reply() -> None:
    assert longest_side(128, None, together=True) == 128
    assert longest_side(128, 512, together=False) == 128
    assert longest_side(128, 100, together=False) == 100
    assert longest_side(128, 100, together=True) == 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"valid_fraction": 0.0}, "valid_fraction is 0.0"),
        ({"max_turns": 0}, "max_turns is 0"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"tokenizer": "bpee"}, "did you mean 'bpe'"),
        ({"encoding": "utf-9"}, "unknown text encoding"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(EnsueError, match=words):
        DialogueConfig(sources=("a",), **options)


@pytest.mark.data
def test_the_public_sets_are_read_as_they_are(public_data: Path, tmp_path: Path) -> None:
    """A table of neighbouring turns gives what whole dialogues give."""
    folder = public_data / "dailydialog"
    whole = prepare(tmp_path, str(folder / "dialogues_dev.txt.gz"))
    pairs = prepare(tmp_path, str(folder / "pairs_dev.jsonl.gz"))
    assert whole.fingerprint == pairs.fingerprint
    assert len(whole.train.replies) + len(whole.valid.replies) == 6976
    talk = sorted(map(str, (public_data / "personality_chat").glob("Q*.tsv")))
    assert len(prepare(tmp_path, *talk).train.replies) > 400
    english = str(public_data / "chatterbot_corpus" / "pairs_english.jsonl")
    assert len(prepare(tmp_path, english).train.replies) > 1000
    assert all(map(is_talk, [*talk, english, str(folder / "dialogues_dev.txt.gz")]))

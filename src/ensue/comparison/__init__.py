"""The fair comparison: several models at an equal cost, beside what needs no network.

request.py   what is compared, and what shall be equal
judge.py     what a comparison asks of a task; text.py and pairs.py answer it
plan.py      all fixed before anything runs: shapes, updates, learning rates to try
work.py      the runs, each a process of its own and an ordinary run folder
results.py   the table, the test set, the speed of generating, the winner
words.py     the same in sentences: the protocol, what is unfair, the verdict, the command
"""

from ensue.comparison.request import EQUAL, CompareConfig
from ensue.comparison.results import Result
from ensue.comparison.work import compare

__all__ = ["EQUAL", "CompareConfig", "Result", "compare"]

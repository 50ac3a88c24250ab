"""The fair comparison: several models at an equal cost, beside what counting alone achieves.

request.py   what is compared, and what shall be equal
plan.py      that fixed before anything runs: shapes, updates, learning rates to try
work.py      the runs, each a process of its own and an ordinary run folder
results.py   the table, the test text, the speed of generating, the winner
words.py     the same in sentences: the protocol, what is unfair, the verdict, the command
"""

from ensue.comparison.request import EQUAL, CompareConfig
from ensue.comparison.results import Result
from ensue.comparison.work import compare

__all__ = ["EQUAL", "CompareConfig", "Result", "compare"]

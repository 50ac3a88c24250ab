"""What the readers sniffed, guessed, skipped or chose, gathered to be said once."""

from pathlib import PurePath

_NAMED = 3  # names shown of each kind of remark; a folder may have thousands


class Notes:
    """Remarks in the order made; those of one kind about many files become one line."""

    def __init__(self) -> None:
        self._groups: dict[str, list[str]] = {}

    def say(self, remark: str) -> None:
        """Add one remark."""
        self._groups.setdefault(remark, [])

    def add(self, remark: str, name: str) -> None:
        """Add a remark about the file ``name``; names of one remark are listed together."""
        self._groups.setdefault(remark, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """Give the remarks, one line each."""
        return tuple(_line(remark, names) for remark, names in self._groups.items())


def _line(remark: str, names: list[str]) -> str:
    if not names:
        return remark
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{remark}: {', '.join(map(shown, names[:_NAMED]))}{more}"


def shown(name: str) -> str:
    """Name a file without telling where on this machine it lies: notes enter cards and reports."""
    return PurePath(name).name if PurePath(name).is_absolute() else name

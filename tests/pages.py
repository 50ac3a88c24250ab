"""Reads the pages that reports are, as strictly as a validator would."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
PAYLOAD = '</pre></svg><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202e&'
"""What a text or a name may hold to take over a page."""


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; remembers tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def assert_harmless(text: str, page: Page) -> None:
    """The page runs nothing, asks nothing of the network, and shows no control character."""
    forbidden = {"script", "img", "link", "iframe", "object", "a", "image", "use", "foreignobject"}
    assert not forbidden & {tag for tag, _ in page.tags}
    names = {name for _, attrs in page.tags for name in attrs}
    assert not {n for n in names if n.startswith("on") or n in ("src", "href", "style")}
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert "\x1b" not in text
    assert "\u202e" not in text

"""Links of README.md and of the pages: within the repository they lead somewhere, outside they are found."""

from __future__ import annotations

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from docs import links


def test_links_within_the_repository_resolve_in_a_clone() -> None:
    """Not only in a tree where the site was built."""
    made = links.ROOT / "docs" / "tutorials"
    found = {(page.parent / link.partition("#")[0]).resolve() for page in links.PAGES for link in links.links(page)}
    assert not links.dead()
    assert not [path for path in found if path.is_relative_to(made)]


def test_what_leads_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A *page*: two\n[1](#a-page-two) [2](#else) [3](absent.md) [4](https://a.b) `[5](no.md)`\n")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    assert links.dead([page]) == ["page.md: #else", "page.md: absent.md"]
    assert links.outside([page]) == {"https://a.b": [page]}


def test_addresses_outside_are_found_in_every_form() -> None:
    found = links.outside()
    assert {"https://ase-lib.org", "https://arxiv.org/abs/2404.00865", "https://3dmol.org"} <= set(found)
    assert links.ROOT / "README.md" in found["https://arxiv.org/abs/2404.00865"]


class _Answers(BaseHTTPRequestHandler):
    """The code that the path says."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_only_what_fails_a_reader_is_a_fault() -> None:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        told = {code: links.fault(f"{at}/{code}") for code in (200, 403, 404, 500)}
        server.shutdown()
    assert [code for code, why in told.items() if why] == [404, 500]
    assert links.fault(at)

"""What runs the code of the documentation: it must notice what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sybil", reason="needs sybil")

from docs.blocks import differences, run


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Path]:
    """Makes a page of blocks, given as language and content in turn, and runs it."""

    def made(*blocks: str, record: bool = False, before: str = "") -> Path:
        file, folder = tmp_path / "page.md", tmp_path / "folder"
        fences = [f"```{language}\n{text}\n```" for language, text in zip(blocks[::2], blocks[1::2], strict=True)]
        file.write_text("# A page\n\n" + before + "\n\nwords\n\n".join(fences) + "\n", encoding="utf-8")
        folder.mkdir()
        run(file, folder, record=record)
        return file

    return made


class TestRun:
    def test_python_blocks_share_names_and_are_a_script(self, page):
        page("python", "a = 2", "python", "print(a, __name__)", "text", "2 __main__")

    def test_another_output_fails_and_is_told(self, page):
        with pytest.raises(AssertionError, match=r"line 9, page \| printed:\n3 apples \| 3 pears") as error:
            page("python", "print('3 pears')", "text", "3 apples")
        assert "page.md" in str(error.value)

    def test_errors_of_python_fail_with_the_line_of_the_page(self, page):
        with pytest.raises(ZeroDivisionError) as error:
            page("python", "a = 1\n1 / 0")
        assert (Path(str(error.traceback[-1].path)).name, error.traceback[-1].lineno + 1) == ("page.md", 5)

    def test_shell_blocks_share_a_folder_with_the_examples(self, page):
        page("sh", "echo 1 > a", "sh", "cat a; ls examples/unrelaxed.extxyz", "text", "1\nexamples/unrelaxed.extxyz")

    @pytest.mark.parametrize("command", ["false", "false | cat", "echo $unset", "false\ntrue"])
    def test_shell_blocks_fail_at_the_first_failure(self, page, command):
        with pytest.raises(AssertionError, match="exit code"):
            page("sh", command)

    def test_what_is_skipped_is_not_run(self, page):
        page("sh", "false", before="<!--- skip: next -->\n")

    def test_a_page_may_be_tolerant(self, page):
        before = "<!--- invisible-code-block: python\ntolerance = 0.5\n-->\n\n"
        page("python", "print(140.0)", "text", "100.0", before=before)

    def test_recording_writes_what_is_printed_and_nothing_else(self, page):
        file = page("sh", "echo 1; echo 2", "text", "", "python", "print('three')", "text", "old", record=True)
        text = file.read_text()
        assert "```text\n1\n2\n```" in text
        assert "```text\nthree\n```" in text
        assert "old" not in text
        assert "```sh\necho 1; echo 2\n```\n\nwords\n\n" in text


class TestDifferences:
    @pytest.mark.parametrize(
        ("expected", "printed"),
        [
            ("a  b\n\nc", "a b\nc\n"),
            ("1.00 Å", "1.02 Å"),
            ("1,000 atoms", "1,010 atoms"),
            ("0.0004", "0.0006"),
            ("0.000", "-0.000"),
            ("12.3 s, 5.1e+03 crystals/s", "4 s, 7 crystals/s"),
            ("5 steps", "6 steps"),
        ],
    )
    def test_alike(self, expected, printed):
        assert list(differences(expected, printed)) == []

    @pytest.mark.parametrize(
        ("expected", "printed"),
        [
            ("a", "b"),
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("1.000 Å", "1.030 Å"),
            ("1.000 Å", "-1.000 Å"),
            ("10 steps", "20 steps"),
            ("MgO 1.0", "CaO 1.0"),
            ("1 2", "1"),
        ],
    )
    def test_not_alike(self, expected, printed):
        assert len(list(differences(expected, printed))) == 1

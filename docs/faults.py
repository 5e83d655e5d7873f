"""The table of faults in docs/screening.md: what was broken on purpose, what comes of it, and in how many variants.

python docs/faults.py             # run the tests behind each row, and write the table
python docs/faults.py --collect   # count them, and write the table
python docs/faults.py 0 7         # run those of rows 0 to 6, and write nothing: all took 1,236 s on two busy cores
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "screening.md"
BEGIN, END = "<!-- faults: made by python docs/faults.py -->\n", "<!-- end of faults -->\n"


class Fault(NamedTuple):
    """A row: what goes wrong, what comes of it, and the tests that break it, as files and functions."""

    fault: str
    outcome: str
    tests: tuple[str, ...]


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}.py::{name}" for name in names)


FAULTS = (
    Fault(
        "the run is killed (`kill -9`) and started again, three times",
        "every crystal exactly once",
        _of("screening/test_run", "test_killed_again_and_again_it_comes_to_the_same_end"),
    ),
    Fault(
        "a worker process is killed, or loses its GPU",
        "its block is done again, in smaller parts, by whichever processes are free",
        _of("screening/test_run", "test_a_killed_worker_costs_nothing")
        + _of("screening/test_isolated", "test_a_death_costs_nothing")
        + _of(
            "prediction/test_pool",
            "test_a_process_that_is_killed_while_it_waits_is_replaced",
            "test_a_process_that_loses_its_device_is_replaced",
        ),
    ),
    Fault(
        "a crystal kills its process each time",
        "it is found by cutting its block, and its row says so; the others are relaxed",
        _of("screening/test_run", "test_a_crystal_that_kills_its_process_costs_itself")
        + _of("screening/test_isolated", "test_a_deadly_crystal_costs_its_row")
        + _of("screening/test_many", "test_a_crystal_that_kills_its_process_yields_an_error"),
    ),
    Fault(
        "a crystal makes a library raise whatever it may; it cannot be sent to another process",
        "its row says so",
        _of("test_crystal", "test_what_is_no_structure_gives_an_error_and_raises_none")
        + _of("prediction/test_batching", "test_whatever_a_crystal_raises_costs_itself")
        + _of(
            "prediction/test_pool",
            "test_an_error_costs_the_item_that_raises_it",
            "test_what_cannot_be_sent_costs_itself",
        )
        + _of("cli/test_relax", "test_numbers_of_no_element_cost_themselves"),
    ),
    Fault(
        "a batch does not fit into the memory",
        "it is halved until it does; one crystal that does not fit alone is a row that says so",
        _of("prediction/test_batching", "test_a_batch_too_large_is_halved_until_it_fits"),
    ),
    Fault(
        "the network predicts NaN, a cell that bursts or collapses",
        "a row that says so; the rest of its batch is as it is alone",
        _of("prediction/test_batching", "TestNumbersThatAreNone"),
    ),
    Fault(
        "a calculator that finishes raises, or gives NaN",
        "a row that says so, where the network, or the last sound step, has brought it",
        _of("screening/test_table_relaxer", "test_a_finish_that_fails_leaves_the_prediction")
        + _of("optimizers/test_lost_forces", "test_the_last_finite_geometry_is_restored"),
    ),
    Fault(
        "the disk is full",
        "it ends with exit code 1; what was done is kept, no file or line is half written",
        _of("screening/test_folder", "TestFiles::test_a_full_disk_leaves_nothing_half_done")
        + _of("io/test_sink", "test_a_full_disk_ends_a_database_as_it_does_other_files")
        + _of("cli/test_relax", "test_full_disk")
        + _of("cli/test_screen", "test_a_full_disk_ends_it_with_advice"),
    ),
    Fault(
        "a file of results is deleted, cut, damaged or swapped with another",
        "its block is done again; `deeprelax export` names the file, and keeps what it wrote before",
        _of("screening/test_folder", "TestFiles::test_damaged_files_are_told_and_done_again")
        + _of("screening/test_run", "test_blocks_that_are_damaged_are_done_again")
        + _of("screening/test_export", "test_a_damaged_block_costs_nothing_that_was_written_before"),
    ),
    Fault(
        "a line of the journal, or `screen.json`, is cut, damaged, there twice, or of something else",
        "the line is ignored, which is said, and its block done again; the file is named",
        _of(
            "screening/test_folder",
            "TestJournal::test_wherever_it_was_cut_it_goes_on",
            "TestJournal::test_what_is_no_line_of_a_block_is_ignored_and_said",
        )
        + _of("screening/test_manifest", "test_a_damaged_one_is_told"),
    ),
    Fault(
        "an input is cut short, or damaged within",
        "what is whole is relaxed; each structure that is not has a row",
        _of("io/test_hostile", "test_damaged_files_cost_no_more_than_their_structures", "test_files_damaged_anywhere")
        + _of(
            "io/test_xyz",
            "test_a_damaged_frame_costs_itself_alone",
            "test_a_line_too_many_costs_the_frame_that_has_it",
            "test_a_line_too_few_costs_the_frame_that_lacks_it",
            "test_whatever_is_damaged_the_frames_far_from_it_are_read",
        )
        + _of(
            "io/test_formats",
            "test_a_truncated_file_gives_what_is_whole_and_says_where_it_ends",
            "test_a_broken_file_is_one_row_that_says_so",
            "test_whatever_page_of_a_database_is_damaged_each_row_that_it_tells_of_is_there",
            "test_places_before_the_beginning_of_a_file_are_damage",
        )
        + _of(
            "io/test_parquet",
            "test_a_damaged_row_group_costs_its_rows_alone",
            "test_rows_that_cannot_be_reached_have_errors",
            "test_numbers_of_rows_that_do_not_add_up",
        ),
    ),
    Fault(
        "an input is empty",
        "an error",
        _of("io/test_formats", "test_an_empty_source_is_an_error"),
    ),
    Fault(
        "an input is away for a while, or locked",
        "the run stops, and condemns no crystal; the same command goes on",
        _of("io/test_source", "test_a_file_that_goes_away_stops_the_reading")
        + _of("io/test_formats", "test_a_database_that_is_locked_is_no_fault_of_its_rows")
        + _of("screening/test_blocks", "test_a_source_that_is_away_for_a_while_costs_no_crystal"),
    ),
    Fault(
        "an input changed since the run began, or changes while it is screened",
        "refused, with its name",
        _of("screening/test_refusals", "test_a_changed_input_is_refused")
        + _of(
            "screening/test_run",
            "test_an_input_that_changes_on_the_way_is_refused",
            "test_a_folder_whose_files_change_on_the_way_is_refused",
        )
        + _of("io/test_parquet", "test_a_file_written_anew_while_it_is_read_stops_the_reading"),
    ),
    Fault(
        "JSON, Parquet, a database, a pickle or a model card names code to run",
        "it is not run; a structure beside it is read",
        _of("io/test_documents", "test_modules_that_json_names_are_never_imported")
        + _of("io/test_hostile", "test_harmful_files_do_no_harm")
        + _of("data/readers/test_documents", "test_modules_that_a_document_names_are_not_imported")
        + _of("data/test_dataset_formats", "test_pickles_that_could_run_code_are_not_read")
        + _of("models/test_loading", "test_nothing_is_unpickled", "test_cards_hold_what_cards_hold"),
    ),
    Fault(
        "a compressed file or an archive unpacks without end; a POSCAR or a model card asks for a huge memory",
        "refused beyond 100 times its size and 256 MiB, and beyond 4 GiB, a POSCAR and a card at once; what is sound "
        "beside it is read",
        _of("io/test_hostile", "test_what_unpacks_without_end_is_refused", "test_counts_take_no_memory")
        + _of("models/test_loading", "test_no_memory_is_taken_for_networks_that_the_weights_are_not_of"),
    ),
    Fault(
        "folders and archives hold hidden files, links, what is no structure, or formats that cannot be read there",
        "links are read as what they link to, what else has a structure's format is a row; the summary counts the rest",
        _of("io/test_containers", "TestLeftOut", "TestArchives::test_a_member_that_cannot_be_read_there_says_so")
        + _of("io/test_containers", "TestArchives::test_links_are_what_they_link_to")
        + _of("cli/test_relax", "test_files_that_are_left_out_are_counted")
        + _of("cli/test_screen", "test_files_that_are_left_out_are_counted"),
    ),
    Fault(
        "a CIF without symmetry operations names another setting than the standard one",
        "a row that says so",
        _of("io/test_space_groups", "test_another_setting_than_the_standard_one"),
    ),
    Fault(
        "names such as `007`, `True`, with line breaks, blanks, quotes, or in another encoding",
        "they come back as they are, in every format; what is no UTF-8 is escaped",
        _of("io/test_sink", "test_names_come_back", "test_names_come_back_from_files_of_one_crystal")
        + _of("io/test_xyz", "test_names_stay_as_they_are_written", "test_names_of_another_encoding_are_escaped"),
    ),
    Fault(
        "an output would take the place of an input, of the screening's own files, or of results of before",
        "refused before the work; results of before are replaced with `--overwrite`, whole or not at all",
        _of("io/test_output", "test_an_input_is_never_overwritten")
        + _of(
            "io/test_sink",
            "test_a_whole_file_or_the_one_of_before",
            "test_what_another_process_has_written_meanwhile_stays",
        )
        + _of("screening/test_export", "test_what_the_screening_needs_is_not_overwritten")
        + _of("cli/test_relax", "test_results_of_before_are_replaced_if_asked_for_once_something_is_written")
        + _of("cli/test_report", "test_nothing_but_a_page_is_replaced"),
    ),
    Fault(
        "an output cannot be written there, or not in that format",
        "refused before the work",
        _of("io/test_output", "test_elsewhere", "test_formats_that_cannot_be_read_when_compressed")
        + _of("io/test_output", "test_a_place_where_nothing_can_be_written"),
    ),
    Fault(
        "two processes write to one folder; a shard is missing",
        "the second is refused; `deeprelax export` says what is not done",
        _of("screening/test_folder", "TestJournal::test_two_writers")
        + _of("screening/test_export", "test_a_shard_that_is_missing_is_said"),
    ),
    Fault(
        "two crystals have one id",
        "both are there, told apart by `index`; `deeprelax export` says how many",
        _of("cli/test_screen", "test_export"),
    ),
)


class _Counting:
    """A plugin of pytest: how many tests each row has, and which of them fail."""

    def __init__(self) -> None:
        self.variants, self.failed = Counter[str](), list[str]()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            path = item.nodeid.partition("[")[0]
            for row in FAULTS:
                self.variants[row.fault] += any(path == test or path.startswith(f"{test}::") for test in row.tests)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or (report.skipped and report.when == "setup"):
            self.failed.append(report.nodeid)


def table(variants: Counter[str]) -> str:
    """The rows in Markdown."""
    head = "| fault | what comes of it | variants tried |\n| --- | --- | ---: |\n"
    return head + "".join(f"| {row.fault} | {row.outcome} | {variants[row.fault]} |\n" for row in FAULTS)


def main() -> None:
    """Run or count the tests, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", action="store_true", help="count the tests only")
    parser.add_argument("first", type=int, nargs="?", help="the first row to try; no table is written then")
    parser.add_argument("end", type=int, nargs="?", help="the row before which to stop")
    given = parser.parse_args()
    options = ["--collect-only"] if given.collect else []
    rows, counting = FAULTS[given.first : given.end], _Counting()
    tests = list(dict.fromkeys(test for row in rows for test in row.tests))
    code = pytest.main(["-q", "-m", "", "--rootdir", str(ROOT), *options, *tests], plugins=[counting])
    if code or counting.failed or not all(counting.variants[row.fault] for row in rows):
        sys.exit(f"the table is not written: {counting.failed or code}")
    if given.first is not None:
        return
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGE} has no place for the table")
    PAGE.write_text(f"{before}{begin}\n{table(counting.variants)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

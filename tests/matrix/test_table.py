"""docs/runners.md says what is tested, and everything that can be claimed is."""

import pytest

from tests.matrix import table


def test_the_page_is_what_the_tests_say():
    assert table.PAGE.read_text() == table.page(), "write it again: python -m tests.matrix.table"


def test_each_name_is_a_cell_of_the_matrix():
    assert [name for listed in table.names().values() for name in listed if not table.parsed(name)] == []


def test_each_test_stands_in_the_file_of_its_row():
    cells = [(file, table.parsed(name)) for file, listed in table.names().items() for name in listed]
    assert [(file, cell) for file, cell in cells if cell and file != f"test_{cell[0]}"] == []


@pytest.mark.parametrize("row", table.ROWS)
def test_each_claim_that_can_be_made_has_a_test(row: str):
    assert [column for found, column in table.empty() if found == row] == []


@pytest.mark.parametrize("name", ["test_loop", "test_loop_runs", "test_loops_completes", "test_x__completes"])
def test_a_name_that_is_no_cell_is_found(name: str):
    assert table.parsed(name) is None


def test_what_follows_two_underscores_is_free():
    assert table.parsed("test_shell_is_cancelled__with_grandchildren") == ("shell", "is_cancelled")

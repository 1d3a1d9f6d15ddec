"""Batch and resolution."""

from tests.support.reporting import all_tables, plot_of


def test_without_rows_of_the_sweep_there_are_no_figures_of_it(cpu):
    assert [table.name for table in all_tables(cpu)] == ["table1"]
    assert plot_of(cpu, "sweep", "rate_against_batch") is None
    assert plot_of(cpu, "sweep", "rate_against_resolution") is None

"""Charts as they are seen in JupyterLab, without a network."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser import chart_stores
from tests.browser.conftest import OpenNotebook


def test_a_timeline_is_drawn_and_its_hover_shows_hostile_answers_as_text(open_notebook: OpenNotebook, tmp_path: Path):
    chart_stores.one(tmp_path / "one.db", answer=chart_stores.HOSTILE)
    cell = f"import car_sched_nb as car\ncar.plot.timeline(store={str(tmp_path / 'one.db')!r})"
    notebook = open_notebook([cell])
    notebook.run(0)
    chart = notebook.output(0).locator(".js-plotly-plot")
    expect(chart.locator(".gtitle")).to_contain_text("Timeline of all tasks")
    expect(notebook.output(0).locator(".jp-RenderedSVG")).to_have_count(0)  # it is for readers without plotly
    bar = chart.locator(".barlayer .point path")
    expect(bar).to_have_count(1)
    place = bar.bounding_box()
    assert place is not None and place["width"] >= 1  # 1.4 ms of a minute
    notebook.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    hover = chart.locator(".hoverlayer .hovertext")
    expect(hover).to_contain_text("completed")
    expect(hover).to_contain_text("<b>bold</b> $x^2$ & more")
    expect(hover.locator("a")).to_have_count(0)
    assert (notebook.refused, notebook.errors) == ([], [])

"""Charts in a notebook that was saved: for readers who have no plotly there is a picture beside each."""

import base64
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from notebooks.demo import as_html
from tests.kernel.kernel import Kernel, Result

PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/svg+xml"


def saved(result: Result) -> Any:
    outputs = [nbformat.v4.new_output("display_data", data=dict(output.data)) for output in result.outputs]
    cell = nbformat.v4.new_code_cell("car.plot.timeline()", outputs=outputs)
    return nbformat.v4.new_notebook(cells=[cell])


def test_a_figure_has_its_picture_beside_it_until_it_is_changed(kernel: Kernel):
    kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car")
    kernel.run("%%car_task prices\n'12 markets'")
    kernel.run("await car.wait()")
    result = kernel.run("figure = car.plot.timeline()\nfigure")
    (shown,) = result.outputs
    assert set(shown.data) == {PLOTLY, PICTURE, "text/plain"}
    assert shown.data["text/plain"].startswith("Timeline of all tasks: 1 run")
    (again,) = kernel.run("figure.show()").outputs
    assert again.data == shown.data
    for page in (HTMLExporter().from_notebook_node(saved(result))[0], as_html(saved(result), "charts")):
        assert page.count("data:image/svg+xml;base64," + base64.b64encode(shown.data[PICTURE].encode()).decode()) == 1
    (changed,) = kernel.run("figure.update_layout(title_text='Prices')").outputs
    assert set(changed.data) == {PLOTLY}
    (other,) = kernel.run("import plotly.io as pio\npio.renderers.default = 'json'\ncar.plot.timeline()").outputs
    assert set(other.data) == {"application/json"}

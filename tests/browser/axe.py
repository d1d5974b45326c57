"""What axe-core finds wrong with a part of a page, and what a focused element looks like."""

from importlib.resources import files

from playwright.sync_api import Locator

_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
# JupyterLab's body is 0 high and cuts off what lies outside: axe would take every text for hidden, and judge no colour.
_RUN = """async root => {
  document.body.style.minHeight = "100vh";
  const { violations } = await axe.run(root, { resultTypes: ["violations"] });
  document.body.style.minHeight = "";
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) =>
    `${id}: ${target.join(" ")}\\n${failureSummary}`));
}"""


def violations(root: Locator) -> list[str]:
    """Return what axe-core's rules find in an element and below it: the rule, where, and what would mend it."""
    root.page.evaluate(f"if (!globalThis.axe) {{ {_AXE} }}")
    found: list[str] = root.evaluate(_RUN)
    return found

"""Elements of the report's SVG figures, escaped by the XML library."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

NAMESPACE = "http://www.w3.org/2000/svg"
FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"


def figure(width: float, height: float, name: str, description: str) -> Element:
    """Return an SVG element with a name and a description for screen readers."""
    root = Element(
        "svg",
        {
            "xmlns": NAMESPACE,
            "viewBox": f"0 0 {number(width)} {number(height)}",
            "class": name,
            "role": "img",
            "style": f"{FONT};width:100%;max-width:{number(width)}px;height:auto",
        },
    )
    add(root, "title", text=description)
    return root


def add(parent: Element, tag: str, text: str | None = None, **attributes: object) -> Element:
    """Append an element; ``_`` in the name of an attribute becomes ``-``, as in ``stroke_width``.

    Python's keyword is avoided by ``class_``.
    """
    values = {
        name.rstrip("_").replace("_", "-"): number(value)
        if isinstance(value, float)
        else f"{value}"
        for name, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, values)
    element.text = text
    return element


def number(value: float) -> str:
    """Format a coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def as_text(root: Element) -> str:
    """Return the markup of a figure."""
    return ElementTree.tostring(root, encoding="unicode")

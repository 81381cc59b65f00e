"""SVG files as a reader sees them: their words with the room that these take, and points in the units of the axes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np

from bhsearch.reporting.svg.text_width import text_width

NS = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Text:
    """A line of text and the corners of its rectangle: left, top, right, bottom."""

    words: str
    box: tuple[float, float, float, float]

    @property
    def middle(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


class Drawn:
    """A parsed SVG file; parsing fails if it is no XML."""

    def __init__(self, svg: str | bytes) -> None:
        self.root = ET.fromstring(svg)
        self.width, self.height = (float(self.root.get(name)) for name in ("width", "height"))
        group = self.root.find(f"{NS}g")
        shift = re.fullmatch(r"translate\(0 ([\d.]+)\)", group.get("transform"))
        self.shift = float(shift[1])
        self._inside = set(group.iter())

    def all(self, tag: str) -> list[ET.Element]:
        return list(self.root.iter(NS + tag))

    def down(self, element: ET.Element) -> float:
        """How far down the group of the element begins."""
        return self.shift if element in self._inside else 0.0

    @property
    def texts(self) -> list[Text]:
        return [self._text(element) for element in self.all("text")]

    @property
    def words(self) -> list[str]:
        return [text.words for text in self.texts]

    def _text(self, element: ET.Element) -> Text:
        words = element.text or ""
        size = float(element.get("font-size", self.root.get("font-size")))
        width = text_width(words, size, element.get("font-weight") == "600")
        start = {"start": 0.0, "middle": -width / 2, "end": -width}[element.get("text-anchor", "start")]
        x, y = float(element.get("x")), float(element.get("y")) + self.down(element)
        corners = np.array([(start, -0.8 * size), (start + width, 0.25 * size)])
        turned = re.match(r"rotate\((\S+) ", element.get("transform", ""))
        if turned:
            angle = np.radians(float(turned[1]))
            (left, top), (right, bottom) = corners
            around = np.array([(left, top), (right, top), (left, bottom), (right, bottom)])
            rotated = around @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            corners = np.array([rotated.min(axis=0), rotated.max(axis=0)])
        (left, top), (right, bottom) = corners + np.array([x, y])
        return Text(words, (left, top, right, bottom))

    def points(self, element: ET.Element) -> np.ndarray:
        """The points of a line or an area, in units of the file. Shape (n, 2)."""
        pairs = [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]
        return np.array(pairs) + np.array([0.0, self.down(element)])

    def outside(self) -> list[str]:
        """What is drawn outside the view box, by its words or tag."""
        found = []
        for text in self.texts:
            left, top, right, bottom = text.box
            if left < 0 or top < 0 or right > self.width or bottom > self.height:
                found.append(text.words)
        for tag in ("polyline", "polygon"):
            for element in self.all(tag):
                points = self.points(element)
                if (points < 0).any() or (points > (self.width, self.height)).any():
                    found.append(tag)
        for tag in ("rect", "image"):
            for element in self.all(tag):
                x, y, width, height = (float(element.get(name, 0)) for name in ("x", "y", "width", "height"))
                y += self.down(element)
                if x < 0 or y < 0 or x + width > self.width + 0.1 or y + height > self.height + 0.1:
                    found.append(tag)
        for element in self.all("circle"):
            x, y, r = (float(element.get(name)) for name in ("cx", "cy", "r"))
            y += self.down(element)
            if x < r or y < r or x + r > self.width or y + r > self.height:
                found.append("circle")
        return found

    def overlapping(self) -> list[tuple[str, str]]:
        """Pairs of words that cover each other."""
        texts = [text for text in self.texts if text.words]
        return [
            (a.words, b.words)
            for k, a in enumerate(texts)
            for b in texts[k + 1 :]
            if min(a.box[2], b.box[2]) > max(a.box[0], b.box[0]) and min(a.box[3], b.box[3]) > max(a.box[1], b.box[1])
        ]

    def to_data(self, points: np.ndarray, x: dict[str, float], y: dict[str, float]) -> np.ndarray:
        """Points in the units of the axes, read off the labels of two ticks of each axis, as a person would.

        Args:
            points: Points in units of the file. Shape (n, 2).
            x: Value of two labels of the horizontal axis.
            y: Value of two labels of the vertical axis.
        """
        columns = []
        for axis, anchor, labels in ((0, "middle", x), (1, "end", y)):
            places = [self._label(words, anchor, float(points[:, 1].mean()))[axis] for words in labels]
            columns.append(np.interp(points[:, axis], *self._line(places, list(labels.values()))))
        return np.stack(columns, -1)

    def _label(self, words: str, anchor: str, near: float) -> tuple[float, float]:
        """The place of the tick of a label; of several of the same words, the one at about the same height."""
        found = [
            (float(element.get("x")), float(element.get("y")) + self.down(element) - 4)  # 4: half of a digit's height
            for element in self.all("text")
            if element.text == words and element.get("text-anchor") == anchor
        ]
        return min(found, key=lambda place: abs(place[1] - near))

    @staticmethod
    def _line(places: list[float], values: list[float]) -> tuple[list[float], list[float]]:
        """Two far points of the line through two, in ascending order of place."""
        slope = (values[1] - values[0]) / (places[1] - places[0])
        return [-1e4, 1e4], [values[0] + slope * (end - places[0]) for end in (-1e4, 1e4)]

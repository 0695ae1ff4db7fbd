"""A catalogue of named things that other packages can add to by an entry point."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from equipoise.errors import EquipoiseError
from equipoise.validation import no_boolean_as_number
from equipoise.wording import did_you_mean


class Named(Protocol):
    """What a catalogue holds: anything that says its own name."""

    @property
    def name(self) -> str:
        """How a user asks for it."""
        ...


Entry = TypeVar("Entry", bound=Named)
Result = TypeVar("Result")


class Catalogue(Generic[Entry]):
    """Entries by name: those of this package, then those that installed packages declare.

    A package adds one by an entry point that leads to an object of the catalogue's kind::

        [project.entry-points."equipoise.tasks"]
        my-task = "my_package.tasks:my_task"

    Args:
        group: Entry-point group.
        noun: What an entry is called in messages.
        kind: Class of the entries.
        entries: The package's own.
    """

    def __init__(self, group: str, noun: str, kind: type[Entry], entries: Iterable[Entry]):
        self._group, self._noun, self._kind = group, noun, kind
        self._own = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[Entry]:
        yield from self._own.values()
        for name in sorted(self._foreign_names()):
            yield self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._foreign_names()

    def get(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            EquipoiseError: No such name (with the nearest one), or another package's entry
                cannot be loaded.
        """
        if name in self._own:
            return self._own[name]
        names = [*self._own, *self._foreign_names()]
        if name not in names:
            raise EquipoiseError(
                f"unknown {self._noun} {name!r}{did_you_mean(name, names)}; "
                f"there are: {', '.join(sorted(names))}"
            )
        return self._load(name)

    def _foreign_names(self) -> set[str]:
        return entry_points(group=self._group).names - set(self._own)

    def _load(self, name: str) -> Entry:
        (point, *others) = entry_points(group=self._group, name=name)
        if others:
            raise EquipoiseError(f"several installed packages declare the {self._noun} {name!r}")
        try:
            entry = point.load()
        except Exception as error:  # whatever another package's import may raise
            raise EquipoiseError(
                f"{self._noun} {name!r} ({point.value}) cannot be loaded: {error}"
            ) from error
        if not isinstance(entry, self._kind):
            raise EquipoiseError(
                f"{self._noun} {name!r} ({point.value}) is a {type(entry).__name__}, "
                f"not a {self._kind.__name__}"
            )
        return entry


def call_with_options(
    function: Callable[..., Result], what: str, options: Mapping[str, Any], **given: Any
) -> Result:
    """Call with the arguments given and a user's options, checked against its parameters.

    Raises:
        EquipoiseError: An option that the function does not have (names those of ``what``), or a
            value of another type than its annotation says.
    """
    known = [name for name in inspect.signature(function).parameters if name not in given]
    hints = _hints(function) if options else {}
    checked = {}
    for option, value in options.items():
        if option not in known:
            there = f"it has: {', '.join(known)}" if known else "it has none"
            raise EquipoiseError(
                f"{what} has no option {option!r}{did_you_mean(option, known)}; {there}"
            )
        try:
            hint = hints.get(option, Any)
            checked[option] = TypeAdapter(hint).validate_python(no_boolean_as_number(value, hint))
        except ValueError as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise EquipoiseError(
                f"{what}: option {option}: {why[0].lower()}{why[1:]}; got {value!r}"
            ) from None
    return function(**given, **checked)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # another package's, imported for type checkers only
        return {}


def options_of(function: Callable[..., Any], *not_options: str) -> dict[str, Any]:
    """The options of a function by name, with their defaults; without the parameters named."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in not_options and parameter.default is not parameter.empty
    }

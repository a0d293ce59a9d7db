"""Finding methods and presets by name; building models and configurations from plain data."""

import dataclasses
import math
import pkgutil
import types
import typing
from collections.abc import Mapping, Sequence

import torch

import motionlex.motion_vae
from motionlex.data.errors import UserError, unknown_name
from motionlex.data.registry import find_by_name, sibling_members
from motionlex.motion_vae.contract import DiscreteAutoencoder, Method, Preset
from motionlex.motion_vae.domain import Domain

PlainValue = str | int | float | bool | None | Sequence[object] | Mapping[str, object]


Config = typing.TypeVar("Config")


def available_methods() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(sorted(method.name for method in _methods()))


def get_method(name: str) -> Method:
    """Look a method up.

    Raises:
        UserError: If there is none of that name; the message lists what exists.
    """
    return find_by_name(_methods(), name, kind="method", where="motion_vae/methods/")


def get_preset(method: str, name: str) -> Preset:
    """Look up the recipe of a method.

    Raises:
        UserError: If the method or the preset does not exist.
    """
    presets = get_method(method).presets
    if name not in presets:
        raise unknown_name("preset", name, presets, "the method's file in motion_vae/methods/")
    return presets[name]()


def build_model(method: str, config: object, domain: Domain, *, seed: int) -> DiscreteAutoencoder:
    """Build an untrained model whose initial weights depend on ``seed`` alone; torch's global state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_method(method).build(config, domain)


def to_plain(config: object) -> dict[str, PlainValue]:
    """Turn a (nested) frozen dataclass into what JSON can hold."""
    return dataclasses.asdict(config)  # type: ignore[call-overload]


def from_plain(config_class: type, values: Mapping[str, PlainValue]) -> object:
    """Rebuild a (nested) frozen dataclass from :func:`to_plain`.

    Raises:
        UserError: If a field is unknown or a value is refused.
    """
    hints = typing.get_type_hints(config_class)
    if not isinstance(values, Mapping):
        raise UserError(f"configuration of {config_class.__name__} is no object, got {values!r}")
    upgrade = getattr(config_class, "upgraded", None)
    if upgrade is not None:
        values = upgrade(values)  # files of older versions
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"configuration of {config_class.__name__} has unknown fields: {', '.join(unknown)}")
    resolved = {}
    for name, value in values.items():
        nested = dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping)
        if typing.get_origin(hints[name]) is tuple and isinstance(value, list):
            value = tuple(value)  # JSON has no tuples
        resolved[name] = from_plain(hints[name], value) if nested else value
    try:
        return config_class(**resolved)
    except (ValueError, TypeError) as error:
        raise UserError(f"configuration of {config_class.__name__}: {error}") from error


def override(preset: Preset, assignments: Sequence[str]) -> Preset:
    """Change fields of a preset by ``name=value``, wherever in it the field lives.

    Args:
        preset: The recipe to start from.
        assignments: E.g. ``("samples=8", "width=96")``; names of nested fields need no path.

    Returns:
        A new preset.

    Raises:
        UserError: If an assignment is malformed, names no field, or its value is refused.
    """
    plain = _assigned(preset, assignments)
    try:
        method = from_plain(type(preset.method), plain["method"])  # type: ignore[arg-type]
        optimisation = from_plain(type(preset.optimisation), plain["optimisation"])
        likelihood = from_plain(type(preset.likelihood), plain["likelihood"])
        return Preset(method=method, optimisation=optimisation, likelihood=likelihood)
    except ValueError as error:
        raise UserError(str(error)) from error


def has_setting(preset: Preset, assignment: str) -> bool:
    """Tell whether :func:`override` knows what ``name=value`` changes; its value may still be refused."""
    name, separator, _ = assignment.partition("=")
    return bool(separator) and any(_is_named(path, name) for path, _ in _leaves(to_plain(preset)))


def override_config(
    config: Config, assignments: Sequence[str], flags: Mapping[str, str] = types.MappingProxyType({})
) -> Config:
    """Change fields of any configuration by ``name=value``, wherever in it the field lives; see :func:`override`.

    Args:
        config: The configuration to start from.
        assignments: E.g. ``("horizon=8", "noise.joint=0.01")``.
        flags: Fields (dotted path) that have a flag of their own, which is to be used instead.
    """
    if not assignments:
        return config
    try:
        return typing.cast(Config, from_plain(type(config), _assigned(config, assignments, flags)))
    except ValueError as error:
        raise UserError(str(error)) from error


def setting_path(config: object, assignment: str) -> str:
    """Return the dotted path of the field of a configuration that ``name=value`` is about.

    Raises:
        UserError: If no field is called so, or several are.
    """
    name, separator, _ = assignment.partition("=")
    paths = [path for path, _ in _leaves(to_plain(config))]
    found = [path for path in paths if _is_named(path, name)] if separator else []
    if not found:
        raise unknown_name("setting", name, [path.rpartition(".")[2] for path in paths], "as --set name=value")
    outermost = min(path.count(".") for path in found)
    path, *others = [path for path in found if path.count(".") == outermost]
    if others:
        raise UserError(f"--set {name}: several settings are called so; say which: {', '.join(found)}")
    return path


def _is_named(path: str, name: str) -> bool:
    """Whether ``name`` is the end of a dotted path."""
    return f".{path}".endswith(f".{name}")


def _assigned(
    config: object, assignments: Sequence[str], flags: Mapping[str, str] = types.MappingProxyType({})
) -> dict[str, PlainValue]:
    plain = to_plain(config)
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        leaves, path = dict(_leaves(plain)), setting_path(config, assignment)
        if path in flags:
            raise UserError(f"--set {assignment}: {name} has a flag of its own, use {flags[path]}")
        leaf = path.rpartition(".")[2]
        leaves[path][leaf] = _parse(text, leaves[path][leaf], name)
    return plain


def get_domain(kind: str) -> type[Domain]:
    """Look the configuration class of a kind of data up, among the sub-packages with a module ``domain``.

    Raises:
        UserError: If there is none of that name; the message lists what exists.
    """
    classes = {}
    core = motionlex.motion_vae
    for package in pkgutil.iter_modules(core.__path__):
        if package.ispkg:
            members = sibling_members(f"{core.__name__}.{package.name}", "DOMAIN", only="domain")
            classes |= {member.kind: member for member in typing.cast("tuple[type[Domain], ...]", members)}
    if kind not in classes:
        raise unknown_name("domain", kind, classes, "motion_vae/")
    return classes[kind]


def domain_to_plain(domain: Domain) -> dict[str, PlainValue]:
    """Turn a domain into what JSON can hold, with its kind."""
    return {"kind": domain.kind, **to_plain(domain)}


def domain_from_plain(values: Mapping[str, PlainValue]) -> Domain:
    """Rebuild a domain from :func:`domain_to_plain`.

    Raises:
        UserError: If the kind or a field is unknown, or a value is refused.
    """
    fields = dict(values)
    return typing.cast("Domain", from_plain(get_domain(str(fields.pop("kind", None))), fields))


def _methods() -> tuple[Method, ...]:
    return typing.cast("tuple[Method, ...]", sibling_members("motionlex.motion_vae.methods", "METHODS"))


def _leaves(values: dict[str, PlainValue], prefix: str = "") -> typing.Iterator[tuple[str, dict[str, PlainValue]]]:
    """Yield the dotted path of every value, with the dictionary that holds it."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values


def _parse(text: str, current: PlainValue, name: str) -> PlainValue:
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if current is None:  # an option that is off: numbers are its only values
            return _number(text, 0.0)
        if isinstance(current, (tuple, list)):
            return tuple(_number(part, current[0] if current else 0.0) for part in text.split(","))
        return _number(text, current) if isinstance(current, (int, float)) else text
    except (ValueError, KeyError):
        raise UserError(f"--set {name}: expected a value like {current!r}, got {text!r}") from None


def _number(text: str, like: PlainValue) -> float | int:
    """Read a finite number of the type of ``like``."""
    value = type(like)(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value

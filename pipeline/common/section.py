"""A section of `params.yaml`: how it is declared, and how it is written, with a comment before each key."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def render(params: Section) -> str:
    """Write `params` as a commented `params.yaml`: meaning, allowed values and default before each key."""
    lines = ["# Every setting of the pipeline, in its order. Change a value, then type `dvc repro`."]
    for name, field in type(params).model_fields.items():
        key = field.alias or name
        value = getattr(params, name)
        lines.append("")
        if isinstance(value, Section):
            lines += [f"# {value.__doc__}", f"{key}:", *_render_section(value, "  ")]
        elif isinstance(value, dict):
            lines += [f"# {field.description}", *_render_named(key, value, get_args(field.annotation)[1])]
        else:
            lines += [f"# {_comment(field)}", f"{key}: {_scalar(value)}"]
    return "\n".join(lines) + "\n"


def _render_named(key: str, sections: dict[str, Section], kind: type[Section]) -> Iterator[str]:
    """Sections by name; where there are none, the settings that one would have, as comments."""
    if not sections:
        yield "# Write it as below, without the `# `. Settings that are left out have their defaults."
        yield f"# {key}:\n#   NAME:"
        yield from (f"# {line}" for line in _render_section(kind(), "    "))
        yield f"{key}: {{}}"
        return
    yield f"{key}:"
    for name, section in sections.items():
        yield from (f"  {name}:", *_render_section(section, "    "))


def _render_section(section: Section, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        yield f"{indent}# {_comment(field)}"
        yield f"{indent}{name}: {_scalar(getattr(section, name))}"


def _comment(field: Any) -> str:
    return f"{field.description} ({_type_name(field.annotation)}; default {_scalar(field.default)})"


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " | ".join(_type_name(part) for part in get_args(annotation))
    if origin is list:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if origin is dict:
        return f"{_type_name(get_args(annotation)[1])} by name"
    return "null" if annotation is type(None) else annotation.__name__


def _scalar(value: Any) -> str:
    written = _flow(value)
    return _flow(value, default_style='"') if "\n" in written else written  # on one line, with line ends as \\n


def _flow(value: Any, **style: Any) -> str:
    written = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, **style)
    return written.removesuffix("\n...\n").strip()

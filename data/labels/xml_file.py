"""XML that others wrote: no document types, hence no entities, nothing fetched, nothing that grows when it is read."""

from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from data.errors import DataError
from data.text_file import read_bytes

MAX_XML = 1 << 24
"""Most bytes of an annotation."""
MAX_DEPTH = 32


class _Refused(Exception):
    pass


def read_xml(path: Path) -> Element:
    """Read an XML file.

    Raises:
        DataError: it cannot be read, is no XML, declares a document type (entities expand, or fetch files), or nests
            more deeply than any annotation.
    """
    raw = read_bytes(path, "the annotation", MAX_XML)
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise _Refused(f"elements lie more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(raw, True)
    except _Refused as refusal:
        raise DataError(f"{path}:{parser.CurrentLineNumber}: {refusal}; expected a plain annotation") from None
    except expat.ExpatError as error:
        raise DataError(f"{path}:{error.lineno}: not valid XML ({expat.ErrorString(error.code)})") from None
    except (ValueError, LookupError) as error:  # an encoding that expat does not speak
        raise DataError(f"{path}: not valid XML ({error})") from None
    return builder.close()


def _refuse_doctype(*_: Any) -> NoReturn:  # noqa: ANN401 - as expat calls it
    raise _Refused("a document type is declared, whose entities could expand or fetch files")

"""What a runtime's error says, in one line of ours: each library puts the reason at another place of its text."""

_LONGEST = 200


def first_line(error: Exception) -> str:
    """The reason where it comes first; where the text is empty, the error's type."""
    return _lines(error)[0][:_LONGEST]


def status_message(error: Exception) -> str:
    """ONNX Runtime's of a run: at the end of the first line, behind node and source file, before ' ; GPU=0 …'."""
    reason = _lines(error)[0].rpartition("Status Message: ")[2].partition(" ; ")[0].strip()
    return reason if len(reason) <= _LONGEST else f"…{reason[-_LONGEST:]}"


def last_line(error: Exception) -> str:
    """OpenVINO's: behind the source files of its call stack."""
    lines = _lines(error)
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))] or lines
    return said[-1][-_LONGEST:]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]

"""Whether OpenCV can open a desktop window; without importing it, because the doctor asks where it may be broken."""


def window_system(build: str) -> str | None:
    """Name the GUI in OpenCV's build information (QT5, GTK3, …); None for the headless builds."""
    lines = [line.split(":", 1)[1].strip() for line in build.splitlines() if line.strip().startswith("GUI:")]
    return lines[0] if lines and lines[0] not in ("", "NONE") else None

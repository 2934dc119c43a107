"""Every setting as a table for docs/settings.md; `omni settings --markdown` prints it."""

from omni.settings import SettingField, setting_fields


def as_markdown() -> str:
    """Return one table for each section: name, default, what may stand there, help."""
    lines: list[str] = []
    section = ""
    for item in setting_fields():
        if item.section != section:
            section = item.section
            lines += ["", f"## {section}", ""]
            lines += ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
        lines.append(_row(item))
    return "\n".join(lines[1:]) + "\n"


def _row(item: SettingField) -> str:
    default = f"`{item.default!r}`" if item.default not in ("", ()) else "empty"
    if isinstance(item.default, bool):
        default = f"`{str(item.default).lower()}`"
    help_text, allowed = (text.replace("|", "\\|") for text in (item.help, item.allowed))
    return f"| `{item.path}` | {default} | {allowed} | {help_text} |"

"""How the report looks: one palette for page and plots, in light and dark."""

from typing import NamedTuple


class Shade(NamedTuple):
    """One role's colour in each scheme, as #rrggbb."""

    light: str
    dark: str


# The series follow Okabe and Ito (Color Universal Design, 2008), moved in lightness so that each has a contrast of at
# least 3:1 with page, card and band, and any two stay apart for readers who see fewer colours (a test simulates them).
PALETTE = {
    "ink": Shade("#18202a", "#e9edf2"),
    "muted": Shade("#56616e", "#a3aebb"),
    "line": Shade("#d3d9e0", "#343e4a"),
    "page": Shade("#f4f6f8", "#0d1116"),
    "card": Shade("#fdfefe", "#161c23"),
    "band": Shade("#eef1f5", "#1e262f"),
    "rgb": Shade("#005a9c", "#4aa3df"),
    "thermal": Shade("#d55e00", "#e69f00"),
    "fused": Shade("#009e73", "#3fd9a8"),
    "head": Shade("#c76aa8", "#f0a8d0"),
}
"""Role → colour; plots carry the light one, which ``svg.inline`` turns into the page's variable."""


def colour(role: str) -> str:
    """The colour of a role as plots carry it."""
    return PALETTE[role].light


def stylesheet() -> str:
    """The whole CSS of the page."""
    light, dark = (
        " ".join(f"--{role}: {getattr(shade, scheme)};" for role, shade in PALETTE.items())
        for scheme in ("light", "dark")
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{_RULES}"
    )


_RULES = """
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
}
body::before {
  content: ""; display: block; height: 5px;
  background: linear-gradient(to right, var(--rgb) 50%, #1b0c41 50%, #781c6d, #cf4446, #fb9b06, #f7d13d);
}
header, main { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; }
main { padding-bottom: 64px; }
.kind { margin: 0; color: var(--muted); font-size: 14px; }
h1 { margin: 0 0 6px; font-size: clamp(26px, 5vw, 38px); line-height: 1.15; letter-spacing: -0.02em; font-weight: 700;
  text-wrap: balance; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 21px; line-height: 1.3; letter-spacing: -0.01em; }
h3 { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
p { margin: 0 0 16px; max-width: 76ch; }
.lead { font-size: 18px; margin: 0 0 18px; max-width: 90ch; text-wrap: pretty; }
.note { color: var(--muted); font-size: 14px; font-weight: 400; }
section > .note:last-child { margin: 14px 0 0; }
nav { margin: 20px 0 0; display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 15px; }
nav a { color: var(--ink); text-decoration-color: var(--muted); text-underline-offset: 4px; padding: 4px 0; }
a:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--rgb); outline-offset: 2px; }
section { margin-top: 28px; padding: 26px 28px 28px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; scroll-margin-top: 12px; }
dl.facts { margin: 22px 0 0; padding-top: 18px; border-top: 1px solid var(--line);
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px 28px; }
dl.facts dt { color: var(--muted); font-size: 13px; }
dl.facts dd { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
dl.facts .wide { grid-column: 1 / -1; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: 13px; }
dl.facts code { display: block; margin-top: 3px; padding: 9px 12px; background: var(--band); border-radius: 6px; }
pre { margin: 0; padding: 16px; background: var(--band); border-radius: 6px; line-height: 1.6; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; vertical-align: bottom; line-height: 1.35; }
thead small { display: block; font-size: 12px; font-weight: 400; }
tbody th { font-weight: 500; }
th:first-child { text-align: left; padding-left: 10px; position: sticky; left: 0; background: var(--card); }
td:last-child, th:last-child { padding-right: 10px; }
th.text, td.text { text-align: left; }
tbody tr:last-child > * { border-bottom: 0; }
td strong { font-weight: 750; }
tr.both > * { background: var(--band); }
.track { display: inline-block; width: 130px; height: 8px; margin-right: 2px; border-radius: 2px; vertical-align: 1px;
  background: linear-gradient(to right, var(--of) var(--share), var(--line) var(--share)); }
.number { display: inline-block; min-width: 52px; }
.name { display: flex; align-items: baseline; }
.name .key { flex: none; }
.key { display: inline-block; width: 26px; height: 10px; margin-right: 9px; overflow: visible; }
ul.legend { list-style: none; margin: 10px 0 14px; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 22px;
  font-size: 14px; }
ul.legend .key { margin-right: 7px; }
figure { margin: 0; }
figcaption { font-size: 14px; }
svg.plot { display: block; width: 100%; height: auto; }
svg.plot + .scroll { margin-top: 24px; }
h2 + .scroll { margin-top: 12px; }
svg.plot text { font-family: inherit !important; }
.narrow { display: none !important; }
ul.events { list-style: none; margin: 14px 0 0; padding: 0; font-size: 14px; }
ul.events li { display: flex; align-items: baseline; gap: 9px; padding: 3px 0; overflow-wrap: anywhere; }
ul.events span { min-width: 0; }
.mark { flex: none; width: 12px; height: 12px; align-self: center; }
svg.plot + ul.events + .scroll, .scroll + h3, .made + h3 { margin-top: 24px; }
.made { display: grid; grid-template-columns: repeat(4, minmax(0, 256px)); gap: 6px 8px; margin: 8px 0 4px; }
.made img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--band); }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); gap: 24px 26px; }
.curves figure { max-width: 350px; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 30px 32px; }
.examples .views { display: grid; grid-template-columns: repeat(2, 1fr); gap: 4px; margin-bottom: 7px; }
.examples .views.one { grid-template-columns: minmax(0, 440px); }
.examples img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--band); }
.examples figcaption .note { display: block; }
@media (max-width: 640px) {
  header, main { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 24px; }
  section { padding: 20px 16px 22px; margin-top: 16px; }
  .lead { font-size: 17px; }
  .wide-only { display: none !important; }
  .narrow { display: block !important; }
  .examples .views { grid-template-columns: 1fr; }
  .made { grid-template-columns: repeat(2, 1fr); }
  .made.three { grid-template-columns: repeat(3, 1fr); }
  .track { display: none; }
  table { font-size: 14px; }
  th, td { padding: 8px; }
  th:first-child { padding-left: 6px; }
  .name { white-space: normal; min-width: 130px; }
  .name .key { width: 18px; margin-right: 6px; }
}
@media print {
  body { background: none; }
  section { break-inside: avoid; border: 0; padding: 12px 0; }
}
"""

"""The skeleton and style of report.html, and a page of its kind to look at in a notebook."""

import html
from dataclasses import dataclass
from pathlib import Path

from flowgrpo.core.whole import write_text

PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head><body><main>
{body}
</main></body></html>
"""
STYLE = """
:root { color-scheme: light dark; --bg: #fff; --card: #f7f8fa; --fg: #171c26; --soft: #5d6778;
  --line: #dfe3ea; --old: #98a2b3; --new: #2563eb; --good: #12804a; --bad: #c4320a;
  --s1: #c2570c; --s2: #0d8f85; }
@media (prefers-color-scheme: dark) { :root { --bg: #101319; --card: #191d26; --fg: #eaedf3; --soft: #9aa4b5;
  --line: #303745; --old: #6b7688; --new: #7aa5ff; --good: #4cc38a; --bad: #ff8a65; --s1: #f5a35c;
  --s2: #4fd1c5; } }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 56px 20px 96px; }
h1 { font-size: clamp(40px, 10vw, 84px); line-height: 1.1; margin: 4px 0 12px; letter-spacing: -.035em; }
h1 span { color: var(--old); } h1 i { font-weight: 300; font-style: normal; color: var(--soft); }
h1.name { font-size: clamp(26px, 6vw, 44px); overflow-wrap: anywhere; }
h2 { margin: 72px 0 4px; font-size: 24px; letter-spacing: -.015em; }
p, dt, small, figcaption { color: var(--soft); } p { margin: 4px 0 16px; }
small { font-size: 13px; font-weight: 400; }
.rehearsal { border: 3px solid var(--bad); border-radius: 14px; padding: 16px 22px; margin-bottom: 40px; }
.rehearsal b { color: var(--bad); font-size: 20px; } .rehearsal ul { margin: 8px 0 0; padding-left: 20px; }
.eyebrow { font-size: 14px; overflow-wrap: anywhere; }
.metric { font-size: 20px; margin: 0; color: var(--fg); }
.gain { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; } .gain b { font-size: 20px; }
.good { color: var(--good); stroke: var(--good); } .bad { color: var(--bad); stroke: var(--bad); }
.open { color: var(--soft); stroke: var(--soft); } .gain > span { color: var(--soft); }
line.grid { stroke: var(--line); stroke-width: 1; }
dl { display: flex; flex-wrap: wrap; gap: 16px 40px; margin: 32px 0 0; padding-top: 20px;
  border-top: 1px solid var(--line); }
dt { font-size: 13px; } dd { margin: 0; font-size: 20px; font-weight: 600; }
.tags > div { display: grid; grid-template-columns: 200px 1fr 150px 72px; gap: 4px 20px; align-items: center;
  padding: 9px 0; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.tags svg { width: 100%; }
.tags span { text-align: right; white-space: nowrap; }
.tags small { display: block; } .tags line { stroke-width: 3; }
circle.after { fill: var(--new); stroke: none; } circle.before { fill: var(--old); stroke: none; }
circle.between { fill: var(--bg); stroke: var(--new); stroke-width: 2; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin: 0 6px 0 8px;
  background: var(--new); }
.key.before { background: var(--old); }
.key.between { background: none; box-shadow: inset 0 0 0 2px var(--new); }
.key.s1, .key.down { background: var(--s1); } .key.s2 { background: var(--s2); }
.cards { display: grid; gap: 20px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 236px), 1fr)); }
figure { margin: 0; }
.card { background: var(--card); border-radius: 14px; padding: 14px; border-top: 3px solid var(--line); }
.card.good { border-color: var(--good); } .card.bad { border-color: var(--bad); }
.card figcaption { margin-top: 10px; color: var(--fg); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; color: var(--soft); }
.pair > div { min-width: 0; }
.pair pre { margin: 0; padding: 18px 0; font-size: 15px; color: var(--fg); white-space: pre-wrap;
  overflow-wrap: anywhere; }
.pair img { width: 100%; display: block; border-radius: 8px; } .pixels, image { image-rendering: pixelated; }
.pair small { margin: 4px 0 2px; } .score { display: inline-block; font-size: 13px; margin-right: 10px; }
.score.good, .score.bad { font-weight: 650; }
.plots { display: grid; gap: 32px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); margin-top: 24px; }
figure svg { width: 100%; display: block; } figcaption b { color: var(--fg); margin-right: 10px; }
.card small { display: block; }
text { fill: var(--soft); font-size: 12px; } .end { text-anchor: end; } .mid { text-anchor: middle; }
path, polyline { fill: none; stroke: var(--new); stroke-width: 2; } .raw { stroke-width: 1; opacity: .3; }
polyline.s1, .tree .down { stroke: var(--s1); } polyline.s2 { stroke: var(--s2); }
.scroll { overflow-x: auto; } .tree circle { fill: var(--soft); } .tree text { font-size: 13px; }
.tree path { stroke-width: 3; }
.tree .ode, .tree .flat { stroke: var(--old); stroke-width: 1.5; } .tree .ode { stroke-dasharray: 3 5; }
.tree .turn { fill: none; stroke: var(--good); stroke-width: 2.5; } .tree .tiny { font-size: 10px; }
.key.turn { background: none; border-radius: 3px; box-shadow: inset 0 0 0 2px var(--good); }
.prompt { font-size: 20px; color: var(--fg); }
summary { margin: 20px 0; font-weight: 600; cursor: pointer; }
.config { margin-top: 72px; } .config summary { font-size: 24px; }
pre { overflow-x: auto; font-size: 13px; background: var(--card); padding: 20px; border-radius: 14px; }
@media (max-width: 640px) { main { padding: 28px 16px 64px; } h2 { margin-top: 56px; }
  .tags > div { grid-template-columns: 1fr auto 64px; } .tags svg { grid-row: 2; grid-column: 1 / -1; } }
"""


CLOSE = "main { padding-top: 16px; padding-bottom: 16px; } h2:first-child { margin-top: 0; }"
"""A page that is a part of another has no room around it."""


@dataclass(frozen=True)
class Page:
    """Shown by a notebook as it is, or saved as a file that opens offline. `body` is HTML."""

    title: str
    body: str

    def __str__(self) -> str:
        return PAGE.format(title=html.escape(self.title), style=STYLE + CLOSE, body=self.body)

    def save(self, file: Path | str) -> Path:
        write_text(Path(file), str(self))
        return Path(file)

    def _repr_html_(self) -> str:
        return framed(str(self))


def framed(page: str) -> str:
    """A whole page as a part of another, in a frame of its own that is as high as it is."""
    fit = "this.style.height=this.contentDocument.documentElement.scrollHeight+'px'"
    return f'<iframe style="width:100%;height:600px;border:0" onload="{fit}" srcdoc="{html.escape(page)}"></iframe>'

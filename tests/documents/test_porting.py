"""The router of docs/porting.md, copied out of the page, passes."""

import re
from pathlib import Path

from okr.spec.command import Request, run

PAGE = Path(__file__).parents[2] / "docs" / "porting.md"


def test_the_router_on_the_page_conforms(tmp_path, capsys):
    source = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S).group(1)
    script = tmp_path / "my_router.py"
    script.write_text(source)
    assert run(Request(f"{script}:Router", profile="smoke")) == 0, capsys.readouterr().out
    body = source[source.index("def projection") : source.index("class Router")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40

"""Chromium without a window, asked over a pipe in its DevTools protocol: open a page, press keys, see what is there."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

FOUND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--disable-extensions")
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8}
PATIENCE = 60.0
"""Seconds."""


class Browser:
    """One page. `console` has what it complained of, `asked` the addresses that it asked for, both since it was opened."""

    def __init__(self, profile: Path) -> None:
        theirs, self.out = os.pipe()
        self.read, ours = os.pipe()
        command = f'exec "$0" "$@" 3<&{theirs} 4>&{ours}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, FOUND, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self.rest, self.count, self.session = b"", 0, None
        self.console: list[str] = []
        self.asked: list[str] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.out)
        os.close(self.read)

    def call(self, method: str, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        os.write(self.out, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while (found := self._next()).get("id") != self.count:
            self._note(found)
        assert "error" not in found, found
        return found["result"]

    def _next(self):
        while b"\0" not in self.rest:
            more = os.read(self.read, 2**16)
            assert more, "the browser has ended"
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def _note(self, event) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Log.entryAdded":
                self.console.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.console.append(params["exceptionDetails"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url="about:blank")
        self.console.clear()
        self.asked.clear()
        self.call("Page.navigate", url=url)

    def js(self, expression: str):
        """Its value; None where it raises, as while the page is still being made."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for it to hold."""
        end = time.monotonic() + PATIENCE
        while self.js(expression) is not True:
            assert time.monotonic() < end, (expression, self.js("document.body.innerText"), self.console)
            time.sleep(0.05)

    def press(self, key: str) -> None:
        code = {"key": key, "windowsVirtualKeyCode": KEYS.get(key) or ord(key.upper())}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How many processes the tests have started: scripts that the server forked, interpreters and shells."""

from __future__ import annotations

import sys
from typing import Any

import script_server


started = 0


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    global started
    if event == "script_server.start":
        started += 1
    elif event == "subprocess.Popen":
        words = arguments[1]
        is_ours = not isinstance(words, (str, bytes)) and words[0] in (sys.executable, "bash")
        started += is_ours and script_server.__file__ not in words  # which runs nothing by itself


sys.addaudithook(_count)

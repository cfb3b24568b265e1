#!/usr/bin/env python3
"""In docker's place: notes each call's arguments in $DOCKER_LOG; what shall happen in a container happens here.

$DOCKER_STATE, JSON: `containers` and `images`, the simulator's label by name; `gpus`, as nvidia-smi lists them;
`refuses`, what every call says before it fails; `fails`, a word of calls that fail.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

FLAGS = {"--rm", "--init", "--sig-proxy=false", "--interactive", "--tty", "-d"}
"""Options of docker run and docker exec that take no value; the others take one."""

state, log, words = json.loads(os.environ["DOCKER_STATE"]), os.environ["DOCKER_LOG"], sys.argv[1:]
with open(log, "a") as file:
    file.write(json.dumps(words) + "\n")


def leave(code: int, text: str = "") -> None:
    print(text, file=sys.stderr if code else sys.stdout)
    sys.exit(code)


def local(path: str) -> Path:
    name, _, inside = path.partition(":")
    return Path(inside if name in state["containers"] else path)


if "refuses" in state:
    leave(1, state["refuses"])
if state.get("fails") in words:
    leave(1, "no space left on device")
if words[0] == "ps":
    leave(0)
if words[1] == "inspect":
    labels = state[words[0] + "s"]
    leave(1, "no such object") if words[-1] not in labels else None
    leave(0, "true" if "Running" in words[-2] else labels[words[-1]])
if words[0] == "cp":
    if words[1].endswith("/."):
        shutil.copytree(local(words[1]), local(words[2]), dirs_exist_ok=True)
    else:
        shutil.copy(local(words[1]), local(words[2]))
    leave(0)
if words[0] == "kill":
    os.kill(int(Path(f"{log}.{words[1]}").read_text()), getattr(signal, f"SIG{words[3]}"))
    leave(0)

at = 1  # docker run and docker exec: options, image or container, command
while words[at].startswith("-"):
    if words[at] == "--name":
        Path(f"{log}.{words[at + 1]}").write_text(str(os.getpid()))
    at += 1 if words[at] in FLAGS else 2
command = words[at + 1 :]
if "--entrypoint" in words[:at]:
    command.insert(0, words[words.index("--entrypoint") + 1])
if command[0] == "nvidia-smi":
    leave(0 if state.get("gpus") else 1, "\n".join(state.get("gpus", ["could not select device driver"])))
if command[0] == "chown":
    leave(0)
os.execvp(command[0], command)

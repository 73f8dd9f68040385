#!/usr/bin/env python3
"""Says what it runs on, and shows the files that the two build stages left behind."""

import pathlib
import platform

HERE = pathlib.Path(__file__).parent


def main() -> None:
    print(f"Python version: {platform.python_version()}")
    print(f"Architecture: {platform.machine()}")
    print(f"Platform: {platform.platform()}")
    for stage in ("amd64", "arm64"):
        arch = (HERE / f"{stage}_arch.txt").read_text().strip()
        message = (HERE / f"{stage}_message.txt").read_text().strip()
        print(f"Artefact of the {stage} stage: {arch}: {message}")


if __name__ == "__main__":
    main()

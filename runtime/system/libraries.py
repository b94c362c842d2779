"""System libraries that a Python package needs, and the package that brings each."""

import re

__all__ = ["remedy"]

# By Debian's and Ubuntu's names, which JetPack has as well.
_PACKAGES = {
    "libatomic.so.1": "libatomic1",
    "libportaudio.so.2": "libportaudio2",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libasound.so.2": "libasound2",
}
_NAME = re.compile(r"(lib[\w+.-]+?\.so(?:\.\d+)*)")


def remedy(error: BaseException, otherwise: str) -> str:
    """The command that mends an ImportError or OSError of loading a library; `otherwise` where no
    system library is missing."""
    for name in _NAME.findall(str(error)):
        if name in _PACKAGES and "No such file" in str(error):
            return f"sudo apt install {_PACKAGES[name]}"
    return otherwise

"""Things that may have a file's name and are no regular files: each maker takes the path."""

import os
import socket


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path may have 107 bytes; one relative to its folder is short.
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(path.parent)
            server.bind(path.name)
        finally:
            os.fchdir(before)
            os.close(before)


def make_large_text(path):
    path.write_bytes(b"x" * (60 << 20))


ODD_FILES = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "folder": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
}
"""Maker by kind. Reading a pipe waits for a writer, reading /dev/zero never ends."""
LARGE = {"60 MB of text": make_large_text}

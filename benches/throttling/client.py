"""An NBD client of a few lines. fio cannot send a flush while its writes wait: it waits for them first."""

import os
import socket
import struct
import time

OPTION, REQUEST, SIMPLE_REPLY = 0x49484156454F5054, 0x25609513, 0x67446698
OPT_GO, REP_ACK, WRITE, FLUSH = 7, 1, 1, 3
PATIENCE = 30


class Client:
    """A connection. Leaving it is without goodbye: what waits then is dropped by the server."""

    def __init__(self, path, export):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(os.fspath(path))
        self._take(18)
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        # Fixed newstyle without padding, then the option that names the export.
        self.socket.sendall(struct.pack(">IQII", 3, OPTION, OPT_GO, len(data)) + data)
        kind = None
        while kind != REP_ACK:
            _, _, kind, length = struct.unpack(">QIII", self._take(20))
            text = self._take(length)
            if kind >> 31:
                raise ConnectionError(f"refused: {text.decode(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def write(self, cookie, offset, data):
        """Sends a write and does not wait."""
        self.socket.sendall(struct.pack(">IHHQQI", REQUEST, 0, WRITE, cookie, offset, len(data)) + data)

    def flush_ms(self, cookie):
        """Sends a flush; how long its reply took. Replies to other requests are passed over."""
        begin = time.monotonic()
        self.socket.sendall(struct.pack(">IHHQQI", REQUEST, 0, FLUSH, cookie, 0, 0))
        while self.reply() != cookie:
            pass
        return (time.monotonic() - begin) * 1000

    def reply(self):
        """Waits for a reply; its cookie."""
        magic, error, cookie = struct.unpack(">IIQ", self._take(16))
        if magic != SIMPLE_REPLY or error:
            raise ConnectionError(f"a reply with magic {magic:#x} and error {error}")
        return cookie

    def _take(self, length):
        parts = []
        while length:
            part = self.socket.recv(length)
            if not part:
                raise ConnectionError("the server hung up")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

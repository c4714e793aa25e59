"""One end of a passfd channel, written from docs/protocol.md: requests, one after the other, and the peer's messages. Needs Debian's python3-msgpack."""
import os, socket, struct
import msgpack

HELLO, MESSAGE, REQUEST, REPLY, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE = range(9)
DESCRIPTOR = 70  # the extension type


class Fault(Exception):
    """Its args: code, message and data."""


class Channel:
    def __init__(self, path, **hello):
        self.bytes, self.descriptors, self.credit, self.goodbye = b'', [], 0, False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(path)
            _, user, _ = struct.unpack('3i', self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user not in (0, os.getuid()):
                raise PermissionError(f'{path} is of another user')
            self.send(HELLO, {'version': 1, **hello})
            self.hello = self.receive()[1]
        except BaseException:
            self.close()
            raise
        self.credit += self.hello.get('window', 0)

    def close(self):
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def send(self, kind, value=None, descriptors=(), id=0, allowance=0):
        body = b'' if value is None else msgpack.packb(value)
        frame = struct.pack('<IBBHI', len(body), kind, len(descriptors), allowance << 8, id) + body
        sent = socket.send_fds(self.socket, [frame], list(descriptors))
        self.socket.sendall(frame[sent:])  # the descriptors have left with the first byte
        return len(frame)

    def read(self, length):
        while len(self.bytes) < length:
            data, descriptors, flags, _ = socket.recv_fds(self.socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
            self.descriptors += descriptors
            if flags & socket.MSG_CTRUNC:
                raise OSError('descriptors were lost')
            if not data:
                raise EOFError('the peer has ended')
            self.bytes += data
        data, self.bytes = self.bytes[:length], self.bytes[length:]
        return data

    def receive(self):
        """The next frame: its kind and its value. The descriptors in it are the caller's to close."""
        length, kind, count, flags, id = struct.unpack('<IBBHI', self.read(12))
        body = self.read(length)
        self.read(flags & 7)  # padding
        descriptors, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        if len(descriptors) < count:
            raise OSError('a frame came without its descriptors')
        if count:
            self.send(TAKEN, id=count)
        if kind in (MESSAGE, REQUEST):
            self.send(CREDIT, id=12 + length + count)
        self.credit += id if kind == CREDIT else 0
        place = lambda type, index: descriptors[index[0]] if type == DESCRIPTOR else msgpack.ExtType(type, index)
        value = msgpack.unpackb(body, ext_hook=place) if body else None
        if kind == GOODBYE:
            self.goodbye = True
            raise EOFError(f'the peer says goodbye: {value}')
        return kind, value

    def request(self, value, descriptors=(), on_message=lambda value: None):
        """The answer. Messages that come before it go to `on_message`."""
        while self.credit <= 0:
            self.message(on_message)
        cost = len(descriptors) * self.hello.get('descriptorCost', 1)
        self.credit -= self.send(REQUEST, value, descriptors, 1, 253) + cost
        while (frame := self.receive())[0] not in (REPLY, FAULT):
            if frame[0] == MESSAGE:
                on_message(frame[1])
        kind, answer = frame
        if kind == FAULT:
            raise Fault(answer['code'], answer['message'], answer.get('data'))
        return answer

    def message(self, on_message):
        """Waits for one frame."""
        kind, value = self.receive()
        if kind == MESSAGE:
            on_message(value)

#!/usr/bin/python3
"""A peer in Python, written from docs/protocol.md: lends a file to the receiver example and gets a descriptor back.

    /usr/bin/python3 examples/python/peer.py /tmp/x.sock        needs Debian's python3-msgpack
"""
import os, socket, struct, sys, tempfile
import msgpack

HELLO, MESSAGE, REQUEST, REPLY, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE = range(9)
DESCRIPTOR = 70  # the extension type


class Peer:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.bytes, self.descriptors = b'', []

    def send(self, kind, value=None, descriptors=(), id=0, allowance=0):
        body = b'' if value is None else msgpack.packb(value)
        frame = struct.pack('<IBBHI', len(body), kind, len(descriptors), allowance << 8, id) + body
        sent = socket.send_fds(self.socket, [frame], list(descriptors))
        self.socket.sendall(frame[sent:])  # the descriptors have left with the first byte

    def read(self, length):
        while len(self.bytes) < length:
            data, descriptors, flags, _ = socket.recv_fds(self.socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
            self.descriptors += descriptors
            if flags & socket.MSG_CTRUNC:
                raise OSError('descriptors were lost')
            if not data:
                raise EOFError
            self.bytes += data
        data, self.bytes = self.bytes[:length], self.bytes[length:]
        return data

    def receive(self):
        """The next frame: its kind, id, value and descriptors, which are the caller's to close."""
        length, kind, count, flags, id = struct.unpack('<IBBHI', self.read(12))
        body = self.read(length)
        self.read(flags & 7)  # padding
        descriptors, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        if len(descriptors) < count:
            raise OSError('a frame came without its descriptors')
        if count:
            self.send(TAKEN, id=count)
        place = lambda type, index: descriptors[index[0]] if type == DESCRIPTOR else msgpack.ExtType(type, index)
        return kind, id, msgpack.unpackb(body, ext_hook=place) if body else {}, descriptors


peer = Peer(sys.argv[1])
peer.send(HELLO, {'version': 1, 'agent': 'peer.py', 'maxDescriptors': 1, 'window': 65536})
kind, _, hello, _ = peer.receive()
if kind == GOODBYE:
    sys.exit(f'python: not let in: {hello}')
print(f'python: process {os.getpid()} talks to {hello["agent"]}', flush=True)

with tempfile.TemporaryFile() as file:
    file.write(b'Written by Python.')
    file.seek(0)
    value = {'words': 'Please read this to me.', 'file': msgpack.ExtType(DESCRIPTOR, bytes([0]))}
    peer.send(REQUEST, value, [file.fileno()], id=1, allowance=1)
    while kind not in (REPLY, FAULT):  # credit and taken may come too: this peer sends too little to need them
        kind, _, answer, _ = peer.receive()
if kind == FAULT:
    sys.exit(f'python: the receiver says {answer["code"]}: {answer["message"]}')
with open(answer, 'rb') as pipe:  # the answer is nothing but a descriptor
    print(f'python: what came back says "{pipe.read().decode()}"', flush=True)

peer.send(GOODBYE, {})
while kind != GOODBYE:
    kind, _, _, _ = peer.receive()
print('python: both have said goodbye', flush=True)

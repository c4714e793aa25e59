#!/usr/bin/python3
"""Sends a file by peer.py, or answers one. The answer is another file: the same text in capitals.

    /usr/bin/python3 examples/python/capitals.py listen PATH      serves one channel
    /usr/bin/python3 examples/python/capitals.py connect PATH     makes one request
"""
import os, socket, struct, sys
sys.dont_write_bytecode = True
from peer import FAULT, REPLY, REQUEST, Descriptor, Peer


def file(text):
    number = os.memfd_create('text')
    os.write(number, text.encode())
    os.lseek(number, 0, os.SEEK_SET)
    return Descriptor(number)


def text(descriptor):
    with open(descriptor.number) as content:  # closes it
        return content.read()


def admitted(end):
    """A peer must be a process of the same user, or of root."""
    pid, user, _ = struct.unpack('3i', end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user not in (0, os.getuid()):
        sys.exit(f'python: process {pid} is of another user')
    return end


def name(peer):
    """As its hello says, without the version."""
    return peer.hello.get('agent', '').split('/')[0]


_, role, path = sys.argv
unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
if role == 'listen':
    os.umask(0o077)
    unix.bind(path)
    unix.listen()
    print(f'python: process {os.getpid()} listens', flush=True)
    peer = Peer(admitted(unix.accept()[0]))
    while event := peer.receive():
        if event.kind == REQUEST:
            said = text(event.value['file'])
            print(f'python: {name(peer)} sent {event.value["words"]}: {said}', flush=True)
            peer.send(REPLY, file(said.upper()), event.id)
    os.unlink(path)
else:
    unix.connect(path)
    peer = Peer(admitted(unix))
    peer.send(REQUEST, {'words': 'a letter', 'file': file('Written by Python.')}, id=1, allowance=1)
    answer = peer.receive()
    if answer.kind == FAULT:
        sys.exit(f'python: {name(peer)} answers {answer.value["code"]}')
    print(f'python: {name(peer)} answers: {text(answer.value)}', flush=True)
    peer.close()

#!/usr/bin/python3
"""A server in Python that replaces one of passfd/takeover, and is replaced by one, without a state: docs/takeover-protocol.md.

    /usr/bin/python3 examples/python/takeover_peer.py /run/web.takeover 3000 [/run/web.sock]      needs Debian's python3-msgpack

The first process binds the port and the path. A later one takes over all listeners of the one before, whatever language that is in.
"""
import errno, fcntl, os, selectors, signal, socket, struct, sys, time
import msgpack

HELLO, MESSAGE, REQUEST, REPLY, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE = range(9)
DESCRIPTOR = 70  # the extension type
TURN, SILENCE, ATTEMPT = 60, 10, 120  # seconds: until the offer; without a word; from the offer to the commit
BACKLOG = 511
SO_PASSRIGHTS = 83
PROGRAM = {'pid': os.getpid(), 'passfd': '', 'runtime': f'python {sys.version.split()[0]}'}


def say(text):
    print(text, flush=True)


class Channel:
    """One end of a passfd channel: docs/protocol.md."""

    def __init__(self, connection):
        self.socket, self.bytes, self.descriptors = connection, b'', []
        _, uid, _ = struct.unpack('3i', connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.getuid()):
            raise PermissionError(f'user {uid} is not let in')
        hello = {'version': 1, 'agent': 'takeover_peer.py', 'maxMessage': 1 << 20, 'maxDescriptors': 253, 'window': 1 << 20}
        self.send(HELLO, hello)

    def send(self, kind, value=None, descriptors=(), id=0, allowance=0):
        body = b'' if value is None else msgpack.packb(value)
        frame = struct.pack('<IBBHI', len(body), kind, len(descriptors), allowance << 8, id) + body
        sent = socket.send_fds(self.socket, [frame], list(descriptors))
        self.socket.sendall(frame[sent:])  # the descriptors have left with the first byte

    def receive(self):
        """Reads once, and returns the frames that are complete: (kind, id, value, descriptors), the caller's to close. @raises EOFError."""
        data, descriptors, flags, _ = socket.recv_fds(self.socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
        self.descriptors += descriptors
        if not data or flags & socket.MSG_CTRUNC:
            raise EOFError
        self.bytes += data
        frames = []
        while len(self.bytes) >= 12:
            length, kind, count, flags, id = struct.unpack('<IBBHI', self.bytes[:12])
            end = 12 + length + (flags & 7)
            if len(self.bytes) < end:
                break
            body, self.bytes = self.bytes[12 : 12 + length], self.bytes[end:]
            descriptors, self.descriptors = self.descriptors[:count], self.descriptors[count:]
            if len(descriptors) < count:
                raise EOFError
            if count:
                self.send(TAKEN, id=count)
            if kind in (MESSAGE, REQUEST):
                self.send(CREDIT, id=12 + length + count)
            if kind == GOODBYE:
                raise EOFError
            place = lambda type, index: descriptors[index[0]] if type == DESCRIPTOR else msgpack.ExtType(type, index)
            frames.append((kind, id, msgpack.unpackb(body, ext_hook=place) if body else None, descriptors))
        return frames

    def close(self, friendly=True):
        try:
            if friendly:
                self.send(GOODBYE, {})
        except OSError:
            pass
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []
        self.socket.close()


def ext(index):
    return msgpack.ExtType(DESCRIPTOR, bytes([index]))


class Server:
    def __init__(self, path, port, unix):
        self.path, self.port, self.unix = path, port, unix
        self.life = os.pipe()  # neither end is inherited by children; the write end is here alone
        self.listeners = []  # as they were offered: name, lane, kind, options, and the socket
        self.generation = 1
        self.attempt = None
        self.selector = selectors.DefaultSelector()

    # --- taking over

    def take(self):
        """Becomes the successor of whoever serves, or the first owner."""
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if self.bind():
                    return
                continue
            channel = Channel(connection)
            try:
                self.succeed(channel)
                return
            except (EOFError, TimeoutError, BrokenPipeError, ConnectionResetError):  # it has gone before the offer, or is stopped
                channel.close(friendly=False)
                for end in self.life:
                    os.close(end)
                self.life = os.pipe()  # one for each attempt
                time.sleep(0.01)

    def bind(self):
        directory = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            listener = listening_at(self.path)
            if listener is None:
                return False  # another one was faster
            self.seat = listener
            places = [('http', 'tcp-listener', {'port': self.port, 'host': '127.0.0.1'})]
            if self.unix:
                places.append(('unix', 'unix-stream-listener', {'path': os.path.abspath(self.unix), 'mode': 0o600}))
            for name, kind, options in places:
                if 'path' in options:
                    one = listening_at(options['path'])
                    if one is None:
                        sys.exit(f'{options["path"]} is in use')
                else:
                    one = socket.create_server(('127.0.0.1', self.port), backlog=BACKLOG)
                one.setblocking(False)
                self.listeners.append({'name': name, 'lane': 0, 'kind': kind, 'options': {**options, 'own': True}, 'socket': one})
            return True
        finally:
            os.close(directory)

    def ask(self, channel, value, descriptors=()):
        """The answer. Before the offer the owner says every 3 s that we have to wait."""
        channel.send(REQUEST, value, descriptors, id=1, allowance=253)
        while True:
            channel.socket.settimeout(SILENCE)
            for kind, _, answer, _ in channel.receive():
                if kind == REPLY:
                    channel.socket.settimeout(None)
                    return answer
                if kind == FAULT and answer['code'] == 'ERR_PASSFD_TAKEOVER_MOVED':
                    raise EOFError
                if kind == FAULT:
                    sys.exit(f'{answer["code"]}: {answer["message"]}')

    def succeed(self, channel):
        # The owner lets us in before it takes descriptors from us. It may be late: a successor that boots has the queue that we wait in
        channel.socket.settimeout(TURN)
        while not any(kind == HELLO for kind, *_ in channel.receive()):
            pass
        begin = {'do': 'begin', 'takeover': 1, 'needs': [], 'program': PROGRAM, 'life': ext(0)}
        offer = self.ask(channel, begin, [self.life[0]])
        if offer['needs']:
            sys.exit(f'the owner needs {offer["needs"]}')
        listeners, decision = offer['listeners'], offer.get('decision')
        while len(listeners) < offer['total']:
            part = self.ask(channel, {'do': 'more', 'from': len(listeners)})
            listeners += part['listeners']
            decision = part.get('decision')
        # This is where a larger program boots: until here nothing has happened
        for one in listeners:
            if one['name'] == 'passfd:admin':
                os.close(one['listener'])
            else:
                self.listeners.append({**one, 'socket': socket.socket(fileno=one.pop('listener'))})
        self.seat = socket.socket(fileno=offer['path'])
        self.generation = offer['generation'] + 1
        own = os.pipe()  # before the byte, because no descriptor may be free
        if os.read(decision, 1) == b'':
            sys.exit('too late: the predecessor has gone on')
        # From here on this process owns, and nothing waits before the mark
        for one in self.listeners:
            one['socket'].listen(one['options'].get('backlog') or BACKLOG)
        self.seat.listen(BACKLOG)
        os.write(self.life[1], b'\1')
        self.marked, self.life = self.life, own  # a stopped predecessor has not read the mark yet: nobody else may get it
        os.close(decision)
        os.close(offer['life'])
        self.watch(channel.socket, lambda: self.drain(channel))

    def drain(self, channel):
        """The predecessor's last words: connections that it has accepted, and none of its servers takes."""
        try:
            for _, _, value, descriptors in channel.receive():
                for descriptor in descriptors:
                    if value.get('do') == 'connections':
                        self.answer(socket.socket(fileno=descriptor))
                    else:
                        os.close(descriptor)
        except (EOFError, OSError):
            self.forget(channel)

    # --- serving

    def watch(self, file, handle):
        self.selector.register(file, selectors.EVENT_READ, handle)

    def watches(self, file):
        try:
            return file in self.selector.get_map()
        except ValueError:
            return False  # it is closed

    def accept(self, listener):
        try:
            self.answer(listener.accept()[0])
        except BlockingIOError:
            pass  # the other process was faster

    def answer(self, connection):
        connection.settimeout(1)
        try:
            connection.sendall(f'{os.getpid()} -'.encode())
        except OSError:
            pass  # the client has gone
        connection.close()

    def run(self):
        for one in self.listeners:
            self.watch(one['socket'], lambda listener=one['socket']: self.accept(listener))
        self.seat.setblocking(False)
        self.watch(self.seat, self.admit)
        say(f'python: process {os.getpid()} serves at {self.listeners[0]["socket"].getsockname()[1]}')
        while True:
            wait = None if self.attempt is None else max(0, self.attempt['until'] - time.monotonic())
            for key, _ in self.selector.select(wait):
                if self.watches(key.fileobj):  # another handler may have ended it
                    key.data()
            if self.attempt is not None and time.monotonic() >= self.attempt['until']:
                self.interrupted()

    # --- as the owner

    def admit(self):
        try:
            connection = self.seat.accept()[0]
        except BlockingIOError:
            return
        try:
            allow_descriptors(connection)
            channel = Channel(connection)
        except OSError:  # a stranger, or one that has gone
            connection.close()
            return
        self.watch(connection, lambda: self.hear(channel))

    def hear(self, channel):
        try:
            for kind, id, value, descriptors in channel.receive():
                if kind != REQUEST:
                    continue
                do = value.get('do') if isinstance(value, dict) else None
                if do == 'begin' and self.attempt is None and not value['needs']:
                    self.offer(channel, id, value)
                    continue
                for descriptor in descriptors:
                    os.close(descriptor)
                if do == 'drops':
                    channel.send(REPLY, {}, id=id)
                elif do == 'begin' and self.attempt is not None:
                    self.fault(channel, id, 'BUSY', 'another process takes over', {'pid': self.attempt['pid']})
                elif do == 'begin':
                    self.fault(channel, id, 'VERSION', f'this process knows none of {value["needs"]}')
                elif do == 'status':
                    channel.send(REPLY, {'owner': PROGRAM, 'generation': self.generation, 'since': STARTED, 'chain': []}, id=id)
                else:
                    self.fault(channel, id, 'PROTOCOL', f'there is no {do} here: this process has no state')
        except (EOFError, OSError):
            if self.attempt is not None and self.attempt['channel'] is channel:
                self.look()
                self.interrupted()
            self.forget(channel)

    def fault(self, channel, id, code, message, data=None):
        channel.send(FAULT, {'code': f'ERR_PASSFD_TAKEOVER_{code}', 'message': message, 'data': data}, id=id)

    def offer(self, channel, id, begin):
        decision, writable = os.pipe()
        os.write(writable, b'\1')
        os.close(writable)
        self.attempt = {
            'channel': channel, 'pid': begin['program']['pid'], 'life': begin['life'],
            'decision': decision, 'until': time.monotonic() + ATTEMPT
        }
        os.set_blocking(begin['life'], False)
        self.watch(begin['life'], self.look)
        kept = len(self.listeners)
        entries = [{key: one[key] for key in ('name', 'lane', 'kind', 'options')} for one in self.listeners]
        answer = {
            'takeover': 1, 'needs': [], 'program': PROGRAM, 'generation': self.generation, 'total': kept,
            'listeners': [{**one, 'listener': ext(index)} for index, one in enumerate(entries)],
            'decision': ext(kept), 'path': ext(kept + 1), 'life': ext(kept + 2)
        }
        files = [one['socket'].fileno() for one in self.listeners] + [decision, self.seat.fileno(), self.life[0]]
        channel.send(REPLY, answer, files, id=id)

    def look(self):
        """The candidate's life pipe: its mark, or its end."""
        if self.attempt is None:
            return
        try:
            mark = os.read(self.attempt['life'], 1)
        except BlockingIOError:
            return
        if mark:
            self.let_go()
        # It has touched nothing. Without the byte it had committed, and may have called listen()
        elif os.read(self.attempt['decision'], 1) == b'':
            self.roll_back(listens=True)
        else:
            self.roll_back(listens=False)

    def interrupted(self):
        """The channel has ended, or the time is over: only the byte tells whether the candidate has committed."""
        if self.attempt is None:
            return
        if os.read(self.attempt['decision'], 1):
            self.roll_back(listens=False)
        else:
            self.attempt['until'] = float('inf')  # its mark, or the end of its life pipe, decides
            say(f'python: process {self.attempt["pid"]} has committed and is silent')

    def roll_back(self, listens):
        attempt, self.attempt = self.attempt, None
        self.selector.unregister(attempt['life'])
        os.close(attempt['life'])
        os.close(attempt['decision'])
        self.forget(attempt['channel'])
        if listens:
            for one in self.listeners:
                one['socket'].listen(one['options'].get('backlog') or BACKLOG)
            self.seat.listen(BACKLOG)
        say(f'python: process {attempt["pid"]} has given up')

    def forget(self, channel):
        if self.watches(channel.socket):
            self.selector.unregister(channel.socket)
            channel.close()

    def let_go(self):
        """A larger program finishes its requests here. The files of the paths stay: they are the successor's."""
        say(f'python: process {self.attempt["pid"]} has taken over')
        for one in self.listeners:
            one['socket'].close()
        self.seat.close()
        self.attempt['channel'].close()
        sys.exit(0)


def allow_descriptors(connection):
    """A predecessor with passfd may have switched them off at the listener of the path (Linux 6.16), and connections inherit that."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise


def listening_at(path):
    """A listener at a path where nobody listens, else None. The directory is locked."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError:
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            probe.connect(path)
            listener.close()
            return None
        except ConnectionRefusedError:
            os.unlink(path)
            listener.bind(path)
        finally:
            probe.close()
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    return listener


STARTED = int(time.time() * 1000)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = Server(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
server.take()
server.run()

"""A peer of passfd in Python, written from docs/protocol.md; capitals.py uses it. Needs Debian's python3-msgpack."""
import collections, contextlib, os, socket, struct
import msgpack

HELLO, MESSAGE, REQUEST, REPLY, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE = range(9)
DEFAULTS = {'version': 0, 'maxMessage': 65536, 'maxDescriptors': 0, 'window': 0, 'descriptorCost': 1}  # of a hello
UNKNOWN = {MESSAGE: 0xfff0, REQUEST: 0xf0, REPLY: 0xfff0}  # flags; of other kinds: 0xfff8
Event = collections.namedtuple('Event', 'kind id value cost')
Descriptor = collections.namedtuple('Descriptor', 'number unread', defaults=[None])  # `unread`: bytes, of a connection


def need(fine, code):
    if not fine: raise ConnectionError('ERR_PASSFD_' + code)


def close(numbers):
    for number in numbers: os.close(number)


def pack(value):
    numbers = []
    def place(item):  # msgpack calls it for each value of another type than its own
        numbers.append(item.number)
        index = bytes([len(numbers) - 1])
        return msgpack.ExtType(70, index) if item.unread is None else msgpack.ExtType(67, index + item.unread)
    return msgpack.packb(value, default=place, strict_types=True), numbers


def unpack(body, numbers):
    used = []
    def place(type, data):
        need(type in (67, 70), 'UNDECODABLE')
        need(data and data[0] < len(numbers) and (type == 67 or len(data) == 1), 'DESCRIPTOR_COUNT')
        used.append(data[0])
        return Descriptor(numbers[data[0]], data[1:] if type == 67 else None)
    try:
        value = msgpack.unpackb(body, ext_hook=place, strict_map_key=False)
    except (ValueError, TypeError):
        need(False, 'UNDECODABLE')
    need(len(set(used)) == len(used) == len(numbers), 'DESCRIPTOR_COUNT')
    return value


class Peer:
    """One end of a channel. Its methods block, and read frames while they wait. `limits` are those of its hello."""
    def __init__(self, connected, **limits):
        self.limits = {**DEFAULTS, 'version': 1, 'maxDescriptors': 253, 'window': 65536, **limits}
        self.socket, self.hello, self.credit, self.granted = connected, None, 0, self.limits['window']
        self.bytes, self.arrived, self.inbox = bytearray(), [], collections.deque()
        self.unconfirmed = []  # sent descriptors: `taken` closes them; those that are left at the end are the caller's
        self.asked, self.due, self.cancelled = {}, {}, set()  # open requests, its own and the peer's: id to allowance
        self.parting = self.parted = self.over = False  # its own goodbye, the peer's goodbye, the end
        self.send(HELLO, {'agent': 'peer.py', **self.limits})
        while self.hello is None: self.step()

    def send(self, kind, value=None, id=0, allowance=0):
        """`value`: of a message, request, reply, fault (a map of `code` and `message`) or goodbye. A cancel has none."""
        body, numbers = (b'', []) if CANCEL <= kind <= TAKEN else pack(value)
        most = self.due[id] if kind == REPLY else self.hello['maxDescriptors'] if self.hello else 0
        if len(numbers) > most or self.hello and len(body) > self.hello['maxMessage']:
            raise ValueError('more than the peer accepts')
        if kind in (MESSAGE, REQUEST):
            while self.credit <= 0 and not self.parting: self.step()
            need(not self.parting, 'CHANNEL_CLOSED')
            self.credit -= 12 + len(body) + len(numbers) * self.hello['descriptorCost']
        if kind == REQUEST: self.asked[id] = allowance
        if kind in (REPLY, FAULT): del self.due[id]
        if kind == CANCEL: self.cancelled.add(id)
        self.parting |= kind == GOODBYE
        self.unconfirmed += numbers
        frame = struct.pack('<IBBHI', len(body), kind, len(numbers), allowance << 8, id) + body
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the peer's last frames may still be there to read
            sent = socket.send_fds(self.socket, [frame], numbers)
            self.socket.sendall(frame[sent:])  # without descriptors: they have left with the first byte

    def receive(self):
        """The next message, request, reply, fault or cancel; None at the end. The caller closes the descriptors in it."""
        while not self.inbox and not self.over: self.step()
        event = self.inbox.popleft() if self.inbox else None
        if event and event.cost and not self.parting:
            self.granted += event.cost
            self.send(CREDIT, id=event.cost)
        return event

    def close(self):
        """Waits until all is answered and confirmed, and until the peer has closed, too. The peer's open requests fail."""
        while not self.over:
            for id in list(self.due): self.send(FAULT, {'code': 'ERR_PASSFD_UNANSWERED', 'message': ''}, id)
            if not (self.parting or self.asked or self.unconfirmed): self.send(GOODBYE, {})
            self.step()

    def step(self):
        """Reads one frame, and does what it asks for; or reads the end."""
        try:
            if self.parting and self.parted and not self.asked and not self.due: self.socket.shutdown(socket.SHUT_WR)
            self.fill(12)
            self.frame(*struct.unpack_from('<IBBHI', self.bytes))
        except (OSError, EOFError) as error:  # need() raises an OSError
            if not (self.parting or self.parted): self.send(GOODBYE, {'code': str(error)[:64], 'message': ''})
            self.over = self.parting = True
            close(self.arrived)
            self.socket.close()
            if isinstance(error, OSError): raise

    def fill(self, size):
        while len(self.bytes) < size:
            need(len(self.arrived) <= 253, 'DESCRIPTORS_AHEAD')
            data, numbers, flags, _ = socket.recv_fds(self.socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
            self.bytes += data
            self.arrived += numbers
            need(not flags & socket.MSG_CTRUNC, 'DESCRIPTORS_TRUNCATED')
            if not data: raise EOFError if self.parted and not self.bytes else ConnectionError('ERR_PASSFD_DISCONNECTED')

    def frame(self, length, kind, count, flags, id):
        costs, answers, bare = kind in (MESSAGE, REQUEST), kind in (REPLY, FAULT), CANCEL <= kind <= TAKEN
        need(kind <= GOODBYE and not flags & UNKNOWN.get(kind, 0xfff8) and not (bare and length), 'BAD_FRAME')
        need(count <= (253 if costs or kind == REPLY else 0) and (not self.parted or answers or kind == TAKEN), 'BAD_FRAME')
        need((kind == HELLO) == (self.hello is None) or kind == GOODBYE, 'BAD_HELLO')
        need(not flags & 8, 'UNDECODABLE')  # it has not listed the feature `records`
        need(length <= (self.limits['maxMessage'] if self.hello else 4096), 'FRAME_TOO_LARGE')
        need(not costs or self.granted > 0, 'CREDIT_EXCEEDED')
        need(id not in self.due if kind == REQUEST else id in self.asked or not answers, 'BAD_ID')
        need(count <= (self.limits['maxDescriptors'] if costs else self.asked.get(id, 0)), 'DESCRIPTOR_COUNT')
        self.fill(12 + length + (flags & 7))
        need(count <= len(self.arrived), 'DESCRIPTORS_MISSING')
        value = {} if bare or kind == GOODBYE and not length else unpack(self.bytes[12:12 + length], self.arrived[:count])
        need(kind not in (FAULT, GOODBYE) or isinstance(value, dict), 'UNDECODABLE')
        numbers, self.arrived = self.arrived[:count], self.arrived[count:]
        del self.bytes[:12 + length + (flags & 7)]
        if kind == HELLO:
            hello = {**DEFAULTS, **value} if isinstance(value, dict) else DEFAULTS
            need(all(type(hello[key]) is int and 0 <= hello[key] - (key == 'version') < 1 << 32 for key in DEFAULTS), 'BAD_HELLO')
            self.hello, self.credit = hello, hello['window']
        elif kind == CREDIT: self.credit += id
        elif kind == TAKEN:
            need(id <= len(self.unconfirmed), 'BAD_TAKEN')
            close([self.unconfirmed.pop(0) for _ in range(id)])
        elif kind == GOODBYE:
            self.parted = True
            if value.get('code'): raise ConnectionError(value['code'])
            if not self.parting: self.send(GOODBYE, {})
        elif costs and self.parting: close(numbers)
        elif kind != CANCEL or id in self.due:
            if kind == REQUEST: self.due[id] = flags >> 8
            if answers: del self.asked[id]
            if count: self.send(TAKEN, id=count)
            if answers and id in self.cancelled: return close(numbers) or self.cancelled.remove(id)
            self.inbox.append(Event(kind, id, value, costs and 12 + length + count * self.limits['descriptorCost']))
            self.granted -= self.inbox[-1].cost

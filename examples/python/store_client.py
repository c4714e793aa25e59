#!/usr/bin/python3
"""A client of a store, written from docs/store-protocol.md: it survives the replacement of the store and its death. Needs Debian's python3-msgpack.
    store_client.py PATH put NAME FD… | take NAME COMMAND… (the file is its standard input) | list | remove NAME | watch"""
import os, subprocess, sys, time, msgpack
from channel import DESCRIPTOR, Channel, Fault
class Store:
    def __init__(self, path, patience=30):  # so many seconds a request waits for a store
        self.path, self.patience, self.client, self.epoch, self.channel, self.goodbye = path, patience, os.urandom(16), None, None, False
        self.id = self.sent = self.forgotten = self.number = 0  # of requests: the last, that was sent, that a store may not know; of the watch
        self.pending, self.answers, self.kept, self.watches, self.events, self.died = {}, {}, {}, {}, [], set()
    def put(self, name, files, value=None, **options):  # owner, ttl, poll, keep, replace. The caller's files stay open
        body = {} if value is None else {'value': msgpack.packb(value)}
        body['descriptors'] = [msgpack.ExtType(DESCRIPTOR, bytes([index])) for index in range(len(files))]
        return self.change({'do': 'put', 'name': name, **body, **options}, [os.dup(file) for file in files])['entry']
    def copy(self, name, **owner): return self.ask({'do': 'copy', 'name': name, **owner})
    def take(self, name, **owner): return self.change({'do': 'take', 'name': name, **owner})  # an entry to keep or release, or None
    def keep(self, taken): self.change({'do': 'keep', 'entry': taken['entry'], 'of': taken['of']})
    def release(self, taken): self.change({'do': 'release', 'entry': taken['entry'], 'of': taken['of']})  # the caller closes the files
    def remove(self, name, **owner): return self.change({'do': 'remove', 'name': name, **owner})
    def list(self, after=0, **selection):  # names, owner
        part = self.ask({'do': 'list', 'after': after, **selection})
        return part['entries'] + (self.list(part['after'], **selection) if part.get('after') else [])
    def watch(self, **selection):  # one at a time: yields what is there first, and after each reconnect; then what changes
        self.number = number = self.number + 1
        self.watches[number] = self.ask({'do': 'watch', 'watch': number, **selection}) or selection
        while True:
            while self.events: yield self.events.pop(0)
            self.retry(lambda: self.events or self.channel.message(self.told))
    def told(self, message):
        if message['event'] == 'gone': [os.close(file) for file in self.kept.pop(message['entry'], (0, ()))[1]]
        else: self.events.append(message)
    def ask(self, request): return self.retry(lambda: self.channel.request(request, (), self.told))
    def change(self, request, files=()):
        self.id, id = self.id + 1, self.id + 1
        self.pending[id] = request, files
        if isinstance(answer := self.retry(lambda: self.answers.pop(id)), Fault): raise answer
        return answer
    def retry(self, work):
        until = time.monotonic() + self.patience
        while True:
            try:
                if self.channel is None: self.connect()
                for id in sorted(self.pending): self.settle(id, *self.pending[id])  # also what has to be put again
                return work()
            except (OSError, EOFError) as error:
                if self.channel is not None: self.goodbye, self.channel = self.goodbye or self.channel.goodbye, self.channel.close()
                if time.monotonic() > until: raise Fault('ERR_PASSFD_STORE_UNREACHABLE', str(error)) from error  # this client is over
                time.sleep(0.01)
    def settle(self, id, request, files):
        answer = self.answer(id, request, request.get('of', self.epoch), files)
        if isinstance(answer, Fault) and answer.args[0] == 'ERR_PASSFD_STORE_MOVED': raise EOFError(answer)
        if isinstance(answer, dict) and request['do'] == 'take': answer['of'] = self.epoch
        self.answers[id], _ = answer, self.pending.pop(id)
        if request.get('keep') and isinstance(answer, dict) and not answer.get('gone'): self.kept[answer['entry']] = request, files
        else: [os.close(file) for file in files]
    def answer(self, id, request, of, files):
        if id <= self.forgotten: return Fault('ERR_PASSFD_STORE_UNKNOWN', 'it may be done')
        if of in self.died - {self.epoch}: return None  # the store has died with the lease: the files are this process's own
        if of != self.epoch: return Fault('ERR_PASSFD_STORE_LEASE_OVER', 'the store was lost')
        self.sent = max(id, self.sent)
        try: return self.channel.request({**request, 'id': id, 'seen': id - 1}, files, self.told)
        except Fault as fault: return fault
    def connect(self):
        self.channel = channel = Channel(self.path, agent='store_client.py', maxMessage=1 << 20, maxDescriptors=253, window=1 << 20)
        answer = channel.request({'do': 'hello', 'store': 1, 'client': self.client, 'kept': (kept := list(self.kept))[:1024]}, (), self.told)
        if self.epoch not in (None, answer['epoch']):  # the store was lost with everything in it
            self.died |= set() if self.goodbye else {self.epoch}
            for self.id, put in enumerate([self.kept.pop(entry) for entry in list(self.kept)], self.id + 1): self.pending[self.id] = put
        elif not answer['known']: self.forgotten = self.sent
        self.epoch, self.goodbye = answer['epoch'], False
        for at in range(1024, len(kept), 1024): answer['gone'] += channel.request({'do': 'kept', 'entries': kept[at:at + 1024]}, (), self.told)['gone']
        for entry in answer['gone']: self.told({'event': 'gone', 'entry': entry})
        for number, selection in self.watches.items(): channel.request({'do': 'watch', 'watch': number, **selection}, (), self.told)
if __name__ == '__main__':
    store, do, args = Store(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if do == 'put': store.put(args[0], [int(file) for file in args[1:]])
    elif do != 'take': [print(one, flush=True) for one in ([store.remove(*args)] if do == 'remove' else getattr(store, do)())]
    elif taken := store.take(args[0]): sys.exit(store.keep(taken) or subprocess.call(args[1:], stdin=taken['descriptors'][0]))
    else: sys.exit(f'there is no {args[0]}')

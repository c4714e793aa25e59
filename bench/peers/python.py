"""Python's socket.send_fds and recv_fds, blocking, between this process and a child of it: what floor.c does, from Python.

  python.py descriptors           one descriptor and 64 bytes a call, each received and closed: descriptors/s
  python.py descriptors-many      64 descriptors a call
  python.py request-descriptor    64 bytes and a descriptor there, 64 bytes back: microseconds, median

Prints "ready", and the value each time that a line comes on stdin.
"""
import os
import socket
import statistics
import sys
import time

MESSAGE = bytes(64)
MARK = b'\1' + bytes(63)
BURST = 64
WARM_UP = float(os.environ.get('BENCH_FLOOR_WARM_UP', 100)) / 1000
MEASURED = float(os.environ.get('BENCH_MEASURED', 300)) / 1000


def open_descriptors():
    return len(os.listdir('/proc/self/fd'))


def receive_all(end, size):
    data = b''
    while len(data) < size:
        chunk = end.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def receive(end, each):
    """One message; closes its descriptors and tells how many they were."""
    data, descriptors, flags, _ = socket.recv_fds(end, len(MESSAGE), each)
    if flags & socket.MSG_CTRUNC:
        sys.exit('descriptors are missing')
    for descriptor in descriptors:
        os.close(descriptor)
    if 0 < len(data) < len(MESSAGE):
        data += receive_all(end, len(MESSAGE) - len(data))
    return data, len(descriptors)


def one_way_far(end, each):
    before = open_descriptors()
    count = 0
    while True:
        data, came = receive(end, each)
        if not data:
            return
        if data == MESSAGE:
            if came != each:
                sys.exit(f'{came} descriptors came')
            count += 1
            continue
        end.sendall(count.to_bytes(8, 'little'))
        count = 0
        if open_descriptors() > before:
            sys.exit('descriptors are left open')


def one_way(end, each, seconds):
    descriptors = [sys.stderr.fileno()] * each
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(BURST):
            if socket.send_fds(end, [MESSAGE], descriptors) != len(MESSAGE):
                sys.exit('a short write')
        count += BURST
    end.sendall(MARK)
    arrived = int.from_bytes(receive_all(end, 8), 'little')
    took = time.perf_counter() - start
    if arrived != count:
        sys.exit(f'{arrived} of {count} arrived')
    return count * each / took


def round_trip_far(end, each):
    before = open_descriptors()
    while True:
        data, came = receive(end, each)
        if not data:
            break
        if came != each:
            sys.exit(f'{came} descriptors came')
        end.sendall(MESSAGE)
    if open_descriptors() > before:
        sys.exit('descriptors are left open')


def round_trips(end, each, seconds):
    descriptors = [sys.stderr.fileno()] * each
    times = []
    start = sent = time.perf_counter()
    while sent - start < seconds:
        socket.send_fds(end, [MESSAGE], descriptors)
        if receive_all(end, len(MESSAGE)) != MESSAGE:
            sys.exit('a wrong answer')
        answered = time.perf_counter()
        times.append(answered - sent)
        sent = answered
    return statistics.median(times) * 1e6


def main(workload):
    each = 64 if workload == 'descriptors-many' else 1
    near, far = (round_trips, round_trip_far) if workload == 'request-descriptor' else (one_way, one_way_far)
    mine, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        mine.close()
        if 'BENCH_FAR_CPU' in os.environ:
            os.sched_setaffinity(0, [int(os.environ['BENCH_FAR_CPU'])])
        far(theirs, each)
        return
    theirs.close()
    near(mine, each, WARM_UP)
    print('ready', flush=True)
    for _ in sys.stdin:
        print(near(mine, each, MEASURED), flush=True)
    mine.close()
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit('the far end failed')


main(sys.argv[1])

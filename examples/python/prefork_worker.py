#!/usr/bin/python3
"""An HTTP worker in Python, with nothing but its standard library, for passfd/prefork:

    new Supervisor({ command: ['python3', 'prefork_worker.py'], listeners: { http: { port: 3000 } } })

It takes its listener as sd_listen_fds(3) says and tells how it is as sd_notify(3) says: systemd could start it as well.
"""
import os, signal, socket, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def listener(name):
    if os.environ.get('LISTEN_PID') != str(os.getpid()):
        raise SystemExit('the listeners are not for this process')
    return socket.socket(fileno=3 + os.environ['LISTEN_FDNAMES'].split(':').index(name))


def notify(text):
    name = os.environ.get('NOTIFY_SOCKET')
    if name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(text.encode(), name.replace('@', '\0', 1))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f'{os.getpid()} {self.path}\n'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for the requests in flight

    def service_actions(self):  # from the loop that accepts: if it hangs, nothing is said
        notify('WATCHDOG=1')


server = Server(('', 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = listener('http')
# From another thread, as it waits for the loop that the signal has interrupted
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
notify(f'READY=1\nSTATUS=serving in Python {os.getpid()}')
patience = int(os.environ.get('WATCHDOG_USEC', 2_000_000)) / 1_000_000
server.serve_forever(poll_interval=min(0.5, patience / 2))
notify('STOPPING=1')
server.server_close()

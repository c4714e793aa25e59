/* Sends a file by peer.c, or answers one. The answer is another file: the same text in capitals.

     cc -o capitals examples/c/capitals.c
     ./capitals listen PATH      serves one channel
     ./capitals connect PATH     makes one request                        */
#include "peer.c"
#include <ctype.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>

static int file(const char *text) {
  int fd = memfd_create("text", MFD_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0) exit(1);
  return fd;
}

static char *text(int fd, char into[256]) {
  ssize_t length = read(fd, into, 255);
  into[length > 0 ? length : 0] = 0;
  close(fd);
  return into;
}

/* A peer must be a process of the same user, or of root. */
static int admitted(int end) {
  struct ucred other;
  if (end < 0 || getsockopt(end, SOL_SOCKET, SO_PEERCRED, &other, &(socklen_t){sizeof other}) < 0) return perror("c"), exit(1), 0;
  if (other.uid != 0 && other.uid != getuid()) exit(77);
  return end;
}

int main(int count, char **arguments) {
  static struct peer peer = {.own = {1, 65536, MOST, 65536, 1}};
  static struct event event;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int unix_socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (count != 3) return fputs("capitals listen PATH | capitals connect PATH\n", stderr), 64;
  bool listens = strcmp(arguments[1], "listen") == 0;
  char words[256], said[256], agent[64];
  snprintf(address.sun_path, sizeof address.sun_path, "%s", arguments[2]);
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (listens) {
    umask(0077);
    if (bind(unix_socket, (struct sockaddr *)&address, sizeof address) < 0 || listen(unix_socket, 1) < 0) return perror("c"), 1;
    printf("c: process %d listens\n", getpid());
    peer.socket = admitted(accept4(unix_socket, NULL, NULL, SOCK_CLOEXEC));
    close(unix_socket);
  } else {
    if (connect(unix_socket, (struct sockaddr *)&address, sizeof address) < 0) return perror("c"), 1;
    peer.socket = admitted(unix_socket);
  }
  if (peer_start(&peer, &event) < 0) return fprintf(stderr, "c: %s\n", peer.code), 1;
  find_text(event.value, event.end, "agent", agent, sizeof agent);
  agent[strcspn(agent, "/")] = 0; /* without the version */

  struct body body = begin();
  struct item item;
  int got;
  if (listens) {
    while ((got = peer_receive(&peer, &event)) == 1) {
      if (event.kind != REQUEST) continue;
      find_text(event.value, event.end, "words", words, sizeof words);
      find(event.value, event.end, "file", &item); /* there is one descriptor, and so its index is 0 */
      printf("c: %s sent %s: %s\n", agent, words, text(event.fds[0], said));
      for (char *at = said; *at; at++) *at = toupper(*at);
      put_descriptor(&body, file(said));
      peer_send(&peer, REPLY, body, event.id, 0);
      body = begin();
    }
    unlink(arguments[2]);
  } else {
    put_map(&body, 2), put_text(&body, "words"), put_text(&body, "a letter"), put_text(&body, "file");
    put_descriptor(&body, file("Written by C."));
    peer_send(&peer, REQUEST, body, 1, 1);
    body = begin();
    got = peer_receive(&peer, &event);
    if (got == 1 && event.kind == REPLY && event.count == 1) printf("c: %s answers: %s\n", agent, text(event.fds[0], said));
    else fprintf(stderr, "c: no file came\n");
    if (got == 1) got = peer_close(&peer, &event);
  }
  free(body.bytes), free(peer.unconfirmed);
  return got == 0 ? 0 : (fprintf(stderr, "c: %s\n", peer.code), 1);
}

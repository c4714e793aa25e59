/* A peer of passfd in C, written from docs/protocol.md; capitals.c includes it. Its functions block. */
#define _GNU_SOURCE
#include <endian.h>
#include "fds.h"
#include "msgpack.h"

enum { HELLO, MESSAGE, REQUEST, REPLY, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE, REQUESTS = 64 };
enum { VERSION, MAX_MESSAGE, MAX_DESCRIPTORS, WINDOW, COST, NUMBERS }; /* of a hello */
static const struct { const char *name; uint32_t least, missing; } LIMITS[NUMBERS] = {
  {"version", 1, 0}, {"maxMessage", 0, 65536}, {"maxDescriptors", 0, 0}, {"window", 0, 0}, {"descriptorCost", 0, 1}};

struct request { bool open, cancelled; int64_t id; uint32_t allowance; };
struct event { /* a message, request, reply, fault or cancel; the value is valid until the next call */
  int kind, count, fds[MOST];
  uint32_t id;
  const unsigned char *value, *end;
};

struct peer { /* set `socket` and `own`, and the rest to 0 */
  int socket, arrived[2 * MOST], arrivedCount;
  uint32_t own[NUMBERS], its[NUMBERS]; /* the numbers in its own hello, and in the peer's */
  int64_t credit;
  unsigned char *bytes; /* what was read: `handled` bytes are over */
  size_t length, handled;
  int *unconfirmed, unconfirmedCount;            /* sent descriptors; those that are left at the end are the caller's again */
  struct request asked[REQUESTS], due[REQUESTS]; /* without an answer: its own, and the peer's */
  bool greeted, closing, parting, parted, over;  /* the peer's hello; peer_close(); its own goodbye; the peer's; the end */
  char code[80];                                 /* of the error with which it has ended */
};

/* The open request of that id (-1: any); or, if `open` is false, a free place. */
static struct request *place(struct request *requests, bool open, int64_t id) {
  for (int i = 0; i < REQUESTS; i++)
    if (requests[i].open == open && (!open || id < 0 || requests[i].id == id)) return &requests[i];
  return NULL;
}

/* Sends a frame, and frees the body. 1: its descriptors are the peer's now. 0: there is no credit, receive first. -1: it can't be sent. */
int peer_send(struct peer *peer, int kind, struct body body, uint32_t id, uint32_t allowance) {
  bool costs = kind == MESSAGE || kind == REQUEST, answers = kind == REPLY || kind == FAULT;
  struct request *open = answers ? place(peer->due, true, id) : place(peer->asked, kind == CANCEL, id);
  uint32_t length = body.length - HEADER, most = costs ? peer->its[MAX_DESCRIPTORS] : answers && open ? open->allowance : 0;
  bool fits = !peer->over && (!peer->greeted || length <= peer->its[MAX_MESSAGE]) && (uint32_t)body.count <= most
    && !(peer->parting && (costs || kind == CANCEL)) && (open || !(answers || kind == CANCEL || kind == REQUEST));
  if (!fits || (costs && peer->credit <= 0)) return free(body.bytes), fits ? 0 : -1;
  if (costs) peer->credit -= HEADER + length + (int64_t)body.count * peer->its[COST];
  if (kind == REQUEST) *open = (struct request){true, false, id, allowance};
  if (kind == CANCEL || answers) open->cancelled = !answers, open->open = !answers;
  peer->parting |= kind == GOODBYE;
  memcpy(body.bytes, (uint32_t[]){htole32(length), htole32(kind | body.count << 8 | allowance << 24), htole32(id)}, HEADER);
  peer->unconfirmed = realloc(peer->unconfirmed, (peer->unconfirmedCount + MOST) * sizeof(int));
  memcpy(peer->unconfirmed + peer->unconfirmedCount, body.fds, body.count * sizeof(int)), peer->unconfirmedCount += body.count;
  for (ssize_t sent = 0, some = 0; sent < (ssize_t)body.length && some >= 0; sent += some) /* < 0: it has closed, but read on */
    some = send_fds(peer->socket, body.bytes + sent, body.length - sent, body.fds, sent == 0 ? body.count : 0);
  return free(body.bytes), 1;
}

/* The channel ends: without an error (0) or with one (-1), which the peer gets, too. */
static int end(struct peer *peer, const char *code) {
  if (*peer->code == 0) snprintf(peer->code, sizeof peer->code, "%s%s", *code ? "ERR_PASSFD_" : "", code);
  if (!peer->parting && !peer->parted) peer_send(peer, GOODBYE, put_error(peer->code, ""), 0, 0);
  close_fds(peer->arrived, peer->arrivedCount), free(peer->bytes), close(peer->socket);
  peer->over = peer->parting = true;
  return *peer->code ? -1 : 0;
}

/* Reads until so many bytes are there. 1; 0: the end; -1: an error. */
static int fill(struct peer *peer, size_t size) {
  for (ssize_t some; peer->length < size; peer->length += some) {
    if (peer->arrivedCount > MOST) return end(peer, "DESCRIPTORS_AHEAD");
    if ((peer->bytes = realloc(peer->bytes, peer->length + 65536)) == NULL) abort();
    some = recv_fds(peer->socket, peer->bytes + peer->length, 65536, peer->arrived, &peer->arrivedCount);
    if (some < 0) return end(peer, errno == EPROTO ? "DESCRIPTORS_TRUNCATED" : "DISCONNECTED");
    if (some == 0) return end(peer, peer->parted && peer->length == 0 ? "" : "DISCONNECTED");
  }
  return 1;
}

/* Reads and handles one frame. 2: the event is the caller's; 1: it was none; 0: the end; -1: an error. */
static int step(struct peer *peer, struct event *event) {
  if (peer->over) return 0;
  if (peer->handled > 0) memmove(peer->bytes, peer->bytes + peer->handled, peer->length -= peer->handled), peer->handled = 0;
  bool waits = place(peer->asked, true, -1), owes = place(peer->due, true, -1);
  if (!peer->parting && (peer->parted || (peer->closing && !waits && peer->unconfirmedCount == 0))) peer_send(peer, GOODBYE, begin(), 0, 0);
  if (peer->parting && peer->parted && !waits && !owes) shutdown(peer->socket, SHUT_WR);
  int got = fill(peer, HEADER);
  if (got <= 0) return got;
  uint32_t head[3], length = le32toh(*(uint32_t *)memcpy(head, peer->bytes, HEADER)), kinds = le32toh(head[1]), id = le32toh(head[2]);
  uint32_t kind = kinds & 255, count = kinds >> 8 & 255, flags = kinds >> 16;
  bool costs = kind == MESSAGE || kind == REQUEST, answers = kind == REPLY || kind == FAULT, bare = kind >= CANCEL && kind <= TAKEN;
  struct request *asked = answers ? place(peer->asked, true, id) : NULL, *due = place(peer->due, true, id), *slot = place(peer->due, false, 0);
  const char *wrong = kind > GOODBYE || flags & (kind == REQUEST ? 0xf0 : costs || kind == REPLY ? 0xfff0 : 0xfff8) || (bare && length > 0)
      || count > (costs || kind == REPLY ? MOST : 0) || (peer->parted && !answers && kind != TAKEN) ? "BAD_FRAME"
    : kind != GOODBYE && (kind == HELLO) == peer->greeted ? "BAD_HELLO"
    : flags & 8 ? "UNDECODABLE" /* it has not listed the feature `records` */
    : length > (peer->greeted ? peer->own[MAX_MESSAGE] : 4096) ? "FRAME_TOO_LARGE"
    : costs && peer->own[WINDOW] == 0 ? "CREDIT_EXCEEDED"
    : (answers && !asked) || (kind == REQUEST && due) ? "BAD_ID"
    : count > (asked ? asked->allowance : peer->own[MAX_DESCRIPTORS]) ? "DESCRIPTOR_COUNT"
    : kind == TAKEN && id > (uint32_t)peer->unconfirmedCount ? "BAD_TAKEN" : NULL;
  if (wrong != NULL || slot == NULL) return end(peer, wrong != NULL ? wrong : "BUSY");
  if (fill(peer, HEADER + length + (flags & 7)) < 0) return -1;
  unsigned char used[256] = {0}, *value = peer->bytes + HEADER, *behind = value + length;
  if (count > (uint32_t)peer->arrivedCount) return end(peer, "DESCRIPTORS_MISSING");
  bool empty = bare || (kind == GOODBYE && length == 0), map = kind == FAULT || kind == GOODBYE;
  if (!empty && (walk(value, behind, LEVELS, used) != behind || (map && !is_map(*value)))) return end(peer, "UNDECODABLE");
  for (uint32_t i = 0; i < 256; i++)
    if (used[i] != (i < count)) return end(peer, "DESCRIPTOR_COUNT");
  *event = (struct event){.kind = kind, .count = count, .id = id, .value = value, .end = behind};
  memcpy(event->fds, peer->arrived, count * sizeof(int));
  shift_fds(peer->arrived, &peer->arrivedCount, count);
  peer->handled = HEADER + length + (flags & 7);
  for (int i = 0; kind == HELLO && i < NUMBERS; i++)
    if (!find_number(value, behind, LIMITS[i].name, LIMITS[i].least, LIMITS[i].missing, &peer->its[i])) return end(peer, "BAD_HELLO");
  if (kind == HELLO || kind == CREDIT) peer->greeted = true, peer->credit += kind == CREDIT ? id : peer->its[WINDOW];
  if (kind == TAKEN) close_fds(peer->unconfirmed, id), shift_fds(peer->unconfirmed, &peer->unconfirmedCount, id);
  if (kind == GOODBYE) peer->parted = true, find_text(value, behind, "code", peer->code, sizeof peer->code);
  if (*peer->code) return end(peer, "");
  if (costs && peer->parting) return close_fds(event->fds, count), 1;
  if (count > 0) peer_send(peer, TAKEN, begin(), count, 0);
  if (costs) peer_send(peer, CREDIT, begin(), HEADER + length + count * peer->own[COST], 0);
  if (kind == REQUEST) *slot = (struct request){true, false, id, flags >> 8};
  if (answers && (asked->open = false, asked->cancelled)) return close_fds(event->fds, count), 1;
  return costs || answers || (kind == CANCEL && due) ? 2 : 1;
}

/* The next message, request, reply, fault or cancel: 1. 0: the end. -1: an error, see `code`. The descriptors in it are the caller's. */
int peer_receive(struct peer *peer, struct event *event) {
  for (int got;;)
    if ((got = step(peer, event)) != 1) return got == 2 ? 1 : got;
}

/* Sends the hello, and waits for the peer's. */
int peer_start(struct peer *peer, struct event *event) {
  struct body body = begin();
  put_map(&body, NUMBERS + 1), put_text(&body, "agent"), put_text(&body, "peer.c");
  for (int i = 0; i < NUMBERS; i++) put_text(&body, LIMITS[i].name), put_integer(&body, peer->own[i]);
  for (peer_send(peer, HELLO, body, 0, 0); !peer->greeted;)
    if (step(peer, event) < 1) return -1;
  return 0;
}

/* Waits until all is answered and confirmed, and until the peer has closed, too. The peer's open requests fail. */
int peer_close(struct peer *peer, struct event *event) {
  for (struct request *due = (peer->closing = true, NULL); !peer->over; close_fds(event->fds, peer_receive(peer, event) == 1 ? event->count : 0))
    while ((due = place(peer->due, true, -1)) != NULL)
      peer_send(peer, FAULT, put_error("ERR_PASSFD_UNANSWERED", "the channel is closed"), due->id, 0);
  return *peer->code ? -1 : 0;
}

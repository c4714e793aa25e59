/* The bodies of docs/protocol.md. It writes a subset of msgpack, in its longest forms; it reads all of it. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 12, MOST = 253, LEVELS = 512 };

/* A body to send: room for the header of its frame, the value, and the descriptors in it. */
struct body {
  unsigned char *bytes;
  size_t length;
  int fds[MOST], count;
};

static inline void put(struct body *body, const void *bytes, size_t length) {
  body->bytes = realloc(body->bytes, body->length + length);
  if (body->bytes == NULL) abort();
  if (length > 0) memcpy(body->bytes + body->length, bytes, length);
  body->length += length;
}

/* A type, and a number of so many bytes after it, which is big-endian. */
static inline void put_number(struct body *body, int type, uint64_t number, int size) {
  unsigned char bytes[9] = {type};
  for (int i = size; i > 0; i--, number >>= 8) bytes[i] = number;
  put(body, bytes, 1 + size);
}

static inline struct body begin(void) {
  struct body body = {0};
  put(&body, (char[HEADER]){0}, HEADER);
  return body;
}

static inline void put_nil(struct body *body) { put_number(body, 0xc0, 0, 0); }
static inline void put_integer(struct body *body, int64_t number) { put_number(body, 0xd3, number, 8); }
static inline void put_array(struct body *body, uint32_t count) { put_number(body, 0xdd, count, 4); }
static inline void put_map(struct body *body, uint32_t count) { put_number(body, 0xdf, count, 4); }

static inline void put_text(struct body *body, const char *text) {
  put_number(body, 0xdb, strlen(text), 4);
  put(body, text, strlen(text));
}

static inline void put_bytes(struct body *body, const void *bytes, uint32_t length) {
  put_number(body, 0xc6, length, 4);
  put(body, bytes, length);
}

/* The number stays the caller's until the body is sent. At most 253. */
static inline void put_descriptor(struct body *body, int fd) {
  put_number(body, 0xd4, 70, 1);
  put(body, &(unsigned char){body->count}, 1);
  body->fds[body->count++] = fd;
}

/* A value that was received. type: n(il), b(ool), i(nteger), u(nsigned: beyond 2^63), f(loat), s(tring), B(ytes), a(rray), m(ap), x(tension). */
struct item {
  char type;
  int extension;           /* 70: a descriptor, 67: a connection, -1: a time */
  uint64_t number;         /* of an integer (two's complement), or 0 or 1 */
  double real;             /* of a float */
  const unsigned char *at; /* the bytes of s, B, x; the first value in a, m */
  uint32_t length;         /* how many bytes, values, or pairs */
};

/* Reads a value, of a and m the beginning. Returns the place behind what it has read; NULL: malformed. */
static inline const unsigned char *get(const unsigned char *at, const unsigned char *end, struct item *item) {
  static const struct { char type; signed char size, extra; } forms[32] = {
    {'n', 0, 0}, {0, 0, 0}, {'b', 0, 0}, {'b', 0, 0}, {'B', 1, 0}, {'B', 2, 0}, {'B', 4, 0}, {'x', 1, 1},
    {'x', 2, 1}, {'x', 4, 1}, {'f', 4, 0}, {'f', 8, 0}, {'u', 1, 0}, {'u', 2, 0}, {'u', 4, 0}, {'u', 8, 0},
    {'i', 1, 0}, {'i', 2, 0}, {'i', 4, 0}, {'i', 8, 0}, {'x', 0, 1}, {'x', 0, 2}, {'x', 0, 4}, {'x', 0, 8},
    {'x', 0, 16}, {'s', 1, 0}, {'s', 2, 0}, {'s', 4, 0}, {'a', 2, 0}, {'a', 4, 0}, {'m', 2, 0}, {'m', 4, 0}};
  if (at >= end) return NULL;
  unsigned char first = *at++;
  *item = (struct item){.type = 'i'};
  uint64_t number = first;
  if (first >= 0xe0) number = (uint64_t)(int64_t)(signed char)first;
  else if (first >= 0xc0) {
    int size = forms[first - 0xc0].size, extra = forms[first - 0xc0].extra;
    item->type = forms[first - 0xc0].type;
    if (item->type == 0 || end - at < size) return NULL;
    number = item->type == 'b' ? first & 1 : 0;
    if (item->type == 'i' && *at & 0x80) number = -1;
    for (int i = 0; i < size; i++) number = number << 8 | *at++;
    if (size == 0 && item->type == 'x') number = extra;
    if (item->type == 'x' && at >= end) return NULL;
    if (item->type == 'x') item->extension = (signed char)*at++;
    float single;
    uint32_t half = number;
    memcpy(&single, &half, 4);
    memcpy(&item->real, &number, 8);
    if (size == 4) item->real = single;
    if (item->type == 'u' && number >> 63 == 0) item->type = 'i';
  } else if (first >= 0xa0) item->type = 's', number = first & 31;
  else if (first >= 0x80) item->type = first < 0x90 ? 'm' : 'a', number = first & 15;
  item->number = number;
  item->length = number;
  item->at = at;
  if (!strchr("sBx", item->type)) return at;
  return (uint64_t)(end - at) < number ? NULL : at + number;
}

/* Walks over a value and all in it. Counts in `used` how often it uses each descriptor. Returns the place behind it; NULL: malformed. */
static inline const unsigned char *walk(const unsigned char *at, const unsigned char *end, int levels, unsigned char used[256]) {
  struct item item;
  if ((at = get(at, end, &item)) == NULL) return NULL;
  if (item.type == 'x') {
    int isTime = item.extension == -1 && (item.length == 4 || item.length == 8 || item.length == 12);
    if (!isTime && item.extension != 70 && item.extension != 67) return NULL;
    int hasIndex = item.extension == 67 ? item.length > 0 : item.length == 1;
    int index = hasIndex ? item.at[0] : 255; /* that no frame has */
    if (!isTime && used[index] < 2) used[index]++;
  }
  if (item.type != 'a' && item.type != 'm') return at;
  if (levels == 0) return NULL;
  bool isMap = item.type == 'm';
  for (uint64_t left = (uint64_t)item.length << isMap; left > 0 && at != NULL; left--) {
    if (isMap && left % 2 == 0 && get(at, end, &item) != NULL && strchr("amBx", item.type)) return NULL; /* as a key */
    at = walk(at, end, levels - 1, used);
  }
  return at;
}

static inline bool is_map(unsigned char first) { return (first & 0xf0) == 0x80 || first == 0xde || first == 0xdf; }

/* The value of a key in a map that walk() has found to be well-formed; 0 if it is not there. */
static inline int find(const unsigned char *at, const unsigned char *end, const char *key, struct item *value) {
  struct item map, name;
  if ((at = get(at, end, &map)) == NULL || map.type != 'm') return 0;
  for (uint32_t left = map.length; left > 0; left--) {
    const unsigned char *behind = walk(at, end, LEVELS, (unsigned char[256]){0});
    get(at, end, &name);
    if (name.type == 's' && name.length == strlen(key) && memcmp(name.at, key, name.length) == 0)
      return get(behind, end, value) != NULL;
    at = walk(behind, end, LEVELS, (unsigned char[256]){0});
  }
  return 0;
}

/* A number in a map, of 32 bits, or what it is if it is missing. False: it is less than `least`, or something else. */
static inline bool find_number(const unsigned char *at, const unsigned char *end, const char *key, uint32_t least, uint32_t missing, uint32_t *into) {
  struct item item = {.type = 'i', .number = missing};
  find(at, end, key, &item);
  *into = item.number;
  return item.type == 'i' && item.number >= least && item.number <= UINT32_MAX;
}

/* A text in a map, as a string of C, cut to `size`; '' if it is missing. */
static inline char *find_text(const unsigned char *at, const unsigned char *end, const char *key, char *into, size_t size) {
  struct item item;
  bool found = find(at, end, key, &item) && item.type == 's';
  snprintf(into, size, "%.*s", found ? (int)item.length : 0, found ? (const char *)item.at : "");
  return into;
}

/* The body of a fault, or of a goodbye with an error. */
static inline struct body put_error(const char *code, const char *message) {
  struct body body = begin();
  put_map(&body, 2), put_text(&body, "code"), put_text(&body, code), put_text(&body, "message"), put_text(&body, message);
  return body;
}

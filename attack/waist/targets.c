/*
 * What libFuzzer calls, by the environment variable TARGET. Each target reads an input as orders, and aborts if the waist does not keep a promise.
 * The sanitizers see the rest: bytes beyond an object, use after free, undefined behaviour.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../native/waist/held.h"
#include "../../native/waist/os.h"

static void must_(bool holds, const char *what, int line)
{
	if (holds)
		return;
	fprintf(stderr, "a promise is broken, line %d: %s\n", line, what);
	abort();
}
#define MUST(condition) must_(condition, #condition, __LINE__)

/* The input, from which orders are read. It has zeros behind its end. */
static const uint8_t *input;
static size_t left;

static uint8_t byte(void)
{
	if (left == 0)
		return 0;
	left--;
	return *input++;
}

static uint32_t number(uint32_t below)
{
	uint32_t value = byte();
	if (below > 256)
		value |= (uint32_t) byte() << 8;
	return value % below;
}

static size_t bytes(uint8_t *into, size_t most)
{
	size_t count = most < left ? most : left;
	memcpy(into, input, count);
	input += count;
	left -= count;
	return count;
}

static int lowest_free(void)
{
	int fd = dup(0);
	close(fd);
	return fd;
}

/* --- control messages */

/* Not in the headers of every C library. */
enum { SECURITY = 3, TIMESTAMP = 29 };
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

enum { FIRST_TOKEN = 1 << 24, MOST_TOKENS = 2048 };

ssize_t fuzzed_recvmsg(int fd, struct msghdr *header, int flags);
int fuzzed_close(int fd);

/* Numbers that the stand-in for the kernel has given: how often each was closed. -1: not given. */
static int tokens[MOST_TOKENS];
static int token_count;
static bool fakes;

static int new_token(void)
{
	if (token_count == MOST_TOKENS)
		return -1;
	tokens[token_count] = 0;
	return FIRST_TOKEN + token_count++;
}

int fuzzed_close(int fd)
{
	if (fd < FIRST_TOKEN)
		return close(fd);
	MUST(fd - FIRST_TOKEN < token_count);
	MUST(tokens[fd - FIRST_TOKEN]++ == 0);
	return 0;
}

/* As the kernel: whole control messages while there is room, the last one cut, and MSG_CTRUNC then. Levels, types and lengths are the input's. */
static void put_controls(struct msghdr *header)
{
	static const int types[] = {SCM_RIGHTS, SCM_CREDENTIALS, SCM_PIDFD, SECURITY, TIMESTAMP};
	uint8_t *at = header->msg_control;
	size_t room = header->msg_controllen, used = 0;
	for (int count = (int) number(6); count > 0 && room - used >= sizeof(struct cmsghdr); count--) {
		struct cmsghdr *control = (struct cmsghdr *) (at + used);
		int type = types[number(sizeof types / sizeof *types)];
		size_t wanted = type == SCM_RIGHTS ? 4 * number(260) : type == SCM_PIDFD ? 4 : number(5000);
		size_t length = wanted < room - used - CMSG_LEN(0) ? wanted : room - used - CMSG_LEN(0);
		if (length < wanted)
			header->msg_flags |= MSG_CTRUNC;
		memset(control, 0, CMSG_LEN(0));
		control->cmsg_level = byte() == 255 ? IPPROTO_IPV6 : SOL_SOCKET;
		control->cmsg_type = type;
		control->cmsg_len = CMSG_LEN(length);
		uint8_t *data = CMSG_DATA(control);
		for (size_t i = 0; i < length; i++)
			data[i] = byte();
		bool has_numbers = control->cmsg_level == SOL_SOCKET && (type == SCM_RIGHTS || type == SCM_PIDFD);
		for (size_t i = 0; has_numbers && i + sizeof(int) <= length; i += sizeof(int)) {
			int fd = type == SCM_PIDFD && byte() == 0 ? -ESRCH : new_token();
			memcpy(data + i, &fd, sizeof fd);
		}
		used += CMSG_ALIGN(CMSG_LEN(length)) < room - used ? CMSG_ALIGN(CMSG_LEN(length)) : room - used;
	}
	header->msg_controllen = used;
}

ssize_t fuzzed_recvmsg(int fd, struct msghdr *header, int flags)
{
	if (!fakes) /* without the sanitizer, which takes what the kernel says of a name's length for what it has written */
		return syscall(SYS_recvmsg, fd, header, flags);
	if (byte() == 0) {
		errno = left > 0 && byte() == 0 ? EINTR : EAGAIN;
		return -1;
	}
	header->msg_flags = byte() == 0 ? MSG_TRUNC : 0;
	size_t room = header->msg_iovlen == 0 ? 0 : header->msg_iov[0].iov_len;
	size_t size = number(200);
	bytes(header->msg_iovlen == 0 ? NULL : header->msg_iov[0].iov_base, size < room ? size : room);
	if (header->msg_control != NULL)
		put_controls(header);
	if (header->msg_name != NULL) {
		/* The kernel writes as much as there is room for, and says how long the name is: up to 111, for a path without an end */
		size_t length = byte() > 4 ? 0 : number(112);
		if (length < 2)
			length = 0;
		struct sockaddr_un *address = header->msg_name;
		uint8_t name[112];
		memset(name, 'x', sizeof name);
		bytes(name, length);
		memcpy(address, name, length < header->msg_namelen ? length : header->msg_namelen);
		if (length >= 2)
			address->sun_family = AF_UNIX;
		header->msg_namelen = (socklen_t) length;
	}
	return (flags & MSG_TRUNC) != 0 ? (ssize_t) size : (ssize_t) (size < room ? size : room);
}

static void control(void)
{
	uint8_t room[100];
	int32_t fds[OS_MAX_RIGHTS];
	token_count = 0;
	fakes = true;
	for (int turn = 0; turn < 4 && left > 0; turn++) {
		struct iovec chunk = {.iov_base = room, .iov_len = number(sizeof room + 1)};
		struct os_rights rights = {.fds = fds, .capacity = byte() > 8 ? OS_MAX_RIGHTS : number(OS_MAX_RIGHTS + 1)};
		struct os_message message = {0};
		int before = token_count;
		bool wants_pidfd = (byte() & 1) != 0, is_message = (byte() & 1) != 0;
		int received = is_message ? os_receive_message(9, &chunk, &message, &rights, wants_pidfd)
			: os_receive(9, &chunk, 1, &rights);
		MUST(received <= (int) chunk.iov_len && rights.count <= rights.capacity);
		MUST(received >= 0 || (rights.count == 0 && !message.has_pidfd));
		MUST(message.name_length <= sizeof message.name);
		MUST(wants_pidfd || !message.has_pidfd);
		for (size_t i = 0; i < rights.count; i++)
			if (fds[i] >= 0)
				fuzzed_close(fds[i]); /* ours, and nobody has closed it */
		if (message.has_pidfd && message.pidfd >= 0)
			fuzzed_close(message.pidfd);
		for (int i = before; i < token_count; i++)
			MUST(tokens[i] == 1); /* each is the caller's, or was closed */
	}
	fakes = false;
}

/* --- names */

static void addresses(void)
{
	uint8_t name[200], again[sizeof ((struct sockaddr_un *) 0)->sun_path];
	size_t length = bytes(name, number(sizeof name + 1));
	struct sockaddr_un *address = malloc(sizeof *address); /* so that the sanitizer sees each byte beyond it */
	int size = os_unix_address(address, name, length);
	MUST(size < 0 || (size_t) size <= sizeof *address);
	if (size >= 0) {
		int told = os_copy_name(address, (size_t) size, again, sizeof again);
		MUST(told == (int) length && memcmp(again, name, length) == 0);
	}
	/* What the kernel may tell of a peer's name */
	memset(address, 'x', sizeof *address);
	bytes((uint8_t *) address->sun_path, sizeof address->sun_path);
	size_t capacity = byte() > 20 ? sizeof again : number(sizeof again + 1);
	int told = os_copy_name(address, number(112), again, capacity);
	MUST(told == -ERANGE || (told >= 0 && (size_t) told <= capacity));
	MUST(told != -ERANGE || capacity < sizeof again);
	free(address);
}

/* A socket of a hostile peer: bound without passfd to what the kernel allows. */
static void peers(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint8_t path[sizeof address.sun_path], room[8], reply[8];
	int free_before = lowest_free();
	int32_t fds[4];
	size_t length = bytes(path, 1 + number(sizeof path));
	if (length == 0)
		return;
	for (size_t i = 0; path[0] != 0 && i < length; i++)
		if (path[i] == '/' || path[i] == '.')
			path[i] = 'x';
	memcpy(address.sun_path, path, length);
	int hostile = os_socket(SOCK_DGRAM), ours = os_socket(SOCK_DGRAM);
	static const uint8_t own[] = "\0passfd-fuzz";
	uint8_t name[64];
	int name_length = snprintf((char *) name, sizeof name, "%s%d", own + 1, getpid());
	memmove(name + 1, name, (size_t) name_length);
	name[0] = 0;
	MUST(os_bind(ours, name, (size_t) name_length + 1, -1) == 0);
	if (bind(hostile, (struct sockaddr *) &address, (socklen_t) (offsetof(struct sockaddr_un, sun_path) + length)) == 0) {
		size_t told = path[0] == 0 ? length : strnlen((char *) path, length);
		struct iovec chunk = {.iov_base = room, .iov_len = sizeof room}, out = {.iov_base = reply, .iov_len = sizeof reply};
		struct os_rights rights = {.fds = fds, .capacity = 4};
		struct os_message message;
		uint8_t seen[sizeof address.sun_path];
		MUST(os_name(hostile, false, seen, sizeof seen) == (int) told && memcmp(seen, path, told) == 0);
		MUST(os_send_message(hostile, &out, NULL, 0, name, (size_t) name_length + 1) == sizeof reply);
		MUST(os_receive_message(ours, &chunk, &message, &rights, false) == sizeof reply);
		MUST(message.name_length == told && memcmp(message.name, path, told) == 0);
		int sent = os_send_message(ours, &out, NULL, 0, message.name, message.name_length);
		MUST(sent == sizeof reply || sent == -ENAMETOOLONG || sent == -ECONNREFUSED);
		if (path[0] != 0) {
			char file[sizeof address.sun_path + 1] = {0};
			memcpy(file, path, told);
			unlink(file);
		}
	}
	os_close(hostile);
	os_close(ours);
	MUST(lowest_free() == free_before);
}

/* --- the table of what is held */

static void holds(void)
{
	enum { NUMBERS = 600 };
	static uint8_t owners[NUMBERS]; /* by number, as this program counts */
	memset(owners, 0, sizeof owners);
	struct held held = {.identity = held_identity()}, other = {.identity = held_identity()};
	int total = 0;
	while (left > 0) {
		uint8_t order = byte() % 6;
		int fd = 1000 + (int) number(NUMBERS);
		uint8_t *own = &owners[fd - 1000];
		switch (order) {
		case 0:
			MUST(held_adopt(&held, fd) == (*own == 0 ? 0 : -EEXIST));
			total += *own == 0;
			*own = *own == 0 ? 1 : *own;
			break;
		case 1:
			if (*own < 200) {
				MUST(held_share(&held, fd) == (*own == 0 ? -EBADF : fd));
				total += *own > 0;
				*own += *own > 0;
			}
			break;
		case 2:
			if (*own == 0)
				break;
			MUST(held_drop(&held, fd) == (*own == 1));
			(*own)--;
			total--;
			break;
		case 3:
			MUST(held_adopt(&other, fd) == (*own == 0 ? 0 : -EEXIST));
			held_clear(&other, fd, HELD);
			break;
		case 4:
			MUST(held_set(&held, fd, WATCHED) == 0);
			MUST(held_has(&held, fd, WATCHED));
			held_clear(&held, fd, WATCHED);
			break;
		default:
			MUST(held_has(&held, fd, HELD) == (*own > 0));
		}
		MUST(held.count == total);
	}
	held_close_all(&held);
	held_close_all(&other);
	MUST(held.count == 0);
	for (int fd = 1000; fd < 1000 + NUMBERS; fd++)
		MUST(!held_has(&held, fd, HELD));
}

/* --- sockets: what is sent arrives */

static int opened(enum os_kind *kind)
{
	int32_t ends[2];
	switch (number(6)) {
	case 0:
		*kind = OS_MEMFD;
		return os_memfd("fuzz", 10);
	case 1:
		*kind = OS_EVENTFD;
		return eventfd(0, EFD_CLOEXEC);
	case 2:
		*kind = OS_PIPE;
		MUST(os_pipe(ends) == 0);
		os_close(ends[0]);
		return ends[1];
	case 3:
		*kind = OS_EPOLL;
		return os_edge_set();
	case 4:
		*kind = OS_DIRECTORY;
		return open("/", O_PATH | O_CLOEXEC);
	default:
		*kind = OS_UNIX_DGRAM;
		return os_socket(SOCK_DGRAM);
	}
}

static void streams(void)
{
	enum { MOST = 64 };
	int32_t ends[2];
	int free_before = lowest_free();
	bool packets = (byte() & 1) != 0;
	MUST(os_socketpair((packets ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_NONBLOCK, ends) == 0);
	uint8_t next_out = 0, next_in = 0;
	enum os_kind under_way[4 * MOST];
	uint8_t came_with[4 * MOST]; /* the byte that each was sent with */
	int first = 0, last = 0;
	bool lost = false;
	while (left > 0) {
		uint8_t room[300];
		int32_t fds[MOST];
		size_t length = 1 + number(sizeof room);
		if ((byte() & 1) != 0) {
			size_t count = byte() > 100 ? 0 : number(4);
			if (last + (int) count > 4 * MOST)
				break;
			enum os_kind kinds[4];
			for (size_t i = 0; i < count; i++)
				MUST((fds[i] = opened(&kinds[i])) >= 0 && os_kind(fds[i]) == (int) kinds[i]);
			for (size_t i = 0; i < length; i++)
				room[i] = (uint8_t) (next_out + i);
			struct iovec chunks[2] = {{.iov_base = room, .iov_len = length / 2}, {.iov_base = room + length / 2, .iov_len = length - length / 2}};
			int sent = os_send(ends[0], chunks, 2, fds, count);
			MUST(sent > 0 || sent == -EAGAIN);
			if (sent > 0) {
				next_out += (uint8_t) sent;
				memcpy(under_way + last, kinds, count * sizeof *kinds);
				memset(came_with + last, room[0], count);
				last += (int) count;
			}
			for (size_t i = 0; i < count; i++)
				os_close(fds[i]);
			continue;
		}
		struct os_rights rights = {.fds = fds, .capacity = byte() > 30 ? MOST : number(3)};
		struct iovec chunk = {.iov_base = room, .iov_len = length};
		struct os_message message = {0};
		size_t place = 0;
		bool placed = !packets && (byte() & 1) != 0;
		int received = packets ? os_receive_message(ends[1], &chunk, &message, &rights, true)
			: placed ? os_receive_placed(ends[1], room, length, &rights, &place) : os_receive(ends[1], &chunk, 1, &rights);
		MUST(received > 0 || received == -EAGAIN);
		MUST(received < 0 || place < (size_t) received);
		MUST(!placed || rights.count == 0 || lost || room[place] == came_with[first]);
		for (int i = 0; i < received; i++)
			MUST(room[i] == (uint8_t) (next_in + i));
		if (received > 0)
			next_in += (uint8_t) (packets ? message.size : (size_t) received);
		for (size_t i = 0; i < rights.count; i++) {
			/* After some were lost it is not known which one this is */
			MUST(lost || (first < last && os_kind(fds[i]) == (int) under_way[first++]));
			os_close(fds[i]);
		}
		lost = lost || rights.truncated;
	}
	os_close(ends[0]);
	os_close(ends[1]);
	MUST(lowest_free() == free_before);
}

/* --- epoll */

static void edges(void)
{
	enum { PAIRS = 8 };
	int32_t pairs[PAIRS][2], ready[2 * PAIRS];
	int free_before = lowest_free(), set = os_edge_set();
	bool isOpen[PAIRS] = {0}, isIn[PAIRS] = {0}, hasEnded[PAIRS] = {0};
	MUST(set >= 0);
	while (left > 0) {
		uint8_t order = byte() % 6;
		size_t which = number(PAIRS);
		int32_t *pair = pairs[which];
		if (!isOpen[which]) {
			MUST(os_socketpair(SOCK_STREAM | SOCK_NONBLOCK, pair) == 0);
			isOpen[which] = true;
			isIn[which] = hasEnded[which] = false;
			continue;
		}
		switch (order) {
		case 0:
			MUST(((byte() & 1) != 0 ? os_edge_add : os_edge_add_end)(set, pair[0]) == (isIn[which] ? -EEXIST : 0));
			isIn[which] = true;
			break;
		case 1:
			MUST(os_edge_remove(set, pair[0]) == (isIn[which] ? 0 : -ENOENT));
			isIn[which] = false;
			break;
		case 2:
			if (!hasEnded[which])
				MUST(os_write(pair[1], (const uint8_t *) "x", 1) == 1 || errno == EAGAIN || true);
			break;
		case 3:
			if (!hasEnded[which])
				os_shutdown(pair[1], SHUT_WR);
			hasEnded[which] = true;
			break;
		case 4:
			if (isIn[which])
				os_edge_remove(set, pair[0]);
			os_close(pair[0]);
			os_close(pair[1]);
			isOpen[which] = false;
			break;
		default: {
			size_t most = 1 + number(2 * PAIRS);
			int count = os_edge_ready(set, ready, most);
			MUST(count >= 0 && (size_t) count <= most);
			for (int i = 0; i < count; i++) {
				int fd = ready[i] < 0 ? ~ready[i] : ready[i];
				size_t found = 0;
				while (found < PAIRS && !(isOpen[found] && pairs[found][0] == fd))
					found++;
				MUST(found < PAIRS && isIn[found]);
				MUST(ready[i] >= 0 || hasEnded[found]);
			}
		}
		}
	}
	for (size_t i = 0; i < PAIRS; i++)
		if (isOpen[i]) {
			os_close(pairs[i][0]);
			os_close(pairs[i][1]);
		}
	os_close(set);
	MUST(lowest_free() == free_before);
}

/* --- hosts */

static void hosts(void)
{
	char host[128] = {0};
	int free_before = lowest_free();
	bool udp = (byte() & 1) != 0;
	int flags = byte() & (OS_IPV6_ONLY | OS_REUSEPORT | OS_REUSEPORT_LATER);
	int port = (byte() & 3) == 0 ? (int) number(65536) * 2 - 10 : 0;
	bytes((uint8_t *) host, sizeof host - 1);
	int fd = os_bind_inet(udp, host, port, 5, flags);
	if (fd >= 0) {
		struct os_inet_name name, again;
		MUST(os_inet_name(fd, false, &name) == 0 && name.length < sizeof name.text && (name.family == 4 || name.family == 6));
		MUST(os_kind(fd) == (udp ? OS_UDP : OS_TCP_LISTENER));
		os_close(fd);
		/* What it is called leads there again */
		char text[OS_ADDRESS + 1] = {0};
		memcpy(text, name.text, name.length);
		fd = os_bind_inet(udp, text, 0, 5, 0);
		MUST(fd >= 0 && os_inet_name(fd, false, &again) == 0);
		MUST(again.length == name.length && memcmp(again.text, name.text, name.length) == 0);
		os_close(fd);
	}
	MUST(lowest_free() == free_before);
}

/* --- the heap */

static void heap(void)
{
	enum { BLOCKS = 8 };
	uint8_t *blocks[BLOCKS] = {0};
	size_t sizes[BLOCKS] = {0};
	void *pin = NULL;
	for (int turn = 0; turn < 40 && left > 0; turn++) {
		size_t which = number(BLOCKS);
		if (blocks[which] != NULL) {
			for (size_t at = 0; at < sizes[which]; at += 4093)
				MUST(blocks[which][at] == (uint8_t) which);
			free(blocks[which]);
			blocks[which] = NULL;
		} else if (byte() == 0) {
			os_release_heap(pin);
			pin = NULL;
		} else {
			sizes[which] = 1 + ((size_t) number(65536) << (byte() % 5));
			blocks[which] = malloc(sizes[which]);
			pin = os_prepare_heap(pin, blocks[which], sizes[which]);
			for (size_t at = 0; at < sizes[which]; at += 4093)
				blocks[which][at] = (uint8_t) which;
		}
	}
	for (size_t i = 0; i < BLOCKS; i++)
		free(blocks[i]);
	os_release_heap(pin);
}

static const struct { const char *name; void (*run)(void); } targets[] = {
	{"addresses", addresses}, {"control", control}, {"edges", edges}, {"heap", heap},
	{"holds", holds}, {"hosts", hosts}, {"peers", peers}, {"streams", streams}
};
static void (*target)(void);

int LLVMFuzzerInitialize(int *count, char ***parameters)
{
	(void) count;
	(void) parameters;
	const char *name = getenv("TARGET");
	for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
		if (name != NULL && strcmp(name, targets[i].name) == 0)
			target = targets[i].run;
	if (target == NULL) {
		fprintf(stderr, "TARGET names none of the targets\n");
		exit(2);
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	input = data;
	left = size;
	target();
	return 0;
}

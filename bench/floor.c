/*
 * What the kernel allows: two processes over one Unix socket, a stream unless something else is said, with nothing but system calls.
 *   floor messages            one small message a sendmsg, one a recvmsg: messages/s
 *   floor datagrams           the same over a datagram socket: datagrams/s
 *   floor descriptors N       N descriptors and a small message a sendmsg, each received and closed: descriptors/s
 *   floor round-trip [1]      a small message there and back, epoll on both ends [with a descriptor there]: µs, median
 *   floor spinning            the same round trip, both ends asking the socket again and again
 *   floor copy [BYTES]        blocks of 1 MiB, or of so many bytes: GB/s
 *   floor takeover N          asked by a byte, the far end sends N descriptors of a TCP socket, 253 a sendmsg, and writes a byte to a pipe;
 *                             until the near end has received and closed them all and has read that byte: ms, median
 * The process it was started as is the near end, which sends; its child, pinned to $BENCH_FAR_CPU if that is set, is the far one.
 * Prints "ready", and the value each time that a line comes on stdin.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, BLOCK = 1 << 20, MAX_FDS = 253, MAX_SAMPLES = 1 << 20, SPINS = 10000 };

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static double seconds_of(const char *variable, double otherwise)
{
	const char *text = getenv(variable);
	return text == NULL ? otherwise : atof(text) / 1000;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void expect(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "floor: %s\n", what);
	exit(1);
}

static int open_descriptors(void)
{
	int count = 0;
	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* One sendmsg with `count` copies of `fd`; true unless the socket is full. */
static bool send_with(int socket, const void *bytes, size_t length, int fd, int count)
{
	union { struct cmsghdr header; char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))]; } control;
	struct iovec chunk = {.iov_base = (void *) bytes, .iov_len = length};
	struct msghdr header = {.msg_iov = &chunk, .msg_iovlen = 1};
	if (count > 0) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE((size_t) count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN((size_t) count * sizeof(int));
		for (int i = 0; i < count; i++)
			memcpy(CMSG_DATA(&control.header) + (size_t) i * sizeof(int), &fd, sizeof fd);
	}
	ssize_t sent = sendmsg(socket, &header, MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		return false;
	expect(sent == (ssize_t) length, "a short write");
	return true;
}

/* One recvmsg; returns its bytes (0 at the end, -1 if there is nothing yet), closes the descriptors and counts them. */
static ssize_t receive_with(int socket, void *bytes, size_t length, int most, int64_t *descriptors)
{
	union { struct cmsghdr header; char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))]; } control;
	struct iovec chunk = {.iov_base = bytes, .iov_len = length};
	struct msghdr header = {.msg_iov = &chunk, .msg_iovlen = 1};
	if (most > 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof control;
	}
	ssize_t received = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
	if (received < 0 && errno == EAGAIN)
		return -1;
	if (received < 0)
		fail("recvmsg");
	struct cmsghdr *rights = most > 0 ? CMSG_FIRSTHDR(&header) : NULL;
	if (rights == NULL)
		return received;
	size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < count; i++) {
		int fd;
		memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
		close(fd);
	}
	*descriptors += (int64_t) count;
	return received;
}

static void send_all(int socket, const char *bytes, size_t length)
{
	for (size_t at = 0; at < length;) {
		ssize_t sent = write(socket, bytes + at, length - at);
		if (sent < 0)
			fail("write");
		at += (size_t) sent;
	}
}

static size_t receive_all(int socket, char *bytes, size_t length)
{
	size_t at = 0;
	while (at < length) {
		ssize_t received = read(socket, bytes + at, length - at);
		if (received < 0)
			fail("read");
		if (received == 0)
			break;
		at += (size_t) received;
	}
	return at;
}

/*
 * --- one way: messages and blocks. The far end answers the mark (a message that begins with MARK) with its count, and ends at the stream's
 * end or at END, because a datagram socket has no end.
 */

enum { MARK = 1, END = 2 };

static void one_way_far(int socket, size_t size, bool copy, int per_message)
{
	char *bytes = malloc(size);
	int64_t descriptors = 0;
	int before = open_descriptors();
	for (int64_t count = 0;; count++) {
		ssize_t received = copy ? (ssize_t) receive_all(socket, bytes, size)
			: receive_with(socket, bytes, size, per_message, &descriptors);
		if (received == 0 || bytes[0] == END)
			exit(0);
		expect(received == (ssize_t) size, "a short read");
		if (bytes[0] == 0)
			continue;
		expect(descriptors == count * per_message, "descriptors are missing");
		send_all(socket, (char *) &count, sizeof count);
		expect(open_descriptors() == before, "descriptors are left open");
		count = -1;
		descriptors = 0;
	}
}

static double one_way_phase(int socket, size_t size, bool copy, int per_message, double seconds)
{
	char *bytes = calloc(1, size);
	double start = now(), end;
	int64_t count = 0, arrived = 0, burst = copy ? 4 : 256 / (per_message + 1) + 1;
	do {
		for (int64_t i = 0; i < burst; i++, count++)
			if (copy)
				send_all(socket, bytes, size);
			else
				send_with(socket, bytes, size, STDERR_FILENO, per_message);
	} while (now() - start < seconds);
	bytes[0] = MARK;
	send_all(socket, bytes, size);
	receive_all(socket, (char *) &arrived, sizeof arrived);
	end = now();
	expect(arrived == count, "messages are missing");
	free(bytes);
	return (double) count / (end - start);
}

/* --- round trips */

/* A loop that waits for the socket; none, as -1, for who is spinning. */
static int watch(int socket, bool spinning)
{
	fcntl(socket, F_SETFL, O_NONBLOCK);
	if (spinning)
		return -1;
	int loop = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN};
	if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, socket, &event) < 0)
		fail("epoll");
	return loop;
}

/* Waits in epoll, then reads one message. Without a loop it only reads, and sleeps when it is another contender's turn. */
static ssize_t next_message(int loop, int socket, char *bytes, int64_t *descriptors)
{
	struct epoll_event event;
	struct pollfd readable = {.fd = socket, .events = POLLIN};
	ssize_t received;
	int tries = 0;
	do {
		if (loop < 0 && ++tries > SPINS)
			poll(&readable, 1, -1);
		if (loop >= 0 && epoll_wait(loop, &event, 1, -1) < 0 && errno != EINTR)
			fail("epoll_wait");
		received = receive_with(socket, bytes, MESSAGE, 1, descriptors);
	} while (received < 0);
	return received;
}

static void round_trip_far(int socket, int per_message, bool spinning)
{
	char bytes[MESSAGE];
	int loop = watch(socket, spinning), before = open_descriptors();
	int64_t descriptors = 0;
	for (int64_t count = 1; next_message(loop, socket, bytes, &descriptors) > 0; count++) {
		send_with(socket, bytes, MESSAGE, -1, 0);
		expect(descriptors == count * per_message, "descriptors are missing");
	}
	expect(open_descriptors() == before, "descriptors are left open");
	exit(0);
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;
	return (a > b) - (a < b);
}

static double round_trip_near(int socket, int per_message, bool spinning, double seconds)
{
	static double samples[MAX_SAMPLES];
	char bytes[MESSAGE] = {0};
	int loop = watch(socket, spinning);
	int64_t descriptors = 0;
	size_t count = 0;
	double start = now();
	for (double sent = start; sent - start < seconds && count < MAX_SAMPLES; sent = now()) {
		send_with(socket, bytes, MESSAGE, STDERR_FILENO, per_message);
		expect(next_message(loop, socket, bytes, &descriptors) == MESSAGE, "a short answer");
		samples[count++] = now() - sent;
	}
	if (loop >= 0)
		close(loop);
	qsort(samples, count, sizeof *samples, compare);
	return samples[count / 2] * 1e6;
}

/* --- a takeover */

static int open_connection(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	return fd;
}

/* Its byte is the commit. */
static int decision[2];

static void takeover_far(int socket, int descriptors)
{
	char byte, bytes[MESSAGE] = {0};
	int connection = open_connection(), before = open_descriptors();
	while (receive_all(socket, &byte, 1) == 1) {
		for (int left = descriptors; left > 0; left -= MAX_FDS)
			send_with(socket, bytes, MESSAGE, connection, left < MAX_FDS ? left : MAX_FDS);
		send_all(decision[1], &byte, 1);
	}
	expect(open_descriptors() == before, "descriptors are left open");
	exit(0);
}

static double takeover_near(int socket, int descriptors, double seconds)
{
	static double samples[MAX_SAMPLES];
	char byte = 1, bytes[MESSAGE];
	int before = open_descriptors();
	size_t count = 0;
	double start = now();
	for (double asked = start; asked - start < seconds && count < MAX_SAMPLES; asked = now()) {
		int64_t arrived = 0;
		send_all(socket, &byte, 1);
		while (arrived < descriptors)
			expect(receive_with(socket, bytes, MESSAGE, MAX_FDS, &arrived) == MESSAGE, "a short message");
		expect(arrived == descriptors, "descriptors are missing");
		expect(receive_all(decision[0], &byte, 1) == 1, "the pipe has ended");
		samples[count++] = now() - asked;
	}
	expect(open_descriptors() == before, "descriptors are left open");
	qsort(samples, count, sizeof *samples, compare);
	return samples[count / 2] * 1e3;
}

struct workload {
	bool round_trip, spinning, takeover, datagrams, copy;
	size_t size;
	int descriptors; /* a message */
};

static double measure(int socket, const struct workload *workload, double seconds)
{
	if (workload->takeover)
		return takeover_near(socket, workload->descriptors, seconds);
	if (workload->round_trip)
		return round_trip_near(socket, workload->descriptors, workload->spinning, seconds);
	double messages = one_way_phase(socket, workload->size, workload->copy, workload->descriptors, seconds);
	if (workload->copy)
		return messages * (double) workload->size / 1e9;
	return workload->descriptors > 0 ? messages * workload->descriptors : messages;
}

static void far(int socket, const struct workload *workload)
{
	const char *cpu = getenv("BENCH_FAR_CPU");
	if (cpu != NULL) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET((size_t) atoi(cpu), &set);
		sched_setaffinity(0, sizeof set, &set);
	}
	if (workload->takeover)
		takeover_far(socket, workload->descriptors);
	if (workload->round_trip)
		round_trip_far(socket, workload->descriptors, workload->spinning);
	one_way_far(socket, workload->size, workload->copy, workload->descriptors);
}

int main(int argument_count, char **argument)
{
	const char *name = argument_count > 1 ? argument[1] : "";
	bool spinning = strcmp(name, "spinning") == 0, copy = strcmp(name, "copy") == 0;
	bool round_trip = spinning || strcmp(name, "round-trip") == 0;
	bool takeover = strcmp(name, "takeover") == 0, datagrams = strcmp(name, "datagrams") == 0;
	int number = argument_count > 2 ? atoi(argument[2]) : 0;
	struct workload workload = {
		.round_trip = round_trip,
		.spinning = spinning,
		.takeover = takeover,
		.datagrams = datagrams,
		.copy = copy,
		.size = !copy ? MESSAGE : number > 0 ? (size_t) number : BLOCK,
		.descriptors = copy ? 0 : number
	};
	expect(round_trip || copy || takeover || datagrams || strcmp(name, "messages") == 0 || strcmp(name, "descriptors") == 0,
		"messages, datagrams, descriptors N, round-trip [1], spinning, copy or takeover N?");
	expect(workload.descriptors >= 0 && (takeover || workload.descriptors <= MAX_FDS), "0 to 253 descriptors");
	int ends[2], status;
	if (pipe2(decision, O_CLOEXEC) < 0)
		fail("pipe2");
	if (socketpair(AF_UNIX, (datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0, ends) < 0)
		fail("socketpair");
	pid_t child = fork();
	if (child == 0) {
		close(ends[0]);
		far(ends[1], &workload);
	}
	close(ends[1]);
	measure(ends[0], &workload, seconds_of("BENCH_FLOOR_WARM_UP", 0.1));
	puts("ready");
	fflush(stdout);
	for (int byte; (byte = getchar()) != EOF;) {
		if (byte != '\n')
			continue;
		printf("%f\n", measure(ends[0], &workload, seconds_of("BENCH_MEASURED", 0.3)));
		fflush(stdout);
	}
	if (datagrams) {
		char end[MESSAGE] = {END};
		send_all(ends[0], end, sizeof end);
	}
	close(ends[0]);
	waitpid(child, &status, 0);
	expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the far end failed");
	return 0;
}

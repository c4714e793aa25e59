/*
 * The client of the row of WebSockets (RFC 6455): websockets ALL ACTIVE ADDRESS PORT. Opens ALL connections and prints `open`. For each line on
 * stdin, a number of ms, it has a message of 64 bytes under way on each of the first ACTIVE connections for so long, each sent again when its echo has
 * come, and prints one JSON object: `echoes` in `seconds`, `median` and `p99` in µs. At the end of stdin every connection must echo one message.
 * Fails if an echo is missing or is another one's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 64, HEAD = 2, MASK = 4, ANSWER = 512, MAX_TIMES = 1 << 20 };
#define BINARY 0x82
#define MASKED 0x80

struct connection {
	int socket;
	bool asked;
	uint32_t number, sent; /* what the message under way says */
	double due;
	size_t length;
	char answer[ANSWER + 1];
};

static struct connection *connections;
static double times[MAX_TIMES];
static size_t time_count;
static int loop, under_way;
static double patience = 30; /* seconds */

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void expect(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "websockets: %s\n", what);
	exit(1);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;
	return (a > b) - (a < b);
}

static void send_all(int socket, const char *bytes, size_t length)
{
	if (send(socket, bytes, length, MSG_NOSIGNAL) != (ssize_t) length)
		fail("send");
}

static void open_connection(struct connection *connection, const struct sockaddr_in *address)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
	int one = 1;
	connection->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection->socket < 0)
		fail("socket");
	if (connect(connection->socket, (const struct sockaddr *) address, sizeof *address) < 0)
		fail("connect");
	setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	send_all(connection->socket, request, sizeof request - 1);
}

/* Waits for the answer to the handshake: the server sends nothing else before it is asked. */
static void upgraded(struct connection *connection)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
	do {
		ssize_t received = recv(connection->socket, connection->answer + connection->length, ANSWER - connection->length, 0);
		if (received < 0)
			fail("recv");
		expect(received > 0, "the handshake was cut short");
		connection->length += (size_t) received;
		connection->answer[connection->length] = '\0';
	} while (strstr(connection->answer, "\r\n\r\n") == NULL);
	expect(strncmp(connection->answer, "HTTP/1.1 101 ", 13) == 0, "the handshake was refused");
	connection->length = 0;
	if (epoll_ctl(loop, EPOLL_CTL_ADD, connection->socket, &event) < 0)
		fail("epoll_ctl");
}

/* Masked by zeroes. Its first bytes are the connection's number and a count. */
static void ask(struct connection *connection)
{
	char frame[HEAD + MASK + PAYLOAD] = {(char) BINARY, (char) (MASKED | PAYLOAD)};
	connection->sent++;
	memcpy(frame + HEAD + MASK, &connection->number, sizeof connection->number);
	memcpy(frame + HEAD + MASK + sizeof connection->number, &connection->sent, sizeof connection->sent);
	connection->asked = true;
	connection->due = now();
	under_way++;
	send_all(connection->socket, frame, sizeof frame);
}

/* True when the whole echo has come. */
static bool is_answered(struct connection *connection)
{
	enum { WHOLE = HEAD + PAYLOAD };
	uint32_t said[2];
	ssize_t received = recv(connection->socket, connection->answer + connection->length, ANSWER - connection->length, MSG_DONTWAIT);
	if (received < 0 && errno == EAGAIN)
		return false;
	if (received < 0)
		fail("recv");
	expect(received > 0, "the server has closed a connection");
	expect(connection->asked, "the server has sent what nobody asked for");
	connection->length += (size_t) received;
	if (connection->length < WHOLE)
		return false;
	expect(connection->length == WHOLE && connection->answer[0] == (char) BINARY && connection->answer[1] == PAYLOAD, "no echo but another frame");
	memcpy(said, connection->answer + HEAD, sizeof said);
	expect(said[0] == connection->number && said[1] == connection->sent, "an echo of another message");
	connection->length = 0;
	connection->asked = false;
	under_way--;
	return true;
}

static void turn(bool again)
{
	struct epoll_event events[256];
	int count = epoll_wait(loop, events, 256, 100);
	if (count < 0 && errno != EINTR)
		fail("epoll_wait");
	for (int i = 0; i < count; i++) {
		struct connection *connection = events[i].data.ptr;
		if (!is_answered(connection))
			continue;
		if (time_count < MAX_TIMES)
			times[time_count++] = now() - connection->due;
		if (again)
			ask(connection);
	}
}

static void drain(void)
{
	double start = now();
	while (under_way > 0) {
		turn(false);
		expect(now() - start < patience, "echoes are missing");
	}
}

static void phase(int active, double seconds)
{
	double start = now(), end;
	time_count = 0;
	for (int i = 0; i < active; i++)
		ask(&connections[i]);
	do
		turn(true);
	while ((end = now()) - start < seconds);
	size_t echoes = time_count;
	drain();
	qsort(times, time_count, sizeof *times, compare);
	expect(time_count > 0, "nothing was echoed");
	printf("{\"echoes\":%zu,\"seconds\":%f,\"median\":%f,\"p99\":%f}\n", echoes, end - start, times[time_count / 2] * 1e6, times[time_count * 99 / 100] * 1e6);
	fflush(stdout);
}

int main(int argument_count, char **argument)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct rlimit files;
	double milliseconds;
	if (argument_count != 5) {
		fputs("websockets ALL ACTIVE ADDRESS PORT\n", stderr);
		return 1;
	}
	int all = atoi(argument[1]), active = atoi(argument[2]);
	expect(active >= 1 && active <= all, "1 to ALL of them can be active");
	address.sin_port = htons((uint16_t) atoi(argument[4]));
	expect(inet_pton(AF_INET, argument[3], &address.sin_addr) == 1, "which address?");
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	connections = calloc((size_t) all, sizeof *connections);
	if (connections == NULL || (loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
		fail("epoll_create1");
	/* A few at a time, so that no queue of the server is full */
	enum { TOGETHER = 64 };
	for (int first = 0; first < all; first += TOGETHER) {
		int end = first + TOGETHER < all ? first + TOGETHER : all;
		for (int i = first; i < end; i++) {
			connections[i].number = (uint32_t) i;
			open_connection(&connections[i], &address);
		}
		for (int i = first; i < end; i++)
			upgraded(&connections[i]);
	}
	puts("open");
	fflush(stdout);
	while (scanf("%lf", &milliseconds) == 1)
		phase(active, milliseconds / 1000);
	for (int first = 0; first < all; first += TOGETHER) {
		for (int i = first; i < first + TOGETHER && i < all; i++)
			ask(&connections[i]);
		drain();
	}
	return 0;
}

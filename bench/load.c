/*
 * The client of all that serve connections: a closed loop over epoll, from one thread, so that it takes as little as possible of the
 * cores that it shares with them.
 *   load close N ADDRESS PORT PID       N requests under way, a connection for each (`Connection: close`)
 *   load keep-alive N ADDRESS PORT PID  N connections, a request under way on each
 *   load paced N ADDRESS PORT PID       a request each $BENCH_PAUSE ms (2), a connection for each, N under way at most; it goes on until a further
 *                                       line has come, too. `p99` and `slowest` are ms from the time at which a request was due
 *   load bare N PATH 0 PID              N connections to a Unix socket under way, each until the server closes it
 * PID is the process whose CPU time is to be told besides, or 0. For each line on stdin, a number of ms, it goes on for so long (and
 * until something was answered and PID's CPU time has grown, but $BENCH_PATIENCE ms at most, or 5 s), waits for what is under way, and
 * prints one JSON object: `completed` in `seconds` (and `besides`, before and after), `cpu` (seconds of PID meanwhile), `failed` by kind,
 * `workers` (answers by the process that gave them: the body of an answer is its id).
 * It reads each answer up to the server's end and then closes with linger 0: a reset of a connection that is over at both ends, so neither
 * is left in TIME_WAIT and no port runs out.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, MAX_WORKERS = 256, ANSWER = 1024, MAX_TIMES = 1 << 18 };
enum mode { CLOSE, KEEP_ALIVE, PACED, BARE };
enum failure { REFUSED, RESET, CUT_SHORT, WRONG, TOO_LATE, FAILURES };
static const char *const failure_names[] = {"refused", "reset", "cutShort", "wrong", "tooLate"};

struct connection {
	int socket; /* -1: none */
	bool asked; /* an answer is awaited */
	double due; /* if paced */
	size_t length;
	char answer[ANSWER + 1];
};

static union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_un path; } address;
static socklen_t address_length;
static enum mode mode;
static const char *request;
static size_t request_length;
static int loop;
static struct connection connections[MAX_CONNECTIONS];
static struct { long pid; int64_t answers; } workers[MAX_WORKERS];
static int64_t completed, failed[FAILURES];
static int under_way;
static double patience = 5, pause_between = 0.002; /* seconds */
static double times[MAX_TIMES];
static int64_t time_count;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double seconds_on(clockid_t clock)
{
	struct timespec time;
	if (clock_gettime(clock, &time) < 0)
		fail("clock_gettime");
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

/* The connection is over, or given up. */
static void let_go(struct connection *connection)
{
	if (connection->socket >= 0)
		close(connection->socket);
	connection->socket = -1;
	under_way -= connection->asked;
	connection->asked = false;
}

static void give_up(struct connection *connection, enum failure kind)
{
	failed[kind]++;
	let_go(connection);
}

static bool open_connection(struct connection *connection)
{
	const struct linger reset = {.l_onoff = 1};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
	connection->socket = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection->socket < 0)
		fail("socket");
	if (mode != BARE && setsockopt(connection->socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0)
		fail("SO_LINGER");
	/* On loopback this waits for the kernel only, unless the server's backlog is full. */
	if (connect(connection->socket, &address.any, address_length) < 0)
		return false;
	if (epoll_ctl(loop, EPOLL_CTL_ADD, connection->socket, &event) < 0)
		fail("epoll_ctl");
	return true;
}

static void ask(struct connection *connection)
{
	connection->asked = true;
	connection->length = 0;
	under_way++;
	if (connection->socket < 0 && !open_connection(connection)) {
		give_up(connection, REFUSED);
		return;
	}
	if (mode != BARE && send(connection->socket, request, request_length, MSG_NOSIGNAL) != (ssize_t) request_length)
		give_up(connection, RESET);
}

/* Counts it for the worker; false if it is none. Sets `length` to that of the answer, 0 if it is not all there. */
static bool read_answer(const char *text, size_t have, size_t *length)
{
	const char *body = strstr(text, "\r\n\r\n"), *field = strcasestr(text, "\r\nContent-Length:");
	*length = 0;
	if (strncmp(text, "HTTP/1.1 200 ", have < 13 ? have : 13) != 0)
		return false;
	if (body == NULL)
		return have < ANSWER;
	body += 4;
	if (field == NULL || field > body)
		return false;
	*length = (size_t) (body - text) + strtoul(field + 17, NULL, 10);
	if (have < *length) {
		*length = 0;
		return have < ANSWER;
	}
	long pid = strtol(body, NULL, 10);
	for (int i = 0; i < MAX_WORKERS && have == *length && pid > 0; i++)
		if (workers[i].pid == 0 || workers[i].pid == pid) {
			workers[i].pid = pid;
			workers[i].answers++;
			return true;
		}
	return false;
}

/* Reads what has come; true when an answer is complete, and with it, unless it is kept alive, the connection. */
static bool is_answered(struct connection *connection)
{
	for (;;) {
		size_t length;
		ssize_t received = recv(connection->socket, connection->answer + connection->length, ANSWER - connection->length, MSG_DONTWAIT);
		if (received < 0 && errno == EAGAIN)
			return false;
		if (received < 0 || !connection->asked || (received == 0 && mode == KEEP_ALIVE)) {
			give_up(connection, RESET);
			return false;
		}
		if (received > 0) {
			connection->length += (size_t) received;
			if (mode == KEEP_ALIVE) {
				connection->answer[connection->length] = '\0';
				if (!read_answer(connection->answer, connection->length, &length)) {
					give_up(connection, WRONG);
					return false;
				}
				if (length > 0)
					return true;
			} else if (connection->length == ANSWER || mode == BARE) {
				give_up(connection, WRONG);
				return false;
			}
			continue;
		}
		connection->answer[connection->length] = '\0';
		if (mode != BARE && !read_answer(connection->answer, connection->length, &length)) {
			give_up(connection, WRONG);
			return false;
		}
		if (mode != BARE && length == 0) {
			give_up(connection, CUT_SHORT);
			return false;
		}
		return true;
	}
}

/* What has happened by now; asks again for what is answered if `again`. */
static void turn(bool again, int milliseconds)
{
	struct epoll_event events[64];
	int count = epoll_wait(loop, events, 64, milliseconds);
	if (count < 0 && errno != EINTR)
		fail("epoll_wait");
	for (int i = 0; i < count; i++) {
		struct connection *connection = events[i].data.ptr;
		if (is_answered(connection)) {
			completed++;
			if (mode == PACED && time_count < MAX_TIMES)
				times[time_count++] = seconds_on(CLOCK_MONOTONIC) - connection->due;
			if (mode == KEEP_ALIVE) {
				under_way--;
				connection->asked = false;
			} else {
				let_go(connection);
			}
		}
		if (again && !connection->asked)
			ask(connection);
	}
}

/* Of the first `count`, those that have nothing under way: at the beginning, and who was refused. */
static void ask_idle(int count)
{
	for (int i = 0; i < count && under_way < count; i++)
		if (!connections[i].asked)
			ask(&connections[i]);
}

/* Asks for all that is due by now; what finds no free place is late, and stays due. Returns when the next one is due. */
static double ask_due(int count, double due)
{
	double time = seconds_on(CLOCK_MONOTONIC);
	for (int i = 0; i < count && due <= time; i++)
		if (!connections[i].asked) {
			connections[i].due = due;
			due += pause_between;
			ask(&connections[i]);
		}
	return due;
}

static bool has_come(int fd)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	return poll(&readable, 1, 0) > 0;
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;
	return (a > b) - (a < b);
}

static void drain(void)
{
	double start = seconds_on(CLOCK_MONOTONIC);
	while (under_way > 0 && seconds_on(CLOCK_MONOTONIC) - start < patience)
		turn(false, 100);
	for (int i = 0; i < MAX_CONNECTIONS; i++)
		if (connections[i].asked)
			give_up(&connections[i], TOO_LATE);
}

/* Linux adds to the CPU time of a process that runs elsewhere only at a tick or a switch: it can stand still for longer than a short phase. */
static bool measurable(int64_t answers, clockid_t clock, double cpu)
{
	return answers > 0 && (clock == CLOCK_MONOTONIC || seconds_on(clock) > cpu);
}

static void phase(int count, double seconds, clockid_t clock)
{
	int64_t within;
	double start, cpu = 0, end;
	completed = 0;
	memset(failed, 0, sizeof failed);
	memset(workers, 0, sizeof workers);
	if (mode == KEEP_ALIVE) {
		/* Connections that are new each time, and open before the clock runs. */
		ask_idle(count);
		drain();
	}
	int64_t before = completed;
	time_count = 0;
	if (clock != CLOCK_MONOTONIC)
		cpu = seconds_on(clock);
	start = seconds_on(CLOCK_MONOTONIC);
	double due = start;
	do {
		if (mode == PACED)
			due = ask_due(count, due);
		else
			ask_idle(count);
		turn(mode != PACED, 1);
		end = seconds_on(CLOCK_MONOTONIC);
	} while (end - start < seconds || (mode == PACED && !has_come(STDIN_FILENO)) || (mode != PACED && end - start < patience && !measurable(completed - before, clock, cpu)));
	within = completed - before;
	if (clock != CLOCK_MONOTONIC)
		cpu = seconds_on(clock) - cpu;
	drain();
	for (int i = 0; i < count; i++)
		let_go(&connections[i]);
	printf("{\"completed\":%ld,\"besides\":%ld,\"seconds\":%f,\"cpu\":%f,\"failed\":{", (long) within, (long) (completed - within), end - start, cpu);
	for (int i = 0; i < FAILURES; i++)
		printf("%s\"%s\":%ld", i == 0 ? "" : ",", failure_names[i], (long) failed[i]);
	printf("},\"workers\":{");
	for (int i = 0; i < MAX_WORKERS && workers[i].pid > 0; i++)
		printf("%s\"%ld\":%ld", i == 0 ? "" : ",", workers[i].pid, (long) workers[i].answers);
	putchar('}');
	if (mode == PACED && time_count > 0) {
		qsort(times, (size_t) time_count, sizeof *times, compare);
		printf(",\"p99\":%f,\"slowest\":%f", times[time_count * 99 / 100] * 1e3, times[time_count - 1] * 1e3);
	}
	puts("}");
	fflush(stdout);
}

static void parse(char **argument)
{
	const char *name = argument[1];
	mode = strcmp(name, "bare") == 0 ? BARE : strcmp(name, "keep-alive") == 0 ? KEEP_ALIVE : strcmp(name, "paced") == 0 ? PACED : CLOSE;
	if (mode == BARE) {
		address.path.sun_family = AF_UNIX;
		strncpy(address.path.sun_path, argument[3], sizeof address.path.sun_path - 1);
		address_length = sizeof address.path;
		return;
	}
	request = mode != KEEP_ALIVE ? "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n" : "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
	request_length = strlen(request);
	address.in.sin_family = AF_INET;
	address.in.sin_port = htons((uint16_t) atoi(argument[4]));
	address_length = sizeof address.in;
	if (inet_pton(AF_INET, argument[3], &address.in.sin_addr) != 1)
		fail("address");
}

int main(int argument_count, char **argument)
{
	clockid_t clock = CLOCK_MONOTONIC;
	double milliseconds;
	const char *given = getenv("BENCH_PATIENCE");
	if (argument_count != 6) {
		fputs("load close|keep-alive|paced|bare N ADDRESS PORT PID\n", stderr);
		return 1;
	}
	parse(argument);
	if (given != NULL)
		patience = atof(given) / 1000;
	given = getenv("BENCH_PAUSE");
	if (given != NULL)
		pause_between = atof(given) / 1000;
	setvbuf(stdin, NULL, _IONBF, 0); /* has_come() sees what no buffer has */
	int count = atoi(argument[2]), pid = atoi(argument[5]);
	if (count < 1 || count > MAX_CONNECTIONS || (pid > 0 && clock_getcpuclockid(pid, &clock) != 0)) {
		fputs("load: connections or process?\n", stderr);
		return 1;
	}
	for (int i = 0; i < MAX_CONNECTIONS; i++)
		connections[i].socket = -1;
	if ((loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
		fail("epoll_create1");
	while (scanf("%lf", &milliseconds) == 1)
		phase(count, milliseconds / 1000, clock);
	return 0;
}

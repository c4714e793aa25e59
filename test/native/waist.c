/*
 * The waist without Node: each case opens, passes and closes for real, and leaves the table of descriptors as it was. Prints a line for each
 * case, and on stderr what does not hold; exits with 1 then.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../native/waist/closer.h"
#include "../../native/waist/held.h"
#include "../../native/waist/os.h"

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define SANITIZED /* by clang: malloc() is not glibc's */
#endif
#endif

static int failures;

static void check_(bool holds, const char *what, const char *function, int line)
{
	if (holds)
		return;
	failures++;
	fprintf(stderr, "%s, line %d: %s\n", function, line, what);
}
#define CHECK(condition) check_(condition, #condition, __func__, __LINE__)

static int open_count(void)
{
	int count = 0;
	DIR *folder = opendir("/proc/self/fd");
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static bool is_cloexec(int fd)
{
	return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

static bool is_same_file(int one, int other)
{
	struct stat a, b;
	return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void passes_as_many_as_the_kernel_allows(void)
{
	int32_t ends[2], sent[OS_MAX_RIGHTS + 1], received[OS_MAX_RIGHTS];
	CHECK(os_socketpair(SOCK_STREAM, ends) == 0);
	CHECK(is_cloexec(ends[0]) && is_cloexec(ends[1]));
	int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i <= OS_MAX_RIGHTS; i++)
		sent[i] = file;
	uint8_t byte = 7, got = 0;
	struct iovec out = {.iov_base = &byte, .iov_len = 1}, in = {.iov_base = &got, .iov_len = 1};
	CHECK(os_send(ends[0], &out, 1, sent, OS_MAX_RIGHTS + 1) < 0);
	CHECK(os_send(ends[0], &out, 1, sent, OS_MAX_RIGHTS) == 1);
	struct os_rights rights = {.fds = received, .capacity = OS_MAX_RIGHTS};
	CHECK(os_receive(ends[1], &in, 1, &rights) == 1 && got == 7);
	CHECK(rights.count == OS_MAX_RIGHTS && !rights.truncated);
	for (size_t i = 0; i < rights.count; i++) {
		CHECK(is_cloexec(received[i]) && is_same_file(received[i], file));
		CHECK(os_close(received[i]) == 0);
	}
	/* With room for fewer the rest is closed, and that is told */
	CHECK(os_send(ends[0], &out, 1, sent, 5) == 1);
	rights = (struct os_rights) {.fds = received, .capacity = 2};
	CHECK(os_receive(ends[1], &in, 1, &rights) == 1);
	CHECK(rights.truncated && rights.count <= 2);
	for (size_t i = 0; i < rights.count; i++)
		os_close(received[i]);
	CHECK(os_close(file) == 0 && os_close(ends[0]) == 0 && os_close(ends[1]) == 0);
	CHECK(os_close(ends[1]) == -EBADF);
}

static void keeps_packets_apart(void)
{
	int32_t ends[2], fds[2];
	CHECK(os_socketpair(SOCK_SEQPACKET, ends) == 0);
	CHECK(os_pass_credentials(ends[1], true) == 0);
	char text[] = "three";
	struct iovec out = {.iov_base = text, .iov_len = 5};
	CHECK(os_send_message(ends[0], &out, &(int32_t) {ends[0]}, 1, NULL, 0) == 5);
	out.iov_len = 0;
	CHECK(os_send_message(ends[0], &out, NULL, 0, NULL, 0) == 0);
	char small[3];
	struct iovec in = {.iov_base = small, .iov_len = sizeof small};
	struct os_rights rights = {.fds = fds, .capacity = 2};
	struct os_message message = {0};
	CHECK(os_next_size(ends[1]) == 5);
	CHECK(os_receive_message(ends[1], &in, &message, &rights, false) == 3);
	CHECK(message.cut && message.credentials && message.pid == getpid() && rights.count == 1);
	os_close(fds[0]);
	rights.count = 0;
	CHECK(os_next_size(ends[1]) == 0); /* an empty one is there */
	CHECK(os_receive_message(ends[1], &in, &message, &rights, false) == 0 && rights.count == 0);
	CHECK(os_next_size(ends[1]) == -EAGAIN && os_pending(ends[1]) == 0);
	os_close(ends[0]);
	os_close(ends[1]);
}

static int client_of(int listener)
{
	struct os_inet_name name;
	CHECK(os_inet_name(listener, false, &name) == 0 && name.family == 4);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) name.port)};
	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	CHECK(connect(fd, (struct sockaddr *) &address, sizeof address) == 0);
	return fd;
}

static void counts_and_accepts_who_waits(void)
{
	int listener = os_bind_inet(false, "127.0.0.1", 0, 16, 0), clients[3];
	int32_t accepted[3];
	uint8_t addresses[3 * OS_ADDRESS];
	CHECK(listener >= 0 && os_queued(listener) == 0 && os_handshakes(listener) == 0);
	int diagnosis = os_diagnosis();
	CHECK(diagnosis >= 0);
	os_close(diagnosis);
	int set = os_edge_set();
	int32_t told;
	CHECK(set >= 0 && os_edge_add(set, listener) == 0);
	for (int i = 0; i < 3; i++)
		clients[i] = client_of(listener);
	CHECK(os_queued(listener) == 3);
	CHECK(os_edge_ready(set, &told, 1) == 1 && told == listener);
	CHECK(os_edge_ready(set, &told, 1) == 0); /* only what is new */
	CHECK(os_accept_many(listener, accepted, 2, addresses) == 2);
	CHECK(addresses[0] == 9 && memcmp(addresses + 1, "127.0.0.1", 9) == 0);
	CHECK(os_queued(listener) == 1);
	CHECK(os_close_queue(listener) == 0); /* who is in it can still be accepted */
	CHECK(os_accept_many(listener, accepted + 2, 1, NULL) == 1);
	CHECK(os_accept_many(listener, accepted, 1, NULL) == 0);
	char byte = 'x';
	uint8_t head[4];
	CHECK(write(clients[0], &byte, 1) == 1);
	int length = -EAGAIN;
	while (length == -EAGAIN)
		length = os_peek(accepted[0], head, sizeof head);
	CHECK(length == 1 && head[0] == 'x' && os_pending(accepted[0]) == 1);
	CHECK(os_quiet(accepted[0]) >= 0 && os_quiet(set) < 0);
	CHECK(os_edge_remove(set, listener) == 0);
	for (int i = 0; i < 3; i++)
		CHECK(os_close(clients[i]) == 0 && os_close(accepted[i]) == 0);
	CHECK(os_close(set) == 0 && os_close(listener) == 0);
}

static void binds_names(void)
{
	char path[] = "/tmp/passfd-waist-XXXXXX";
	CHECK(mkdtemp(path) != NULL);
	char name[64];
	int length = snprintf(name, sizeof name, "%s/socket", path);
	int listener = os_socket(SOCK_STREAM), client = os_socket(SOCK_STREAM);
	CHECK(os_connect(client, (uint8_t *) name, (size_t) length) == -ENOENT);
	CHECK(os_bind(listener, (uint8_t *) name, (size_t) length, 0600) == 0);
	struct stat facts;
	CHECK(stat(name, &facts) == 0 && (facts.st_mode & 0777) == 0600);
	CHECK(os_listen(listener, 4) == 0 && os_connect(client, (uint8_t *) name, (size_t) length) == 0);
	CHECK(os_queued(listener) == 1);
	int accepted = os_accept(listener);
	CHECK(accepted >= 0 && os_accept(listener) == -EAGAIN);
	uint8_t told[108];
	CHECK(os_name(accepted, false, told, sizeof told) == length && memcmp(told, name, (size_t) length) == 0);
	/* Linux counts a NUL behind a path that fills all of it (unix(7), BUGS). */
	struct sockaddr_un longest = {.sun_family = AF_UNIX};
	memset(longest.sun_path, 'x', sizeof longest.sun_path);
	CHECK(os_copy_name(&longest, sizeof longest + 1, told, sizeof told) == sizeof longest.sun_path);
	int32_t peer[64];
	CHECK(os_peer(accepted, peer, 64) >= 0 && peer[0] == getpid());
	CHECK(unlink(name) == 0 && rmdir(path) == 0);
	os_close(client);
	os_close(accepted);
	os_close(listener);
}

static void maps_memory(void)
{
	int fd = os_memfd("waist", 8192);
	void *ours = NULL, *theirs = NULL;
	CHECK(os_map(fd, 8192, true, &ours) == -EPERM); /* somebody could make it shorter */
	CHECK(os_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW) == 0 && (os_seals(fd) & F_SEAL_SHRINK) != 0);
	CHECK(os_map(fd, 16384, true, &ours) == -ERANGE);
	CHECK(os_map(fd, 8192, true, &ours) == 0 && os_map(fd, 8192, false, &theirs) == 0);
	if (ours != NULL && theirs != NULL) {
		memcpy(ours, "shared", 6);
		CHECK(memcmp(theirs, "shared", 6) == 0);
		os_unmap(theirs, 8192);
		os_unmap(ours, 8192);
	}
	CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
	CHECK(os_close(fd) == 0);
}

static void keeps_the_heap(void)
{
	void *pin = NULL;
#if defined __GLIBC__ && !defined SANITIZED
	enum { BLOCKS = 32, BLOCK = (1 << 20) + 20 };
	char *blocks[BLOCKS];
	void *volatile mapped = malloc(4 << 20); /* once it is free, blocks of this size come from the heap (M_MMAP_THRESHOLD, mallopt(3)) */
	free(mapped);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < BLOCKS; i++) {
			blocks[i] = malloc(BLOCK);
			pin = os_prepare_heap(pin, blocks[i], BLOCK);
			memset(blocks[i], round, BLOCK);
			CHECK((char *) pin > blocks[i]);
		}
		char *top = sbrk(0);
		for (int i = 0; i < BLOCKS; i++)
			free(blocks[i]);
		CHECK(sbrk(0) == top);
	}
	char *top = sbrk(0);
	os_release_heap(pin);
	CHECK((char *) sbrk(0) <= top - BLOCKS / 2 * BLOCK);
#endif
	enum { HUGE = 64 << 20 };
	char *huge = malloc(HUGE);
	pin = os_prepare_heap(NULL, huge, HUGE);
	memset(huge, 1, HUGE);
	free(huge);
	os_release_heap(pin);
	os_release_heap(NULL);
}

static void tells_pipes_from_fifos(void)
{
	char folder[] = "/tmp/waist-XXXXXX", path[64];
	int32_t ends[2];
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CHECK(mkdtemp(folder) != NULL);
	snprintf(path, sizeof path, "%s/pipe:[1]", folder);
	CHECK(mkfifo(path, 0600) == 0);
	int fifo = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	for (int round = 0; round < 2; round++) {
		CHECK(os_is_pipe(fifo) == 0 && os_is_pipe(null) == 0 && os_is_pipe(-1) == -EBADF);
		CHECK(os_pipe(ends) == 0 && os_is_pipe(ends[0]) == 1 && os_is_pipe(ends[1]) == 1);
		os_close(ends[0]);
		os_close(ends[1]);
	}
	os_close(fifo);
	os_close(null);
	CHECK(unlink(path) == 0 && rmdir(folder) == 0);
}

static void counts_owners(void)
{
	struct held held = {.identity = held_identity()}, other = {.identity = held_identity()};
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CHECK(held_take(&held, -EMFILE) == -EMFILE && held.count == 0);
	CHECK(held_adopt(&held, fd) >= 0 && held_adopt(&held, fd) == -EEXIST && held_adopt(&other, fd) == -EEXIST);
	CHECK(held_share(&held, fd) == fd && held.count == 2);
	int separate = held_separate(&held, fd);
	CHECK(separate >= 0 && separate != fd && is_same_file(separate, fd));
	CHECK(held_drop(&held, fd) && os_close(fd) == 0);
	CHECK(held_share(&held, fd) == -EBADF);
	held_close_all(&held);
	held_close_all(&other);
	CHECK(fcntl(separate, F_GETFD) < 0);
}

static void closes_aside(void)
{
	for (int round = 0; round < 20; round++) {
		struct closer_batch *batch = calloc(1, sizeof *batch + 8 * sizeof batch->fds[0]);
		batch->count = 8;
		for (int i = 0; i < 8; i++)
			batch->fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		closer_submit(batch);
	}
	while (closer_pending() > 0)
		sched_yield();
}

static void collects_children(void)
{
	int child = fork();
	if (child == 0)
		_exit(3);
	siginfo_t facts;
	CHECK(waitid(P_PID, (id_t) child, &facts, WEXITED | WNOWAIT) == 0);
	CHECK(os_ended_child() == child && os_collect(child) == child && os_collect(child) == 0 && os_ended_child() == 0);
	int self = os_pidfd(getpid());
	CHECK(self >= 0 && os_signal(self, 0) == 0);
	os_close(self);
}

int main(void)
{
	const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{"passes as many as the kernel allows", passes_as_many_as_the_kernel_allows},
		{"keeps packets apart", keeps_packets_apart},
		{"counts and accepts who waits", counts_and_accepts_who_waits},
		{"binds names", binds_names},
		{"maps memory", maps_memory},
		{"keeps the heap", keeps_the_heap},
		{"tells pipes from FIFOs", tells_pipes_from_fifos},
		{"counts owners", counts_owners},
		{"closes aside", closes_aside},
		{"collects children", collects_children},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int before = open_count(), failed = failures;
		cases[i].run();
		if (open_count() != before) {
			failures++;
			fprintf(stderr, "%s: %d descriptors are left\n", cases[i].name, open_count() - before);
		}
		printf("%s: %s\n", cases[i].name, failures == failed ? "ok" : "FAILED");
	}
	return failures == 0 ? 0 : 1;
}

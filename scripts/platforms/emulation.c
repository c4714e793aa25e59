/*
 * Which system calls qemu-user does not emulate as the kernel answers them: prints a line "<name>: <what it does>" for each. The tests of these calls
 * are left out under it (tests.mjs). A kernel that knows them all prints nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef TIOCGDEV
#define TIOCGDEV 0x80045432
#endif

/* open(2): 3 is an access mode of its own, for ioctl(2) only. */
static void access_mode(void)
{
	int fd = open("/dev/null", 3);
	int mode = fcntl(fd, F_GETFL) & O_ACCMODE;
	if (mode != 3)
		printf("access mode 3: fcntl(2) says %d\n", mode);
}

static void terminal_device(void)
{
	unsigned number = 0;
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (ioctl(master, TIOCGDEV, &number) < 0)
		printf("TIOCGDEV: %s\n", strerror(errno));
}

static void peer_groups(void)
{
	gid_t set[] = {7, 8, 9}, got[8] = {0};
	int pair[2];
	socklen_t size = sizeof got;
	if (setgroups(3, set) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return;
	if (getsockopt(pair[0], SOL_SOCKET, SO_PEERGROUPS, got, &size) < 0)
		printf("SO_PEERGROUPS: %s\n", strerror(errno));
	else if (size != sizeof set || memcmp(set, got, sizeof set) != 0)
		printf("SO_PEERGROUPS: %u bytes of %zu, the first group is %u\n", size, sizeof set, got[0]);
}

static void set_option(const char *name, int option)
{
	int pair[2], off = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && setsockopt(pair[0], SOL_SOCKET, option, &off, sizeof off) < 0)
		printf("%s: %s\n", name, strerror(errno));
}

/* sock_diag(7) knows the length of a Unix listener's queue, and a port's handshakes. */
static void socket_diagnosis(void)
{
	if (socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG) < 0)
		printf("NETLINK_SOCK_DIAG: %s\n", strerror(errno));
}

/* The length of a TCP listener's queue. */
static void tcp_facts(void)
{
	struct tcp_info facts;
	socklen_t size = sizeof facts;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (listen(fd, 8) == 0 && (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &facts, &size) < 0 || size < 64))
		printf("TCP_INFO: %s, %u bytes\n", strerror(errno), size);
}

static void unknown_type(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, 99, 0, pair) == 0)
		printf("socket type 99: there is one\n");
}

/* A signal at the end of the parent: any that has no other use. */
static void signal_of_parents_end(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGRTMAX) < 0)
		printf("PR_SET_PDEATHSIG: %s\n", strerror(errno));
}

/* Writing that never waits: passfd writes less at a time without it. */
static void write_nowait(void)
{
	int ends[2];
	struct iovec one = {.iov_base = "x", .iov_len = 1};
	if (pipe(ends) == 0 && pwritev2(ends[1], &one, 1, -1, RWF_NOWAIT) < 0)
		printf("pwritev2: %s\n", strerror(errno));
}

int main(void)
{
	access_mode();
	terminal_device();
	peer_groups();
	set_option("SO_PASSPIDFD", SO_PASSPIDFD);
	set_option("SO_PASSRIGHTS", SO_PASSRIGHTS);
	socket_diagnosis();
	tcp_facts();
	unknown_type();
	signal_of_parents_end();
	write_nowait();
	return 0;
}

/* What a descriptor is open on. */
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include "kernel.h"
#include "result.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static enum os_kind socket_kind(int fd, int domain)
{
	int type = get_option(fd, SO_TYPE), protocol = get_option(fd, SO_PROTOCOL);
	bool listens = get_option(fd, SO_ACCEPTCONN) == 1;
	if (domain == AF_UNIX && type == SOCK_STREAM)
		return listens ? OS_UNIX_STREAM_LISTENER : OS_UNIX_STREAM;
	if (domain == AF_UNIX && type == SOCK_SEQPACKET)
		return listens ? OS_UNIX_SEQPACKET_LISTENER : OS_UNIX_SEQPACKET;
	if (domain == AF_UNIX && type == SOCK_DGRAM)
		return OS_UNIX_DGRAM;
	if (domain != AF_INET && domain != AF_INET6)
		return OS_OTHER;
	if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP))
		return listens ? OS_TCP_LISTENER : OS_TCP;
	return type == SOCK_DGRAM && protocol == IPPROTO_UDP ? OS_UDP : OS_OTHER;
}

/* What the kernel calls a descriptor: the path of a file, or for example pipe:[4711]. */
static void read_name(int fd, char *name, size_t size)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ssize_t length = readlink(path, name, size - 1);
	name[length < 0 ? 0 : length] = '\0';
}

/* The device that all pipes have and no FIFO of a file system has, once a pipe was seen; 0 before. */
static _Atomic uint64_t pipe_device;

int os_is_pipe(int fd)
{
	struct statx status;
	char name[32];
	int problem = type_of(fd, &status);
	if (problem < 0)
		return problem;
	uint64_t device = (uint64_t) status.stx_dev_major << 32 | status.stx_dev_minor;
	if (!S_ISFIFO(status.stx_mode))
		return 0;
	if (device == pipe_device)
		return 1;
	read_name(fd, name, sizeof name);
	if (strncmp(name, "pipe:[", 6) != 0)
		return 0;
	pipe_device = device;
	return 1;
}

/*
 * Whether a file without a name is memory, by what can be seen without /proc. Deleted files of a tmpfs have seals, too. But a tmpfs has a limit, and the
 * kernel's own file system, which no folder shows, has none.
 */
static bool is_memory(int fd)
{
	struct stat status;
	struct statfs system;
	return fcntl(fd, F_GET_SEALS) >= 0 && fstat(fd, &status) == 0 && status.st_nlink == 0 && fstatfs(fd, &system) == 0 &&
	       system.f_blocks == 0 && system.f_files == 0;
}

/* A regular file, or one of the kernel's own: those have no type, or (newer pidfds) say that they are regular. */
static enum os_kind file_kind(int fd, bool regular)
{
	static const struct { const char *prefix; enum os_kind kind; } names[] = {
		{"anon_inode:[eventfd]", OS_EVENTFD}, {"anon_inode:[eventpoll]", OS_EPOLL},
		{"anon_inode:[pidfd]", OS_PIDFD}, {"pidfd:[", OS_PIDFD}, {"/memfd:", OS_MEMFD}
	};
	char name[32];
	read_name(fd, name, sizeof name);
	if (name[0] == '\0' && regular && is_memory(fd))
		return OS_MEMFD;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strncmp(name, names[i].prefix, strlen(names[i].prefix)) != 0)
			continue;
		/* Anybody may call a file /memfd:…, but only memory files have seals. */
		if (names[i].kind != OS_MEMFD || (regular && fcntl(fd, F_GET_SEALS) >= 0))
			return names[i].kind;
	}
	return regular ? OS_FILE : OS_OTHER;
}

int os_kind(int fd)
{
	struct statx status;
	struct termios terminal;
	/* Most are sockets. Others have no options, nor has a socket that was opened with O_PATH. */
	int domain = get_option(fd, SO_DOMAIN);
	if (domain >= 0)
		return (int) socket_kind(fd, domain);
	int problem = type_of(fd, &status);
	if (problem < 0)
		return problem;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if ((flags & O_PATH) != 0) /* a place in the tree: nothing can be read from it or written to it (open(2)) */
		return S_ISDIR(status.stx_mode) ? OS_DIRECTORY : OS_OTHER;
	switch (status.stx_mode & S_IFMT) {
	case S_IFDIR: return OS_DIRECTORY;
	case S_IFIFO: return OS_PIPE;
	case S_IFBLK: return OS_DEVICE;
	case S_IFCHR: return tcgetattr(fd, &terminal) == 0 ? OS_TTY : OS_DEVICE;
	default: return (int) file_kind(fd, S_ISREG(status.stx_mode));
	}
}

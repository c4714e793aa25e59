#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/major.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#ifndef SO_PASSPIDFD /* Linux 6.5 */
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PEERPIDFD /* Linux 6.5 */
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS /* Linux 6.16 */
#define SO_PASSRIGHTS 83
#endif
#ifndef SYS_close_range /* Linux 5.9; the same number everywhere */
#define SYS_close_range 436
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static int outcome(ssize_t result)
{
	return result < 0 ? -errno : (int) result;
}

int os_close(int fd)
{
	/* On Linux the number is free after EINTR too: closing again would close somebody else's file (close(2)). */
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

int os_set_cloexec(int fd)
{
	int flags = fcntl(fd, F_GETFD);
	if (flags < 0)
		return -errno;
	return flags & FD_CLOEXEC ? 0 : outcome(fcntl(fd, F_SETFD, flags | FD_CLOEXEC));
}

int os_dup(int fd)
{
	return outcome(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
}

int os_socketpair(int type, int32_t ends[2])
{
	return outcome(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends));
}

int os_pipe(int32_t ends[2])
{
	return outcome(pipe2(ends, O_CLOEXEC));
}

int os_socket(int type)
{
	return outcome(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

int os_unix_address(struct sockaddr_un *address, const uint8_t *name, size_t length)
{
	if (length == 0)
		return -EINVAL;
	bool abstract = name[0] == 0;
	if (length > sizeof address->sun_path - !abstract)
		return -ENAMETOOLONG;
	if (!abstract && memchr(name, 0, length) != NULL)
		return -EINVAL;
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, name, length);
	return (int) (offsetof(struct sockaddr_un, sun_path) + length + !abstract);
}

int os_bind(int fd, const uint8_t *name, size_t length, int mode)
{
	struct sockaddr_un address;
	int size = os_unix_address(&address, name, length);
	if (size < 0)
		return size;
	/* The file gets the mode of the socket's own inode, less the umask, so there is no moment at which it is wider. */
	if (mode >= 0 && name[0] != 0 && fchmod(fd, (mode_t) mode) < 0)
		return -errno;
	return outcome(bind(fd, (struct sockaddr *) &address, (socklen_t) size));
}

int os_listen(int fd, int backlog)
{
	return outcome(listen(fd, backlog));
}

int os_connect(int fd, const uint8_t *name, size_t length)
{
	struct sockaddr_un address;
	int size = os_unix_address(&address, name, length);
	if (size < 0)
		return size;
	int result;
	do {
		result = connect(fd, (struct sockaddr *) &address, (socklen_t) size);
	} while (result < 0 && errno == EINTR);
	return outcome(result);
}

static int set_option(int fd, int level, int option, int value)
{
	return outcome(setsockopt(fd, level, option, &value, sizeof value));
}

static int get_option(int fd, int option)
{
	int value = 0;
	socklen_t size = sizeof value;
	return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -errno : value;
}

static enum os_kind socket_kind(int fd)
{
	int domain = get_option(fd, SO_DOMAIN), type = get_option(fd, SO_TYPE), protocol = get_option(fd, SO_PROTOCOL);
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

/* A regular file, or one of the kernel's own: those have no type, or (newer pidfds) say that they are regular. */
static enum os_kind file_kind(int fd, bool regular)
{
	static const struct { const char *prefix; enum os_kind kind; } names[] = {
		{"anon_inode:[eventfd]", OS_EVENTFD}, {"anon_inode:[eventpoll]", OS_EPOLL},
		{"anon_inode:[pidfd]", OS_PIDFD}, {"pidfd:[", OS_PIDFD}, {"/memfd:", OS_MEMFD}
	};
	char path[32], name[32] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (readlink(path, name, sizeof name - 1) > 0)
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
	/* fstat would ask the server of a network file, which may not answer. */
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &status) < 0)
		return -errno;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if ((flags & O_PATH) != 0) /* a place in the tree: nothing can be read from it or written to it (open(2)) */
		return S_ISDIR(status.stx_mode) ? OS_DIRECTORY : OS_OTHER;
	switch (status.stx_mode & S_IFMT) {
	case S_IFDIR: return OS_DIRECTORY;
	case S_IFIFO: return OS_PIPE;
	case S_IFSOCK: return (int) socket_kind(fd);
	case S_IFBLK: return OS_DEVICE;
	case S_IFCHR: return tcgetattr(fd, &terminal) == 0 ? OS_TTY : OS_DEVICE;
	default: return (int) file_kind(fd, S_ISREG(status.stx_mode));
	}
}

int os_close_range(int first, size_t count)
{
	int closed = 0;
	/* Linux 5.9; by its number, as the C library may be older. It tells no errors, and skips what is not open. */
	if (count > 1 && syscall(SYS_close_range, first, first + (int) count - 1, 0) == 0)
		return (int) count;
	for (size_t i = 0; i < count; i++)
		closed += os_close(first + (int) i) != -EBADF;
	return closed;
}

bool os_closes_at_once(int fd)
{
	enum { MEMORY_NULL = 3, MEMORY_ZERO = 5, MEMORY_FULL = 7 };
	struct statx status;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &status) < 0)
		return false;
	if (!S_ISCHR(status.stx_mode) || status.stx_rdev_major != MEM_MAJOR)
		return false;
	switch (status.stx_rdev_minor) {
	case MEMORY_NULL:
	case MEMORY_ZERO:
	case MEMORY_FULL:
		return true;
	default: /* random(4) can be polled */
		return false;
	}
}

int os_peer(int fd, int32_t *out, size_t length)
{
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (length < 4)
		return -ERANGE;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return -errno;
	/* Sockets without a peer, and those that are not AF_UNIX, succeed too: with pid 0 and this uid. */
	if (peer.uid == (uid_t) -1)
		return -ENOTCONN;
	size_t capacity = length - 4 > INT_MAX / sizeof *out ? INT_MAX / sizeof *out : length - 4;
	size = (socklen_t) (capacity * sizeof *out);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, out + 4, &size) < 0)
		return -errno;
	out[0] = peer.pid;
	out[1] = (int32_t) peer.uid;
	out[2] = (int32_t) peer.gid;
	out[3] = (int32_t) (size / sizeof *out);
	return out[3];
}

int os_pass_rights(int fd, bool on)
{
	return set_option(fd, SOL_SOCKET, SO_PASSRIGHTS, on);
}

int os_send_buffer(int fd, int bytes)
{
	/* The option tells the doubled value; what somebody has tuned higher stays. */
	int now = get_option(fd, SO_SNDBUF);
	if (now < 0)
		return now;
	return now / 2 < bytes ? set_option(fd, SOL_SOCKET, SO_SNDBUF, bytes) : 0;
}

int os_pass_credentials(int fd, bool on)
{
	return set_option(fd, SOL_SOCKET, SO_PASSCRED, on);
}

int os_pass_pidfd(int fd, bool on)
{
	return set_option(fd, SOL_SOCKET, SO_PASSPIDFD, on);
}

int os_name(int fd, bool peer, uint8_t *name, size_t capacity)
{
	struct sockaddr_un address;
	socklen_t size = sizeof address;
	if ((peer ? getpeername : getsockname)(fd, (struct sockaddr *) &address, &size) < 0)
		return -errno;
	if (address.sun_family != AF_UNIX)
		return -EAFNOSUPPORT;
	return os_copy_name(&address, size, name, capacity);
}

int os_copy_name(const struct sockaddr_un *address, size_t size, uint8_t *name, size_t capacity)
{
	size_t offset = offsetof(struct sockaddr_un, sun_path);
	size_t length = size > offset ? size - offset : 0;
	if (length > 0 && address->sun_path[0] != 0)
		length = strnlen(address->sun_path, length); /* the NUL at a path's end is counted, or not (unix(7)) */
	if (length > capacity)
		return -ERANGE;
	memcpy(name, address->sun_path, length);
	return (int) length;
}

int os_pending(int fd)
{
	int bytes = 0;
	return ioctl(fd, FIONREAD, &bytes) < 0 ? -errno : bytes;
}

int os_shutdown(int fd, int how)
{
	return outcome(shutdown(fd, how));
}

int os_pidfd(int pid)
{
	return outcome(syscall(SYS_pidfd_open, pid, 0));
}

int os_peer_pidfd(int fd)
{
	return get_option(fd, SO_PEERPIDFD);
}

int os_lock(int fd, bool on)
{
	return outcome(flock(fd, (on ? LOCK_EX : LOCK_UN) | LOCK_NB));
}

int os_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	return limit.rlim_cur > INT_MAX ? INT_MAX : (int) limit.rlim_cur;
}

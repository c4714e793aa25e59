/* AF_UNIX sockets (unix(7)): names, peers, and what they pass. */
#include "os.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "result.h"

#ifndef SO_PASSPIDFD /* Linux 6.5 */
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PEERPIDFD /* Linux 6.5 */
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS /* Linux 6.16 */
#define SO_PASSRIGHTS 83
#endif

int os_socketpair(int type, int32_t ends[2])
{
	return outcome(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends));
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

int os_copy_name(const struct sockaddr_un *address, size_t size, uint8_t *name, size_t capacity)
{
	size_t offset = offsetof(struct sockaddr_un, sun_path);
	size_t length = size > offset ? size - offset : 0;
	/* Linux counts a NUL behind a path for which there is no room: 109 for one of 108 bytes (unix(7), BUGS). */
	if (length > sizeof address->sun_path)
		length = sizeof address->sun_path;
	if (length > 0 && address->sun_path[0] != 0)
		length = strnlen(address->sun_path, length); /* the NUL at a path's end is counted, or not (unix(7)) */
	if (length > capacity)
		return -ERANGE;
	memcpy(name, address->sun_path, length);
	return (int) length;
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

int os_shutdown(int fd, int how)
{
	return outcome(shutdown(fd, how));
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

int os_peer_pidfd(int fd)
{
	return get_option(fd, SO_PEERPIDFD);
}

int os_pass_rights(int fd, bool on)
{
	return set_option(fd, SOL_SOCKET, SO_PASSRIGHTS, on);
}

int os_pass_credentials(int fd, bool on)
{
	return set_option(fd, SOL_SOCKET, SO_PASSCRED, on);
}

int os_pass_pidfd(int fd, bool on)
{
	return set_option(fd, SOL_SOCKET, SO_PASSPIDFD, on);
}

int os_send_buffer(int fd, int bytes)
{
	/* The option tells the doubled value; what somebody has tuned higher stays. */
	int now = get_option(fd, SO_SNDBUF);
	if (now < 0)
		return now;
	return now / 2 < bytes ? set_option(fd, SOL_SOCKET, SO_SNDBUF, bytes) : 0;
}

int os_pending(int fd)
{
	int bytes = 0;
	return ioctl(fd, FIONREAD, &bytes) < 0 ? -errno : bytes;
}

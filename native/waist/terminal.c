/* Pipes and terminals: descriptions that somebody else may share, so that their O_NONBLOCK isn't ours to set. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel.h"
#include "os.h"
#include "result.h"

enum { UNIX98_SLAVE_MAJOR = 136 }; /* Documentation/admin-guide/devices.txt of Linux */

int os_resize(int fd, int columns, int rows)
{
	if (columns < 0 || columns > UINT16_MAX || rows < 0 || rows > UINT16_MAX)
		return -EINVAL;
	struct winsize size = {.ws_col = (unsigned short) columns, .ws_row = (unsigned short) rows};
	return outcome(ioctl(fd, TIOCSWINSZ, &size));
}

int os_terminal_side(int fd)
{
	unsigned int number;
	if (ioctl(fd, TIOCGPTN, &number) == 0)
		return 1;
	return isatty(fd) ? 0 : -errno;
}

int os_status_flags(int fd)
{
	return outcome(fcntl(fd, F_GETFL));
}

int os_nonblocking(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return flags == wanted ? 0 : outcome(fcntl(fd, F_SETFL, wanted));
}

/* Whether RWF_NOWAIT works on pipes: since Linux 6.4. Not on those that have a name. */
static bool pipes_know_nowait(void)
{
	int32_t ends[2];
	uint8_t byte;
	if (os_pipe(ends) < 0)
		return false;
	bool knows = read_now(ends[0], &byte, 1) < 0 && errno == EAGAIN;
	os_close(ends[0]);
	os_close(ends[1]);
	return knows;
}

static bool is_same(int left, int right, bool terminal)
{
	unsigned int left_number, right_number;
	struct stat left_status, right_status;
	/* /dev/tty is another terminal for each session */
	if (terminal)
		return ioctl(left, TIOCGDEV, &left_number) == 0 && ioctl(right, TIOCGDEV, &right_number) == 0
			&& left_number == right_number;
	return fstat(left, &left_status) == 0 && fstat(right, &right_status) == 0
		&& left_status.st_dev == right_status.st_dev && left_status.st_ino == right_status.st_ino;
}

static int reopen_by(const char *path, int fd, int access, bool terminal)
{
	int opened = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (opened < 0)
		return -errno;
	int result = is_same(fd, opened, terminal) ? os_dup(opened) : -ENXIO;
	os_close(opened);
	return result;
}

int os_reopen(int fd)
{
	unsigned int number;
	struct statfs filesystem;
	char path[32];
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	bool terminal = isatty(fd);
	if (!terminal && fstatfs(fd, &filesystem) == 0 && filesystem.f_type == PIPEFS_MAGIC && pipes_know_nowait())
		return 0;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int result = reopen_by(path, fd, flags & O_ACCMODE, terminal);
	if (result < 0 && terminal && ioctl(fd, TIOCGDEV, &number) == 0 && major(number) == UNIX98_SLAVE_MAJOR) {
		snprintf(path, sizeof path, "/dev/pts/%u", minor(number));
		result = reopen_by(path, fd, flags & O_ACCMODE, terminal);
	}
	return result;
}

/* Whether the call would not wait: what RWF_NOWAIT says where the kernel has it for this kind of file. */
static int ready_now(int fd, short events)
{
	struct pollfd poller = {.fd = fd, .events = events};
	int ready = poll(&poller, 1, 0);
	if (ready < 0)
		return -errno;
	return ready == 0 ? -EAGAIN : (poller.revents & POLLNVAL) != 0 ? -EBADF : 0;
}

int os_read(int fd, uint8_t *bytes, size_t length)
{
	ssize_t result;
	do {
		result = read_now(fd, bytes, length);
		if (result < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM)) { /* EPERM: of a container's filter */
			int problem = ready_now(fd, POLLIN);
			if (problem < 0)
				return problem;
			result = read(fd, bytes, length);
		}
	} while (result < 0 && errno == EINTR);
	return outcome(result);
}

int os_write(int fd, const uint8_t *bytes, size_t length)
{
	ssize_t result;
	do {
		result = write_now(fd, bytes, length);
		if (result >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM))
			continue;
		int refused = errno == EPERM ? -EPERM : -EOPNOTSUPP; /* EPERM: of a container's filter, or a seal (memfd_create(2)) */
		int flags = fcntl(fd, F_GETFL), problem = flags < 0 ? -errno : 0;
		if (problem == 0 && (flags & O_NONBLOCK) == 0) {
			struct stat status;
			if (fstat(fd, &status) < 0 || !S_ISFIFO(status.st_mode))
				return refused;
			/* A pipe that is writable takes a page (pipe(7)). */
			problem = ready_now(fd, POLLOUT);
			length = length < PIPE_BUF ? length : PIPE_BUF;
		}
		if (problem < 0)
			return problem;
		result = write(fd, bytes, length);
	} while (result < 0 && errno == EINTR);
	return outcome(result);
}
